"""The terminal shows what was found, aligned, and cannot be harmed by strange names."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pytest_nriperf.baselines import Difference, Verdict
from pytest_nriperf.experiment.progress import Stage
from pytest_nriperf.report.terminal import MeasurementSummary, MetricLine, ProgressLine, failure_message, summary

WORSE = Verdict(
    metric="itl",
    outcome="worse",
    reason="12.0 % worse (p = 0.004 of 0.05)",
    unit="s",
    now=0.056,
    baseline=0.05,
    effect=0.12,
    interval=(0.08, 0.16),
    p=0.004,
    mde=0.03,
    runs=5,
    baseline_runs=15,
    baseline_sessions=3,
    suspects=(Difference("torch version", "2.12", "2.13"),),
)
SAME = Verdict(
    metric="throughput", outcome="same", reason="inside", unit="token/s", better="higher", now=180.0, baseline=181.5,
    effect=-0.008, interval=(-0.01, 0.004),
)  # fmt: skip


def measurement(*lines: MetricLine) -> MeasurementSummary:
    return MeasurementSummary("a.py::test_a", "4 allocated / 2 visible", "smollm2", 5, ".nriperf/x", lines)


def shown(*measurements: MeasurementSummary) -> list[str]:
    return [text for text, _ in summary(measurements)]


def test_columns_line_up_over_all_measurements() -> None:
    lines = shown(
        measurement(MetricLine("itl", 0.056, "s", 0.01, WORSE)),
        measurement(MetricLine("throughput", 180.0, "token/s", None, SAME)),
    )
    rows = [line for line in lines if "baseline" in line and "since" not in line]
    assert len(rows) == 2
    assert [row.split()[-1] for row in rows] == ["worse", "same"]
    assert len({len(row.rpartition("  ")[0]) for row in rows}) == 1


def test_several_nodes_stand_side_by_side() -> None:
    one = measurement(MetricLine("ttft", 0.07, "s", 0.02), MetricLine("itl", 0.056, "s", 0.01, WORSE))
    both = [replace(one, function="a.py::test_a", node=node) for node in ("xeon1", "\x1b[31mxeon2")]
    lines = shown(*both)
    at = next(number for number, line in enumerate(lines) if line.startswith("nodes side by side"))
    assert lines[at].split()[-1].endswith("xeon2")
    assert [line.split()[:2] for line in lines[at + 1 :]] == [["a.py::test_a", "ttft"], ["a.py::test_a", "itl"]]
    assert lines[at + 2].count("56.0 ms ±1.0 %") == 2
    assert "\x1b" not in "".join(lines)
    assert not any("side by side" in line for line in shown(both[0]))


def test_allocated_and_visible_cpus_always_stand_there() -> None:
    assert "4 allocated / 2 visible" in shown(measurement())[1]


def test_a_change_names_its_suspects_beneath() -> None:
    lines = shown(measurement(MetricLine("itl", 0.056, "s", 0.01, WORSE)))
    assert any("since the baseline: torch version 2.12 -> 2.13" in line for line in lines)


def test_a_missing_baseline_says_once_how_to_store_one() -> None:
    advice = "accept this session: nriperf accept .nriperf/x"
    missing = replace(SAME, outcome="missing", baseline=None, effect=None, interval=None, advice=advice)
    both = [replace(missing, metric=name) for name in ("ttft", "itl")]
    lines = shown(measurement(*(MetricLine(each.metric, 1.0, "s", None, each) for each in both)))
    assert [line for line in lines if "accept" in line] == [f"      next: {advice}"]


def test_failures_and_simulation_are_said() -> None:
    lines = shown(replace(measurement(), failures=3, simulated=True))
    assert lines[0].endswith("SIMULATED")
    assert any("3 requests failed" in line for line in lines)


def test_names_cannot_command_the_terminal() -> None:
    hostile = "a.py::test[\x1b[2J\r\x07]"
    text = "\n".join(shown(replace(measurement(), test=hostile, model=hostile, warnings=[hostile])))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)


def test_a_failure_names_everything_that_is_needed_to_act() -> None:
    known = replace(WORSE, session_spread=0.01, session_spread_source="noise check of 2026-11-20, 10 sessions")
    text = failure_message([known, replace(WORSE, metric="ttft", advice="measure 7 runs")], "/out of/x")
    for needed in ("itl worse", "ttft worse", "baseline 50.0 ms", "now 56.0 ms", "+12.0 % [+8.0, +16.0]", "p = 0.004",
                   "5 runs against 15 runs of 3 sessions", "3.0 %", "torch version 2.12 -> 2.13",
                   "sessions differ by 1.0 % (noise", "next for ttft: measure 7 runs",
                   "nriperf show '/out of/x'"):  # fmt: skip
        assert needed in text


@pytest.fixture
def written() -> list[str]:
    return []


STAGE = Stage("a.py::test_a", "measuring", 2, 5, 2, 40, 128, 12.0, 33.0)


def test_a_terminal_sees_one_line_that_is_gone_at_the_end(written: list[str]) -> None:
    times = iter([0.0, 0.05, 0.2, 0.3])
    line = ProgressLine(written.append, lambda: written.append("<fresh>"), terminal=True, clock=lambda: next(times))
    for stage in (STAGE, STAGE, STAGE, STAGE._replace(phase="done")):
        line(stage)
    assert written[0] == "<fresh>"
    assert written[1].endswith("test_a: run 2/5, 2 replicas, 40/128 tokens, 12s, about 33s left")
    assert written[-1] == "\r\x1b[2K"
    assert len(written) == 4


def test_a_log_hears_now_and_then_and_nothing_of_short_measurements(written: list[str]) -> None:
    times = iter([0.0, 10.0, 31.0, 40.0])
    line = ProgressLine(written.append, lambda: None, terminal=False, clock=lambda: next(times))
    for stage in (STAGE, STAGE, STAGE, STAGE._replace(phase="done")):
        line(stage)
    assert written == ["  test_a: run 2/5, 2 replicas, 40/128 tokens, 12s, about 33s left\n"]


def test_a_note_stays_and_never_stands_in_the_progress_line() -> None:
    written: list[str] = []
    line = ProgressLine(written.append, lambda: None, terminal=True, clock=lambda: 0.0)
    line(Stage("a.py::test_a", "loading", 1, 5, 1, 0, 10, 0.0, None))
    line.note("converting a model (once)")
    assert "".join(written).endswith("\r\x1b[2K  converting a model (once)\n")
