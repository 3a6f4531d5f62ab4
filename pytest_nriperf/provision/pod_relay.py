"""Keeps a worker in a pod while the connection to it breaks: one file, standard library only, Python 3.9 or newer.

    run FOLDER NAME ARCHIVE     start a worker that outlives this connection, then attach to it
    attach FOLDER NAME          speak with it again

Ending an exec does not end what it started, and its pipes cannot be reached again: so a relay keeps the worker behind a
socket. It numbers lines in both directions and keeps them until the other side has them, so that a dropped connection
loses nothing; without a host for `gone_s` seconds it ends the worker.

`run` reads one JSON line first: python, arguments, environment, memory ("", bind, interleave), nodes, gone_s.

    host -> relay:  c HAVE | d N LINE | a N | q GRACE
    relay -> host:  h HAVE PID | d N LINE | x N JSON | a N

JSON of the end: status, tail (last words), kills (the kernel's for lack of memory in this container meanwhile, absent
where it counts none), limit_reached and limit (bytes, null without one).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import platform
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

PIECE = 65536
TAIL = 4096
# Where a container finds the counters of its own memory cgroup: kills and limit, with version 2 and with version 1, and
# how often the limit was reached.
MEMORY_GROUPS = (
    ("/sys/fs/cgroup", "memory.events", "memory.max", "memory.events.local"),
    ("/sys/fs/cgroup/memory", "memory.oom_control", "memory.limit_in_bytes", "memory.failcnt"),
)
# set_mempolicy(2): number by machine, modes of <linux/mempolicy.h>.
SYSTEM_CALL = {"x86_64": 238, "aarch64": 237, "riscv64": 237, "ppc64le": 261, "s390x": 270}
MODES = {"bind": 2, "interleave": 3}
NO_WORKER = 4
# What a shell says of a program that is not there.
NOT_FOUND = 127
NO_MEMORY_POLICY = 77


def run(folder: str, name: str, archive: str) -> int:
    """Start the relay in the background and attach to it; when it has been started before, only attach."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return 1
        line += byte
    launch = json.loads(line)
    address = os.path.join(folder, name + ".sock")
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        # The connection that started it broke before it could be told.
        return attach(folder, name)
    listener.listen(4)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            try:
                _into_background(os.path.join(folder, name + ".relay"))
                Relay(listener, folder, name, archive, launch).serve()
            except BaseException:  # noqa: BLE001 - into the log, nobody else is here
                traceback.print_exc()
            finally:
                os._exit(0)
        os._exit(0)
    listener.close()
    os.wait()
    return attach(folder, name)


