"""The time left is told from what was seen, and never says that nothing is left while runs are missing."""

from __future__ import annotations

from pytest_nriperf.experiment.progress import Stage, Tracker
from pytest_nriperf.seams import Progress


def told(*events: tuple[float, str, int]) -> list[Stage]:
    """The stages of a tracker of three runs of 100 tokens; events are (seconds, begin or tokens, number)."""
    stages: list[Stage] = []
    now = [0.0]
    tracker = Tracker("a.py::test_a", 3, 1, 100, stages.append, clock=lambda: now[0])
    for at, what, number in events:
        now[0] = at
        if what == "begin":
            tracker.begin(number)
        else:
            tracker.progress(Progress(0, 0, number))
    return stages


def test_loading_says_nothing_of_how_long_tokens_take() -> None:
    stages = told((0, "begin", 1), (30, "tokens", 10), (40, "tokens", 20))
    assert [stage.left_s for stage in stages[:2]] == [None, None]
    # 80 tokens of a second each, then two runs of 120 seconds
    assert stages[2].left_s == 80 + 2 * 120


def test_later_runs_are_told_from_those_before_and_end_above_nothing() -> None:
    stages = told((0, "begin", 1), (60, "begin", 2), (90, "tokens", 50), (200, "tokens", 75))
    assert stages[1].left_s == 60 + 60
    assert stages[3].left_s == (200 - 90) / 25 * 25 + 60
