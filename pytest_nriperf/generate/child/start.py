"""How a worker starts, and what it says first. Its host is at the other end of its standard input and output."""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from pytest_nriperf.generate.child import protocol
from pytest_nriperf.generate.child.worker import Worker

PIECE = 65536


def main(argv: list[str] | None = None) -> int:
    """Serve one host over standard input and output."""
    parser = argparse.ArgumentParser(
        prog="nriperf worker", description="Worker of pytest-nriperf, started by its host."
    )
    parser.add_argument("--silence", type=float, default=300.0, help="end after so many seconds without a word")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, target = keep_output()
    worker = Worker(protocol.Outbox(protocol.write_all(target)), target)
    _serve(worker, lambda: listen(worker, source, options.silence))
    return 0


def _serve(worker: Worker, listening: Callable[[], str]) -> None:
    """Work until the host is gone."""

    def read() -> None:
        reason = "the reader failed"
        try:
            reason = listening()
        finally:
            print(f"worker {os.getpid()}: {reason}, ending", file=sys.stderr, flush=True)
            os._exit(0)

    worker.hello(facts())
    threading.Thread(target=read, name="reader", daemon=True).start()
    worker.work()


def facts() -> dict[str, Any]:
    """What hello says: version, process, CPUs, clocks."""
    return {
        "protocol": protocol.VERSION,
        "pid": os.getpid(),
        "python": sys.version.split()[0],
        "cpus": sorted(os.sched_getaffinity(0)),
        "anchor": protocol.clock_anchor(),
        "clock_offset_ns": clock_offset_ns(),
    }


def clock_offset_ns() -> int:
    """By how much the monotonic clock of our time namespace is ahead of the machine's."""
    try:
        with open("/proc/self/timens_offsets") as file:
            for line in file:
                name, seconds, nanoseconds = line.split()
                if name in ("monotonic", "1"):
                    return int(seconds) * 1_000_000_000 + int(nanoseconds)
    except (OSError, ValueError):
        pass
    return 0


def listen(worker: Worker, descriptor: int, silence_s: float) -> str:
    """Give every message to the worker until the connection ends; why it ended."""
    lines = protocol.Lines()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while True:
        if not poll.poll(silence_s * 1000 if silence_s else None):
            return f"the host has been silent for {silence_s:g} s"
        try:
            piece = os.read(descriptor, PIECE)
        except OSError:
            piece = b""
        if not piece:
            return "the host is gone"
        _take(worker, lines, piece)


def _take(worker: Worker, lines: protocol.Lines, piece: bytes) -> None:
    try:
        for line in lines.feed(piece):
            worker.take(protocol.decode(line))
    except (protocol.ProtocolError, KeyError, TypeError, ValueError) as error:
        worker.outbox.send("reply", id=0, error={"kind": "worker", "fact": f"bad message: {error}"})


def keep_output() -> list[int]:
    """Take standard input and output away from everybody else: what libraries print goes to standard error."""
    kept = [os.dup(0), os.dup(1)]
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return kept
