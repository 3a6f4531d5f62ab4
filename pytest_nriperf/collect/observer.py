"""Runs on a node whose session is elsewhere: the collectors and the sampler as they are, readings sent each second.

Started afresh for each run, so that a lost one costs one run's counters. Ends with its input.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable
from typing import Any

from pytest_nriperf.collect.health import counter_facts
from pytest_nriperf.collect.host_pids import on_the_node
from pytest_nriperf.collect.sampler import Sampler
from pytest_nriperf.collect.select import choose, make
from pytest_nriperf.collect.wire import Message, decode, encode, row_messages, target_of
from pytest_nriperf.errors import CollectorError, UsageError
from pytest_nriperf.seams import Target, TargetReplica
from pytest_nriperf.units import format_cpus

SEND_EVERY_S = 1.0
# A connection on which nothing is said for longer counts as dead.
BEAT_S = 5.0

Say = Callable[..., None]


def main() -> int:
    """Serve one request of standard input."""
    lines = _Lines()
    line = lines.next(None)
    if line:
        serve(decode(line), say, lines.next)
    return 0


def say(kind: str, **fields: Any) -> None:
    """A message on standard output."""
    view = memoryview(encode({"type": kind, **fields}))
    while view:
        view = view[os.write(1, view) :]


def serve(request: Message, answer: Say, next_line: Callable[[float | None], bytes | None]) -> None:
    """Answer one request. `next_line(seconds)` is the next line: empty at the end, None when the time is over."""
    if request["op"] == "choose":
        _choose(request, answer)
    elif request["op"] == "health":
        answer("health", facts=counter_facts(request["pcm"], hidden=bool(request["hidden"])))
    else:
        _sample(request, answer, next_line)


def _choose(request: Message, answer: Say) -> None:
    try:
        chosen, line = choose(request["collect"], pcm_url=request["pcm"], hidden=request["hidden"])
    except (UsageError, CollectorError) as error:
        answer("refused", usage=isinstance(error, UsageError), fact=error.fact, next_step=error.next_step)
    else:
        answer("chosen", names=[each.name for each in chosen], line=line)


def _sample(request: Message, answer: Say, next_line: Callable[[float | None], bytes | None]) -> None:
    asked = target_of(request["target"])
    notes = _inside(asked)
    target = _seen(asked, bool(request["hidden"]), notes)
    sampler = Sampler(make(request["collectors"], request["pcm"]), target, request["hz"])
    spoke = time.monotonic()
    with sampler:
        answer("started")
        while next_line(SEND_EVERY_S) is None:
            for message in row_messages(sampler.drain()):
                spoke = time.monotonic()
                answer(message["type"], data=message["data"])
            if time.monotonic() - spoke > BEAT_S:
                spoke = time.monotonic()
                answer("beat")
    for message in row_messages(sampler.rows):
        answer(message["type"], data=message["data"])
    cost = {**sampler.cost, "observer_cpu_s": time.process_time()}
    answer("stopped", cost=cost, warnings=[*notes, *sampler.warnings])


def _inside(target: Target) -> list[str]:
    """What is wrong with where this process itself may run."""
    shared = os.sched_getaffinity(0) & frozenset().union(*(replica.allocated for replica in target.replicas))
    if not shared:
        return []
    return [
        f"observer: it may itself run on CPUs {format_cpus(shared)}, which are measured: its pod is not pinned to the "
        "reserved balloon"
    ]


def _seen(target: Target, hidden: bool, notes: list[str]) -> Target:
    """The target as this process may watch it."""
    if not hidden:
        return on_the_node(target, notes)
    replicas = tuple(TargetReplica(one.replica, None, one.allocated, one.visible) for one in target.replicas)
    return Target(replicas, target.socket_of_cpu, target.node_of_cpu)


class _Lines:
    """Lines of standard input, with a limit of time."""

    def __init__(self) -> None:
        self._rest = b""
        self._poll = select.poll()
        self._poll.register(0, select.POLLIN)

    def next(self, seconds: float | None) -> bytes | None:
        """The next line, empty at the end, None when the time is over first."""
        end = None if seconds is None else time.monotonic() + seconds
        while b"\n" not in self._rest:
            left = None if end is None else max(0.0, end - time.monotonic()) * 1000
            if not self._poll.poll(left):
                return None
            piece = os.read(0, 65536)
            if not piece:
                return b""
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line


if __name__ == "__main__":
    sys.exit(main())
