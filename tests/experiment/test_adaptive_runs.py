"""A number of runs that depends on what is seen keeps the alarm rate: by simulation, through what a session calls."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_nriperf.baselines import Baseline, BaselineKey, BaselineStore, MetricRuns, SessionRecord
from pytest_nriperf.experiment.judging import judge_measurement, settled
from pytest_nriperf.marks import GateMark
from pytest_nriperf.metrics import METRICS, Measurement, Samples
from pytest_nriperf.recording import counter_table
from pytest_nriperf.settings import RunPlan, Settings
from tests.recorded import described

GATE = GateMark(("itl",))
CASES = 200


@dataclass(frozen=True)
class Remembered(BaselineStore):
    """Baselines in memory."""

    baseline: Baseline | None = None

    def find(self, test_file: str, key: BaselineKey) -> Baseline | None:
        return self.baseline


def measurement(values: list[float], **document: Any) -> Measurement:
    """Runs whose every metric has this one sample."""
    samples = Samples(tuple(np.asarray([value]) for value in values))
    empty = counter_table(0, [])
    runs = tuple(range(1, len(values) + 1))
    whole = {**described("t.py::test_it", 20), **document}
    path = Path("out/now/test_it")
    pool = dict.fromkeys(METRICS, samples)
    return Measurement(path, whole, runs, empty, empty, empty, len(runs), 0, 0, (), pool)


def baseline(rng: np.random.Generator, sessions: int = 4, runs: int = 3) -> Baseline:
    records = []
    for day in range(sessions):
        values = {run: {"median": float(math.exp(rng.normal(0, 0.03)))} for run in range(runs)}
        fingerprint = described("t.py::test_it", day)["fingerprint"]
        record = SessionRecord(f"s{day}", f"2026-11-0{day + 1}", fingerprint, {"itl": MetricRuns("s", "lower", values)})
        records.append(record)
    return Baseline(BaselineKey("test_it", "cpus=1", "m", "w"), tuple(records))


def outcome(seen: list[Measurement], settings: Settings, store: BaselineStore) -> tuple[str, int]:
    """What is said in the end, and after how many runs: `seen` is the measurement after each run."""
    plan, known = settings.runs, {"store": store, "settings": settings, "gated_metrics": 1}
    runs = next(
        (runs for runs in range(plan.least, plan.most) if settled(seen[runs - 1], GATE, **known)),
        plan.most,
    )
    (verdict,) = judge_measurement(
        seen[runs - 1], GATE.metrics, GATE, store=store, settings=settings, gated_metrics=1
    ).verdicts
    return verdict.outcome, runs


def against_a_baseline(rng: np.random.Generator, settings: Settings, shift: float) -> tuple[str, int]:
    values = np.exp(rng.normal(shift, 0.03, settings.runs.most)).tolist()
    seen = [measurement(values[:runs]) for runs in range(1, len(values) + 1)]
    return outcome(seen, settings, Remembered(Path("/nowhere"), "local", baseline=baseline(rng)))


def in_pairs(rng: np.random.Generator, settings: Settings, shift: float) -> tuple[str, int]:
    first = np.exp(rng.normal(0, 0.03, settings.runs.most)).tolist()
    second = np.exp(rng.normal(shift, 0.03, settings.runs.most)).tolist()
    seen = []
    for runs in range(1, len(first) + 1):
        a, b = measurement(first[:runs]), measurement(second[:runs])
        seen.append(replace(b, variants={"a": a, "b": b}))
    return outcome(seen, settings, Remembered(Path("/nowhere"), "local"))


@pytest.mark.parametrize("measured", [against_a_baseline, in_pairs])
def test_looking_at_the_runs_meanwhile_keeps_the_alarm_rate(measured: Any) -> None:
    rng = np.random.default_rng(5)
    settings = Settings(runs=RunPlan(4, 14))
    found = [measured(rng, settings, 0.0) for _ in range(CASES)]
    worse = sum(said == "worse" for said, _ in found) / CASES
    assert worse <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / CASES)
    assert {runs for _, runs in found} != {14}


@pytest.mark.parametrize("measured", [against_a_baseline, in_pairs])
def test_a_gross_slowdown_is_found_in_fewer_runs(measured: Any) -> None:
    rng = np.random.default_rng(6)
    settings = Settings(runs=RunPlan(4, 20))
    found = [measured(rng, settings, 0.25) for _ in range(20)]
    assert {said for said, _ in found} == {"worse"}
    assert max(runs for _, runs in found) < 20
