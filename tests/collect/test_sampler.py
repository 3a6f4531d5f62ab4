"""The sampler reads at a steady rate, apart from what is measured, and outlives every collector's failure."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable

import pytest

from pytest_nriperf.collect.sampler import FAILURES, Sampler, keep_apart
from pytest_nriperf.errors import CollectorError
from pytest_nriperf.seams import Availability, CounterRow, Target, TargetReplica

NOBODY = Target(())


class Clock:
    """Moves when told; `wait` moves it and ends after so many ticks."""

    def __init__(self, ticks: int = 5) -> None:
        self.now_ns = 1_000_000_000
        self.ticks = ticks
        self.over = threading.Event()

    def __call__(self) -> int:
        return self.now_ns

    def wait(self, seconds: float) -> bool:
        self.now_ns += round(seconds * 1e9)
        self.ticks -= 1
        if self.ticks < 0:
            self.over.set()
        return self.ticks < 0


class Source:
    """A collector whose behaviour at each sample is given."""

    def __init__(self, clock: Clock, behave: Callable[[int], None] = lambda _: None, name: str = "source") -> None:
        self.name = name
        self.notes: list[str] = []
        self.calls: list[str] = []
        self.affinity: set[int] = set()
        self._clock = clock
        self._behave = behave

    def probe(self) -> Availability:
        return Availability(True)

    def start(self, target: Target) -> Iterable[CounterRow]:
        self.affinity = os.sched_getaffinity(0)
        return self._call("start")

    def sample(self) -> Iterable[CounterRow]:
        self._behave(self.calls.count("sample"))
        return self._call("sample")

    def stop(self) -> Iterable[CounterRow]:
        return self._call("stop")

    def _call(self, what: str) -> Iterable[CounterRow]:
        self.calls.append(what)
        now = self._clock()
        return [CounterRow(now, now, self.name, "count", "cumulative", len(self.calls), "")]


def sampled(clock: Clock, *sources: Source, hz: float = 1.0, target: Target = NOBODY) -> Sampler:
    with Sampler(sources, target, hz, clock=clock, wait=clock.wait) as sampler:
        clock.over.wait(10)
    return sampler


def test_samples_come_at_the_asked_rate_between_a_reading_before_and_one_after() -> None:
    clock = Clock(ticks=4)
    source = Source(clock)
    sampler = sampled(clock, source, hz=2)
    assert source.calls == ["start", *["sample"] * 4, "stop"]
    stamps = [row.t_ns for row in sampler.rows]
    assert [later - earlier for earlier, later in itertools.pairwise(stamps)] == [500_000_000] * 5
    assert sampler.cost["sampler_samples"] == 4
    assert sampler.cost["sampler_late_max_s"] == 0
    assert sampler.warnings == []


def test_what_the_readings_before_and_after_take_is_told_from_what_the_run_suffers() -> None:
    def work() -> None:
        deadline = time.thread_time_ns() + 5_000_000
        while time.thread_time_ns() < deadline:
            pass

    clock = Clock(ticks=2)
    idle = Source(clock)
    idle.start = lambda _: work() or []  # type: ignore[method-assign,assignment,func-returns-value]
    around = sampled(clock, idle).cost
    assert around["sampler_cpu_s"] > 0.005 > around["sampler_meanwhile_cpu_s"] + 0.001
    clock = Clock(ticks=2)
    meanwhile = sampled(clock, Source(clock, lambda _: work())).cost
    assert meanwhile["sampler_cpu_s"] >= meanwhile["sampler_meanwhile_cpu_s"] > 0.01


def test_a_collector_that_fails_is_marked_and_the_others_go_on() -> None:
    clock = Clock(ticks=6)

    def fail(_: int) -> None:
        raise CollectorError("the server is gone")

    broken, sound = Source(clock, fail, "broken"), Source(clock)
    sampler = sampled(clock, broken, sound)
    assert sound.calls.count("sample") == 6
    assert broken.calls == ["start", "stop"]
    assert sampler.warnings == [f"collector broken: {FAILURES} readings failed, given up (the server is gone)"]


def test_a_collector_that_recovers_is_kept_and_its_gap_is_said() -> None:
    clock = Clock(ticks=5)
    times: list[None] = []

    def fail_once(_: int) -> None:
        times.append(None)
        if len(times) == 2:
            raise ValueError("strange")

    source = Source(clock, fail_once)
    sampler = sampled(clock, source)
    assert source.calls.count("sample") == 4
    assert sampler.warnings == ["collector source: 1 reading failed (ValueError: strange)"]


def test_a_slow_collector_gets_a_fifth_of_the_time_and_the_others_stay_on_time() -> None:
    clock = Clock(ticks=12)

    def dawdle(_: int) -> None:
        clock.now_ns += 1_000_000_000

    slow, quick = Source(clock, dawdle, "slow"), Source(clock, name="quick")
    sampler = sampled(clock, slow, quick)
    assert slow.calls.count("sample") == 3
    assert quick.calls.count("sample") == 12
    assert sampler.warnings == ["collector slow: slow (up to 1 s a reading): 9 of 12 samples left out"]
    assert "collector_slow_cpu_s" in sampler.cost


def test_a_reading_before_the_run_that_takes_long_costs_no_sample_of_it() -> None:
    clock = Clock(ticks=3)
    source = Source(clock)
    start = source.start

    def walk_pages(target: Target) -> Iterable[CounterRow]:
        clock.now_ns += 3_000_000_000
        return start(target)

    source.start = walk_pages  # type: ignore[method-assign]
    sampler = sampled(clock, source)
    assert source.calls == ["start", *["sample"] * 3, "stop"]
    assert sampler.warnings == []


def test_ticks_that_were_missed_are_not_made_up_for_and_lateness_is_recorded() -> None:
    clock = Clock(ticks=3)

    def pause(number: int) -> None:
        if number == 0:
            clock.now_ns += 2_500_000_000

    first, second = Source(clock, pause), Source(clock)
    sampler = sampled(clock, first, second)
    stamps = [row.t_ns / 1e9 for row in sampler.rows if row.value and row.source == "source"]
    assert second.calls.count("sample") == 3
    assert max(stamps) >= 6


def test_what_a_collector_notes_is_passed_on_once() -> None:
    clock = Clock(ticks=2)
    source = Source(clock)
    source.notes = ["no pages", "no pages"]
    assert sampled(clock, source).warnings == ["collector source: no pages"]


def test_a_collector_that_does_not_come_back_is_named_and_does_not_hold_the_run() -> None:
    clock = Clock(ticks=5)
    released, entered = threading.Event(), threading.Event()

    def hang(_: int) -> None:
        entered.set()
        released.wait(30)

    source = Source(clock, hang, "stuck")
    with Sampler([source], NOBODY, clock=clock, wait=clock.wait, stop_timeout_s=0.01) as sampler:
        entered.wait(10)
    released.set()
    assert sampler.warnings == ["collector stuck: did not come back in 0.01 s"]


def test_without_collectors_there_is_no_thread() -> None:
    before = threading.active_count()
    with Sampler([], NOBODY) as sampler:
        assert threading.active_count() == before
    assert (sampler.rows, sampler.cost) == ([], {})


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs 2 CPUs")
def test_the_sampler_keeps_off_the_measured_cpus_and_leaves_its_caller_alone() -> None:
    before = os.sched_getaffinity(0)
    measured = frozenset({min(before)})
    clock = Clock(ticks=1)
    source = Source(clock)
    sampler = sampled(clock, source, target=Target((TargetReplica(0, None, measured, measured),)))
    assert source.affinity == before - measured
    assert sampler.cost["sampler_apart"] == 1
    assert os.sched_getaffinity(0) == before


def test_where_every_cpu_is_measured_the_sampler_says_that_it_is_not_apart() -> None:
    everything = frozenset(range(os.cpu_count() or 1))
    before = os.sched_getaffinity(0)
    assert not keep_apart(Target((TargetReplica(0, None, everything, everything),)))
    assert os.sched_getaffinity(0) == before