def _into_background(log: str) -> None:
    descriptor = os.open(log, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def attach(folder: str, name: str) -> int:
    """Carry bytes between standard input and output and the relay, until either ends."""
    link = socket.socket(socket.AF_UNIX)
    try:
        link.connect(os.path.join(folder, name + ".sock"))
    except OSError as error:
        print(f"no worker {name} here: {error}", file=sys.stderr, flush=True)
        return NO_WORKER
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.register(link.fileno(), select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            try:
                piece = os.read(descriptor, PIECE)
                if not piece:
                    return 0
                if descriptor == 0:
                    link.sendall(piece)
                else:
                    _write_all(1, piece)
            except OSError:
                return 0


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def memory_counters() -> tuple[int, int, int | None] | None:
    """Kills for lack of memory in this container, how often its limit was reached, and the limit (bytes, None without
    one); None where the kernel does not tell. Source: the kernel's cgroup-v2.rst and cgroup-v1/memory.rst."""
    for folder, events, limit, reached in MEMORY_GROUPS:
        kills = _counted(os.path.join(folder, events), "oom_kill")
        if kills is not None:
            most = _counted(os.path.join(folder, limit), "")
            times = _counted(os.path.join(folder, reached), "oom" if events == "memory.events" else "")
            # Version 1 says "no limit" with the largest number of whole pages.
            return kills, times or 0, most if most is not None and most < 1 << 60 else None
    return None


def _counted(path: str, name: str) -> int | None:
    """The number behind a name in a file of lines, or alone in one; None when it is not there."""
    with contextlib.suppress(OSError, ValueError), open(path) as file:
        for line in file:
            *before, value = line.split()
            if before == ([name] if name else []):
                return int(value)
    return None


class Relay:
    """Keeps one worker. All in one thread: nothing here runs while nothing is said."""

    def __init__(self, listener: socket.socket, folder: str, name: str, archive: str, launch: dict[str, Any]) -> None:
        self.listener = listener
        self.address, self.error_path, self.log = (
            os.path.join(folder, name + end) for end in (".sock", ".err", ".relay")
        )
        self.archive = archive
        self.launch = launch
        self.kept: deque[tuple[int, bytes]] = deque()
        self.number = 0
        self.have = 0
        self.client: socket.socket | None = None
        self.heard = time.monotonic()
        self.rest = b""
        self.partial = b""
        self.to_client = bytearray()
        self.to_worker = bytearray()
        self.closing = False
        self.done = False
        self.kill_at: list[tuple[float, int]] = []
        self.pid = 0

    def serve(self) -> None:
        """Until the worker has ended and the host knows it, or nobody comes for it."""
        try:
            self._start()
        except OSError as error:
            self.done = True
            self._keep(b"x", json.dumps({"status": NOT_FOUND, "tail": str(error)}).encode())
        self.listener.setblocking(False)
        while not (self.done and not self.kept):
            self._step()
            if time.monotonic() - self.heard > self.launch["gone_s"]:
                self._end()
                break
        for path in (self.address, self.error_path, self.log):
            os.unlink(path)

    def _start(self) -> None:
        self.memory = memory_counters()
        with open(self.error_path, "wb") as errors:
            self.worker = subprocess.Popen(
                [self.launch.get("python") or sys.executable, self.archive, *self.launch["arguments"]],
                env={**os.environ, **self.launch["environment"]},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                preexec_fn=self._bind_memory,
            )
        assert self.worker.stdin is not None
        assert self.worker.stdout is not None
        self.input, self.output = self.worker.stdin.fileno(), self.worker.stdout.fileno()
        for descriptor in (self.input, self.output):
            os.set_blocking(descriptor, False)
        self.pid = self.worker.pid

    def _bind_memory(self) -> None:
        mode = self.launch.get("memory", "")
        if mode not in MODES:
            return
        nodes = self.launch["nodes"]
        mask = sum(1 << node for node in nodes)
        words = max(nodes) // 64 + 1
        values = [(mask >> (64 * word)) & (2**64 - 1) for word in range(words)]
        # The kernel reads one bit less than it is told, hence the extra word.
        buffer = (ctypes.c_uint64 * (words + 1))(*values)
        library = ctypes.CDLL(None, use_errno=True)
        number = SYSTEM_CALL.get(platform.machine(), -1)
        if library.syscall(number, MODES[mode], buffer, ctypes.c_ulong(64 * words + 1)) != 0:
            text = f"set_mempolicy: {os.strerror(ctypes.get_errno())}\n"
            os.write(2, text.encode())
            os._exit(NO_MEMORY_POLICY)

    def _step(self) -> None:
        poll = select.poll()
        poll.register(self.listener.fileno(), select.POLLIN)
        if self.client is not None:
            poll.register(self.client.fileno(), select.POLLIN | (select.POLLOUT if self.to_client else 0))
        if not self.done:
            poll.register(self.output, select.POLLIN)
            if self.to_worker and not self.closing:
                poll.register(self.input, select.POLLOUT)
        for descriptor, event in poll.poll(self._patience_ms()):
            if descriptor == self.listener.fileno():
                self._accept()
            elif self.client is not None and descriptor == self.client.fileno():
                self._serve_client(event)
            elif descriptor == self.output:
                self._read_worker()
            elif descriptor == self.input:
                self.to_worker = self._push(self.input, self.to_worker)
        self._insist()

    def _patience_ms(self) -> float:
        moments = [self.heard + self.launch["gone_s"]] + [moment for moment, _ in self.kill_at]
        return float(max(0.0, min(moments) - time.monotonic()) * 1000 + 1)

    def _accept(self) -> None:
        link, _ = self.listener.accept()
        link.setblocking(False)
        self._drop()
        self.client, self.heard = link, time.monotonic()

    def _drop(self) -> None:
        if self.client is not None:
            self.client.close()
        self.client, self.rest = None, b""
        self.to_client = bytearray()

    def _serve_client(self, event: int) -> None:
        assert self.client is not None
        try:
            if event & select.POLLOUT:
                self.to_client = self._push(self.client.fileno(), self.to_client)
            if event & ~select.POLLOUT:
                piece = self.client.recv(PIECE)
                if not piece:
                    self._drop()
                    return
                self.heard = time.monotonic()
                *lines, self.rest = (self.rest + piece).split(b"\n")
                for line in lines:
                    self._take(line)
        except BlockingIOError:
            pass
        except OSError:
            self._drop()

    def _take(self, line: bytes) -> None:
        kind, _, rest = line.partition(b" ")
        if kind == b"d":
            number, _, text = rest.partition(b" ")
            if int(number) == self.have + 1:
                self.have += 1
                self.to_worker += text + b"\n"
            self._say(b"a %d\n" % self.have)
        elif kind == b"a":
            self._forget(int(rest))
        elif kind == b"c":
            self._forget(int(rest))
            self._say(b"h %d %d\n" % (self.have, self.pid))
            for _, frame in self.kept:
                self._say(frame)
        elif kind == b"q":
            self._close(float(rest))

    def _forget(self, number: int) -> None:
        while self.kept and self.kept[0][0] <= number:
            self.kept.popleft()

    def _say(self, frame: bytes) -> None:
        if self.client is not None:
            self.to_client += frame

    def _keep(self, kind: bytes, text: bytes) -> None:
        self.number += 1
        frame = b"%s %d %s\n" % (kind, self.number, text)
        self.kept.append((self.number, frame))
        self._say(frame)

    def _read_worker(self) -> None:
        try:
            piece = os.read(self.output, PIECE)
        except BlockingIOError:
            return
        *lines, self.partial = (self.partial + piece).split(b"\n")
        for line in lines:
            self._keep(b"d", line)
        if not piece:
            status = self.worker.wait()
            self._kill_group()
            self.kill_at = []
            self.done = True
            self._keep(b"x", json.dumps({"status": status, "tail": self._tail(), **self._memory_kills()}).encode())

    def _memory_kills(self) -> dict[str, Any]:
        now = memory_counters()
        # One that we had to end ourselves says nothing of memory.
        if self.memory is None or now is None or self.closing:
            return {}
        kills, reached = now[0] - self.memory[0], now[1] > self.memory[1]
        return {"kills": kills, "limit_reached": reached, "limit": now[2]}

    def _close(self, grace: float) -> None:
        if self.closing or self.done:
            return
        self.closing = True
        assert self.worker.stdin is not None
        with contextlib.suppress(OSError):
            self.worker.stdin.close()
        now = time.monotonic()
        self.kill_at = [(now + grace, signal.SIGTERM), (now + 2 * grace, signal.SIGKILL)]

    def _insist(self) -> None:
        while self.kill_at and time.monotonic() >= self.kill_at[0][0]:
            _, number = self.kill_at.pop(0)
            with contextlib.suppress(OSError):
                os.killpg(self.worker.pid, number)

    def _end(self) -> None:
        if not self.done:
            self._kill_group()
            self.worker.wait()

    def _kill_group(self) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self.worker.pid, signal.SIGKILL)

    def _tail(self) -> str:
        with open(self.error_path, "rb") as file:
            file.seek(max(0, os.path.getsize(self.error_path) - TAIL))
            return file.read().decode("utf-8", "replace").strip()

    @staticmethod
    def _push(descriptor: int, data: bytearray) -> bytearray:
        try:
            return data[os.write(descriptor, data[:PIECE]) :]
        except BlockingIOError:
            return data
        except OSError:
            return bytearray()


if __name__ == "__main__":
    commands: dict[str, Callable[..., int]] = {"run": run, "attach": attach}
    sys.exit(commands[sys.argv[1]](*sys.argv[2:]))
