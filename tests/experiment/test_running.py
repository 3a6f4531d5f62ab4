"""Sides of a duet: they meet when all are warm, none waits for one that failed, each keeps its own readings."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_nriperf.errors import WorkerError
from pytest_nriperf.experiment.running import overlap, own_rows, side_by_side
from pytest_nriperf.seams import CounterRow, RequestRow, RunData, TokenEvents

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
