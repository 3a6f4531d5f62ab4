"""The `perf` collector: events of the measured tasks, and of memory controllers and energy meters where permitted.

An event counts for every task of every replica, or it is left out and said: a sum over some tasks would be nonsense,
and so would a ratio of events that count different ones.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from pytest_nriperf.collect.perf_event import CACHE, HARDWARE, SOFTWARE, Counter, Event, open_event, refusal
from pytest_nriperf.collect.reading import Files
from pytest_nriperf.collect.uncore import UncoreEvent, find_uncore
from pytest_nriperf.seams import Availability, CounterRow, Target

SOURCE = "perf"

# In the order of worth: where descriptors run out, the last ones go. Numbers: include/uapi/linux/perf_event.h.
EVENTS: dict[str, Event] = {
    "cycles": Event(HARDWARE, 0),
    "instructions": Event(HARDWARE, 1),
    "cpu_migrations": Event(SOFTWARE, 4),
    "context_switches": Event(SOFTWARE, 3),
    "page_faults": Event(SOFTWARE, 2),
    "reference_cycles": Event(HARDWARE, 9),
    "last_level_loads": Event(CACHE, 2),
    "last_level_load_misses": Event(CACHE, 2 | 1 << 16),
}
# What happens inside the kernel: an event for user space alone never sees it.
IN_KERNEL = ("cpu_migrations", "context_switches")
# Before the name of an event that may not be counted inside the kernel: another quantity, and another name.
USER_SPACE = "user_"

_ABSENT = (errno.ENOENT, errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL)

Opener = Callable[..., int]


class PerfCollector:
    """Events per task of each replica, summed; memory traffic and energy per socket."""

    name = SOURCE

    def __init__(
        self, root: str = "", *, clock: Callable[[], int] = time.perf_counter_ns, opener: Opener = open_event
    ) -> None:
        self.notes: list[str] = []
        self._files = Files(root)
        self._clock = clock
        self._open_event = opener
        self._target = Target(())
        self._counters: dict[tuple[str, int], list[Counter]] = {}
        self._uncore: list[tuple[UncoreEvent, Counter]] = []

    def probe(self) -> Availability:
        """Open every event once for this process, and close it."""
        gives: list[str] = []
        missing: dict[str, list[str]] = {}
        limited: dict[str, list[str]] = {}
        for name, event in EVENTS.items():
            try:
                descriptor, refused = self._opened(name, event, os.getpid())
            except OSError as error:
                missing.setdefault(refusal(error, self._files), []).append(name)
                continue
            os.close(descriptor)
            gives.append(name)
            if refused is not None:
                limited.setdefault(refusal(refused, self._files), []).append(name)
        for reason, names in limited.items():
            missing.setdefault(reason, []).append(f"the kernel's part of {_together(names)}")
        for each in find_uncore(self._files):
            try:
                os.close(self._open_event(each.event, -1, each.cpu))
                gives.append(each.name)
            except OSError as error:
                missing.setdefault(refusal(error, self._files), []).append(each.name)
        told = [f"{_together(names)} ({why})" for why, names in missing.items()]
        return Availability(bool(gives), tuple(dict.fromkeys(gives)), tuple(told))

    def start(self, target: Target) -> Iterable[CounterRow]:
        """Open everything, first readings."""
        self.notes = []
        self._target = target
        for name, event in EVENTS.items():
            self._open(name, event)
        for uncore in find_uncore(self._files):
            try:
                self._uncore.append((uncore, Counter(self._open_event(uncore.event, -1, uncore.cpu))))
            except OSError as error:
                self._drop_uncore(uncore.name, refusal(error, self._files))
        return self.sample()

    def sample(self) -> Iterable[CounterRow]:
        """One reading of every event."""
        return [*self._task_rows(), *self._uncore_rows()]

    def stop(self) -> Iterable[CounterRow]:
        """The last readings; closes everything."""
        try:
            rows = list(self.sample())
            shared = sorted({name for (name, _), counters in self._counters.items() if any(c.shared for c in counters)})
            if shared:
                self._note(f"{', '.join(shared)} shared their counters with others and are scaled up")
            return rows
        finally:
            for counter in [*(c for each in self._counters.values() for c in each), *(c for _, c in self._uncore)]:
                counter.close()
            self._counters, self._uncore = {}, []

    def _open(self, name: str, event: Event) -> None:
        """Open one event on all tasks of all replicas, or on none."""
        opened: dict[int, list[Counter]] = {}
        limited = False
        try:
            for replica in self._target.replicas:
                tasks = () if replica.pid is None else self._files.names(f"/proc/{replica.pid}/task")
                counters = opened.setdefault(replica.replica, [])
                for task in tasks:
                    try:
                        descriptor, refused = self._opened(name, event, int(task))
                    except ProcessLookupError:
                        continue
                    counters.append(Counter(descriptor))
                    limited |= refused is not None
        except OSError as error:
            for counter in chain.from_iterable(opened.values()):
                counter.close()
            # What the machine never had, `probe` has said.
            if error.errno not in _ABSENT:
                self._note(f"no {name} ({refusal(error, self._files)})")
            return
        told = f"{USER_SPACE}{name}" if limited else name
        self._counters.update({(told, replica): counters for replica, counters in opened.items() if counters})

    def _opened(self, name: str, event: Event, task: int) -> tuple[int, OSError | None]:
        """A descriptor of a task's event, and why it counts in user space only, if it does."""
        try:
            return self._open_event(event, task, -1), None
        except PermissionError as error:
            if name in IN_KERNEL:
                raise
            return self._open_event(event, task, -1, user_only=True), error

    def _task_rows(self) -> Iterator[CounterRow]:
        """Of every replica or of none: what has no counter on one of them is left out on all."""
        read: dict[tuple[str, int], tuple[int, int]] = {}
        for key, counters in self._counters.items():
            read[key] = sum(counter.read() for counter in counters), self._clock()
        waiting = {name for (name, _), counters in self._counters.items() if any(each.waiting for each in counters)}
        for name in sorted(waiting):
            self._note(f"{name}: no counter was free for it (the NMI watchdog or another tool holds them)")
        for (name, replica), (total, now) in read.items():
            if name not in waiting:
                yield CounterRow(now, now, SOURCE, name, "cumulative", total, "", replica=replica)

    def _uncore_rows(self) -> Iterator[CounterRow]:
        """Sums over the units of a socket."""
        sums: dict[tuple[str, str, int], float] = {}
        for uncore, counter in self._uncore:
            key = (uncore.name, uncore.unit, uncore.socket)
            sums[key] = sums.get(key, 0) + counter.read() * uncore.scale
        now = self._clock()
        for (name, unit, socket), value in sums.items():
            exact = int(value) if unit == "B" else value
            yield CounterRow(now, now, SOURCE, name, "cumulative", exact, unit, socket=socket)

    def _drop_uncore(self, name: str, reason: str) -> None:
        for uncore, counter in self._uncore:
            if uncore.name == name:
                counter.close()
        self._uncore = [(uncore, counter) for uncore, counter in self._uncore if uncore.name != name]
        self._note(f"no {name} ({reason})")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _together(names: list[str]) -> str:
    """Names once each, all hardware events as one."""
    hardware = [name for name, event in EVENTS.items() if event.type != SOFTWARE]
    if set(hardware) <= set(names):
        names = ["hardware events", *(name for name in names if name not in hardware)]
    return ", ".join(dict.fromkeys(names))
