"""Counters meanwhile: one thread that reads all collectors at a steady rate and never disturbs the run.

The thread keeps off the measured CPUs whenever the machine has others. A collector that raises is marked and, after
three failures in a row, left alone; one that is slow gets at most a fifth of the thread's time, so that the others
stay on time. What went wrong stands in `warnings`, what it all took in `cost`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

from pytest_nriperf.collect.reading import why
from pytest_nriperf.seams import Collector, CounterRow, Target

FAILURES = 3
# After a sample that took d, a collector rests 4 d: a fifth of the thread's time.
REST = 4
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0


class Sampler:
    """Reads `collectors` at `hz` samples a second around the body of a `with`; then `rows`, `cost`, `warnings`.

    Entering returns when the readings before the run are taken, leaving when those after it are. `clock` gives
    CLOCK_MONOTONIC in nanoseconds; `wait` waits so many seconds and says whether the end has come.
    """

    def __init__(
        self,
        collectors: Sequence[Collector],
        target: Target,
        hz: float = 1.0,
        *,
        clock: Callable[[], int] = time.perf_counter_ns,
        wait: Callable[[float], bool] | None = None,
        stop_timeout_s: float = STOP_TIMEOUT_S,
    ) -> None:
        if not 0 < hz <= 1000:
            raise ValueError(f"{hz} samples a second is no rate")
        self.rows: list[CounterRow] = []
        self.cost: dict[str, float] = {}
        self.warnings: list[str] = []
        self._target = target
        self._interval_ns = round(1e9 / hz)
        self._clock = clock
        self._ending = threading.Event()
        self._started = threading.Event()
        self._wait = self._ending.wait if wait is None else wait
        self._stop_timeout_s = stop_timeout_s
        self._sources = [_Source(each, clock) for each in collectors]
        self._late_ns: list[int] = []
        self._apart = False
        self._cpu_ns = 0
        self._meanwhile_cpu_ns = 0
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Sampler:
        if self._sources:
            self._thread = threading.Thread(target=self._work, name="nriperf-sampler", daemon=True)
            self._thread.start()
            self._started.wait(START_TIMEOUT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join(self._stop_timeout_s)
            if self._thread.is_alive():
                stuck = ", ".join(source.name for source in self._sources if source.busy)
                self.warnings.append(f"collector {stuck}: did not come back in {self._stop_timeout_s:g} s")
            self._summarise()

    def drain(self) -> list[CounterRow]:
        """Take away what was read so far, also while sampling goes on: what is taken is not in `rows` afterwards."""
        return [row for source in self._sources for row in source.drain()]

    def _work(self) -> None:
        begin_cpu = time.thread_time_ns()
        begin = self._clock()
        self._apart = keep_apart(self._target)
        for source in self._sources:
            source.take(lambda each=source: each.collector.start(self._target))  # type: ignore[misc]
        self._started.set()
        meanwhile_cpu = time.thread_time_ns()
        due = self._clock() + self._interval_ns
        while not self._wait(max(0, due - self._clock()) / 1e9):
            self._late_ns.append(max(0, self._clock() - due))
            for source in self._sources:
                if source.alive:
                    source.sample()
            due += self._interval_ns * (1 + max(0, self._clock() - due) // self._interval_ns)
        self._meanwhile_cpu_ns = time.thread_time_ns() - meanwhile_cpu
        for source in self._sources:
            source.take(source.collector.stop)
        self._cpu_ns = time.thread_time_ns() - begin_cpu
        self.cost["sampler_wall_s"] = (self._clock() - begin) / 1e9

    def _summarise(self) -> None:
        for source in self._sources:
            self.rows.extend(source.drain())
            self.warnings.extend(f"collector {source.name}: {text}" for text in source.said())
            self.cost[f"collector_{source.name}_cpu_s"] = source.cpu_ns / 1e9
        late = sorted(self._late_ns)
        self.cost["sampler_cpu_s"] = self._cpu_ns / 1e9
        self.cost["sampler_meanwhile_cpu_s"] = self._meanwhile_cpu_ns / 1e9
        self.cost["sampler_samples"] = len(late)
        self.cost["sampler_apart"] = float(self._apart)
        if late:
            self.cost["sampler_late_median_s"] = late[len(late) // 2] / 1e9
            self.cost["sampler_late_max_s"] = late[-1] / 1e9


class _Source:
    """A collector with what it gave, what it cost and how it failed."""

    def __init__(self, collector: Collector, clock: Callable[[], int]) -> None:
        self.collector = collector
        self.name = collector.name
        self._rows: list[CounterRow] = []
        self.alive = True
        self.busy = False
        self._rests_until = 0
        self.cpu_ns = 0
        self._clock = clock
        self._in_a_row = 0
        self._failures: list[str] = []
        self._slowest_ns = 0
        self._samples = 0
        self._left_out = 0

    def take(self, reading: Callable[[], Iterable[CounterRow]]) -> None:
        """One reading; whatever it raises becomes a mark."""
        begin_cpu = time.thread_time_ns()
        self.busy = True
        found: list[CounterRow] = []
        try:
            found.extend(reading())
            self._in_a_row = 0
        except Exception as error:  # noqa: BLE001 - a counter source never ends a measurement
            self._in_a_row += 1
            self._failures.append(why(error))
            self.alive = self._in_a_row < FAILURES
        # At once and whole, so that another thread may take them away at any time.
        self._rows.extend(found)
        self.busy = False
        self.cpu_ns += time.thread_time_ns() - begin_cpu

    def sample(self) -> None:
        """One reading meanwhile, unless the collector still rests from a slow one."""
        self._samples += 1
        begin = self._clock()
        if begin < self._rests_until:
            self._left_out += 1
            return
        self.take(self.collector.sample)
        took = self._clock() - begin
        self._slowest_ns = max(self._slowest_ns, took)
        self._rests_until = begin + took + REST * took

    def drain(self) -> list[CounterRow]:
        """The readings so far, once."""
        taken = self._rows[:]
        del self._rows[: len(taken)]
        return taken

    def said(self) -> list[str]:
        """What has to be known about its readings."""
        notes = list(dict.fromkeys(getattr(self.collector, "notes", ())))
        if self._left_out:
            out = f"{self._left_out} of {self._samples} samples left out"
            notes.append(f"slow (up to {self._slowest_ns / 1e9:.2g} s a reading): {out}")
        if self._failures:
            count = len(self._failures)
            given_up = "" if self.alive else ", given up"
            notes.append(f"{count} reading{'s' if count > 1 else ''} failed{given_up} ({self._failures[-1]})")
        return notes


def keep_apart(target: Target) -> bool:
    """Bind the calling thread to CPUs that are not measured; False where there are none.

    Hidden siblings count as measured; only where nothing else is left does the thread go there.
    """
    allowed = os.sched_getaffinity(0)
    everywhere = set(range(os.cpu_count() or 1))
    allocated = {cpu for each in target.replicas for cpu in each.allocated}
    visible = {cpu for each in target.replicas for cpu in each.visible}
    if not allocated & allowed and not visible & allowed:
        return True
    for cpus in (allowed - allocated, everywhere - allocated, allowed - visible):
        if cpus:
            try:
                os.sched_setaffinity(0, cpus)
            except OSError:
                continue
            return not cpus & allocated
    return False
