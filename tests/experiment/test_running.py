"""Sides of a duet: they meet when all are warm, none waits for one that failed, each keeps its own readings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.collect.proc import ProcCollector
from pytest_nriperf.collect.sampler import Sampler
from pytest_nriperf.errors import WorkerError
from pytest_nriperf.experiment.running import crowded, overlap, own_rows, side_by_side
from pytest_nriperf.generate.models import parse_model
from pytest_nriperf.generate.process import WorkerGenerator
from pytest_nriperf.provision.local import LocalProvisioner
from pytest_nriperf.seams import CounterRow, Prompt, RequestRow, RunData, Target, TargetReplica, TokenEvents, Work

Side = Callable[[Callable[[], None]], RunData]


def side(name: str, log: list[str], *, fails: bool = False) -> Side:
    def measure(meet: Callable[[], None]) -> RunData:
        log.append(f"{name} warm")
        if fails:
            raise WorkerError(f"{name} died")
        meet()
        log.append(f"{name} measured")
        return RunData([], TokenEvents(), warnings=[name])

    return measure


def test_no_side_is_measured_before_all_are_warm() -> None:
    log: list[str] = []
    data = side_by_side([side("a", log), side("b", log)])
    assert [each.warnings for each in data] == [["a"], ["b"]]
    assert sorted(log[:2]) == ["a warm", "b warm"]
    assert sorted(log[2:]) == ["a measured", "b measured"]


def test_a_side_that_dies_is_told_and_leaves_nobody_waiting() -> None:
    log: list[str] = []
    with pytest.raises(WorkerError, match="b died"):
        side_by_side([side("a", log), side("b", log, fails=True)])
    assert "a measured" in log


def tasks(replica: int, times_ms: list[tuple[int | None, int]]) -> list[CounterRow]:
    """Before and after: on-CPU times of tasks; one that has begun meanwhile has no time before."""
    rows = []
    for number, (before, after) in enumerate(times_ms):
        for t_ns, value in ((1, before), (10**9, after)):
            if value is not None:
                row = CounterRow(t_ns, t_ns, "proc", "task_on_cpu_time", "cumulative", value * 10**6, "ns")
                rows.append(row._replace(replica=replica, pid=100 * replica + number))
    return rows


def test_more_threads_that_compute_than_cpus_are_told_whatever_the_engine_says() -> None:
    idle: list[tuple[int | None, int]] = [(5000, 5001)] * 20
    working: list[tuple[int | None, int]] = [(0, 900)] * 3 + [(None, 800)] * 3
    rows = tasks(0, [*working, *idle]) + tasks(1, [*working[:3], *idle])
    (warning,) = crowded(rows, [2, 2])
    assert warning.startswith("replica 0: 6 threads computed on the 2 CPUs that its balloon shows")
    assert list(crowded(rows, [2, 2], concurrency=4)) == []
    assert list(crowded([], [2])) == []


def test_a_library_that_starts_a_thread_for_each_cpu_is_seen_on_this_machine() -> None:
    with (
        LocalProvisioner().provision(BalloonSpec(cpus=1, hyperthreads="spread")) as grant,
        contextlib.closing(WorkerGenerator(parse_model("sim:itl=20ms,fail=crowd"))) as generator,
    ):
        (info,) = generator.load(grant)
        (replica,) = grant.placement.replicas
        with Sampler(
            [ProcCollector()], Target((TargetReplica(0, info.pid, replica.allocated, replica.visible),))
        ) as sampler:
            generator.measure(Work((Prompt("p", tokens=1),), 40), lambda _: None)
    (warning,) = crowded(sampler.rows, [1])
    assert "threads computed on the 1 CPUs" in warning


def spent(begin_ns: int, end_ns: int) -> RunData:
    row = RequestRow(0, 0, "measure", "p", None, begin_ns, end_ns, end_ns, end_ns, 1, 1)
    warm = RequestRow(0, 1, "warmup", "p", None, 0, 1, 1, 1, 1, 1)
    return RunData([row, warm], TokenEvents())


@pytest.mark.parametrize(("second", "share"), [((100, 200), 1.0), ((150, 250), 1 / 3), ((300, 400), 0.0)])
def test_the_overlap_is_of_the_measured_time_alone(second: tuple[int, int], share: float) -> None:
    assert overlap([spent(100, 200), spent(*second)]) == pytest.approx(share)


def test_readings_go_to_the_side_whose_replica_they_are_of_and_the_machines_to_both() -> None:
    rows = [CounterRow(1, 1, "proc", "x", "gauge", value, "", replica=value) for value in range(4)]
    rows.append(CounterRow(1, 1, "proc", "machine", "gauge", 9, ""))
    second = list(own_rows(rows, 2, 2, alone=False))
    assert [(row.replica, row.value) for row in second] == [(0, 2), (1, 3), (None, 9)]
    assert list(own_rows(rows, 0, 4, alone=True)) == rows
