"""A verdict of worse names the counters that moved with it since the baseline."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_nriperf.baselines import BaselineStore, Verdict
from pytest_nriperf.experiment.judging import Judged, accept_measurement, judge_measurement
from pytest_nriperf.marks import GateMark
from pytest_nriperf.metrics import Measurement
from pytest_nriperf.recording import write_document, write_run
from pytest_nriperf.report.terminal import failure_message
from pytest_nriperf.seams import CounterRow
from pytest_nriperf.settings import RunPlan, Settings
from tests.recorded import described, run_of


def measured(folder: Path, gap_ms: float, remote: int, day: int, ttft: float = 1.0) -> Measurement:
    """Eight runs. `ttft`: the time to the first token in gaps."""
    folder.mkdir(parents=True)
    write_document(folder, {**described("suites/test_chat.py::test_chat", day), "simulated": True})
    for run in range(1, 9):
        rows, tokens = run_of(gap_ms + run / 1000, ttft)
        begin, end = rows[0].submit_ns, max(row.end_ns or 0 for row in rows)
        found = [
            CounterRow(t, t, "proc", name, "gauge", size, "B", replica=0)
            for t in (begin, (begin + end) // 2, end)
            for name, size in (("remote_memory", remote), ("local_memory", 100 - remote))
        ]
        write_run(folder, run, rows, tokens, found)
    return Measurement.from_recording(folder)


@pytest.fixture
def store(tmp_path: Path) -> BaselineStore:
    return BaselineStore(tmp_path / "baselines", "sim", simulated=True)


def judged(measurement: Measurement, store: BaselineStore, *metrics: str) -> Judged:
    """Judged as its test would, and accepted where there was nothing."""
    settings, gate = Settings(accept="missing", runs=RunPlan(8, 8)), GateMark(metrics or ("itl",), None, None)
    found = judge_measurement(
        measurement, gate.metrics, gate, store=store, settings=settings, gated_metrics=len(gate.metrics)
    )
    return accept_measurement(measurement, found, store=store, settings=settings)


def test_the_pages_are_blamed_for_a_slower_session(tmp_path: Path, store: BaselineStore) -> None:
    first = judged(measured(tmp_path / "s1/t", 40.0, 0, 1), store)
    assert (first.verdicts[0].outcome, first.verdicts[0].explanation) == ("missing", "")
    slower = judged(measured(tmp_path / "s2/t", 48.0, 60, 2), store)
    assert slower.verdicts[0].outcome == "worse"
    assert slower.verdicts[0].explanation == "remote memory share 0 % -> 60 %: pages are on the wrong node"


def test_where_no_counter_moved_nothing_is_said(tmp_path: Path, store: BaselineStore) -> None:
    judged(measured(tmp_path / "s1/t", 40.0, 0, 1), store)
    slower = judged(measured(tmp_path / "s2/t", 48.0, 0, 2), store)
    assert (slower.verdicts[0].outcome, slower.verdicts[0].explanation) == ("worse", "")


def test_each_changed_verdict_is_explained_in_its_own_direction(tmp_path: Path, store: BaselineStore) -> None:
    """The first token comes sooner and the others later: the better verdict does not take the worse one's cause."""

    def verdicts(folder: str, gap_ms: float, remote: int, day: int, ttft: float) -> dict[str, Verdict]:
        measurement = measured(tmp_path / folder, gap_ms, remote, day, ttft)
        return {verdict.metric: verdict for verdict in judged(measurement, store, "ttft", "itl").verdicts}

    verdicts("s1/t", 40.0, 2, 1, ttft=1.0)
    found = verdicts("s2/t", 48.0, 31, 2, ttft=0.5)
    assert {name: verdict.outcome for name, verdict in found.items()} == {"ttft": "better", "itl": "worse"}
    assert found["itl"].explanation == "remote memory share 2 % -> 31 %: pages are on the wrong node"
    assert found["ttft"].explanation == "remote memory share 2 % -> 31 %"
    assert "with it moved: remote memory share" in failure_message([found["itl"]], "somewhere")


def test_a_share_that_was_nothing_can_be_gated(tmp_path: Path, store: BaselineStore) -> None:
    def verdict(folder: str, remote: int, day: int) -> tuple[str, float | None]:
        (found,) = judged(measured(tmp_path / folder, 40.0, remote, day), store, "remote_memory_share").verdicts
        return found.outcome, found.effect

    assert verdict("s1/t", 0, 1) == ("missing", None)
    assert verdict("s2/t", 0, 2) == ("same", 0.0)
    outcome, effect = verdict("s3/t", 30, 3)
    assert outcome == "worse"
    assert effect == pytest.approx(0.30)


def test_a_gated_counter_without_a_value_says_why(tmp_path: Path, store: BaselineStore) -> None:
    measurement = measured(tmp_path / "s1/t", 40.0, 0, 1)
    gate = GateMark(("power",), None, None)
    found = judge_measurement(measurement, ["power"], gate, store=store, settings=Settings(), gated_metrics=1)
    assert found.verdicts[0].outcome == "unknown"
    assert found.verdicts[0].reason.startswith("no run gave a value of power: pcm does not count Package_Joules")
