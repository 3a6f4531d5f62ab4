"""From a measurement to verdicts: its evidence, the baseline that it belongs to, and what is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytest_nriperf.baselines import BaselineStore, Gate, Verdict, judge, looks
from pytest_nriperf.baselines.evidence import baseline_key, session_record
from pytest_nriperf.baselines.noise import load_noise
from pytest_nriperf.errors import BaselineError
from pytest_nriperf.marks import GateMark
from pytest_nriperf.metrics import Measurement
from pytest_nriperf.settings import Settings
from pytest_nriperf.stats import level_at, suite_share


@dataclass(frozen=True)
class Judged:
    """Verdicts of one measurement, and what was done to the baseline (`stored`, `refused` or nothing) in words.

    `at_look` is False between the planned looks of an adaptive number of runs, when nothing may be decided.
    """

    verdicts: tuple[Verdict, ...]
    stored: str = ""
    refused: str = ""
    at_look: bool = True

    def failing(self, fail_on: Sequence[str]) -> tuple[Verdict, ...]:
        """The verdicts that fail a test. What was stored just now is no longer missing."""
        return tuple(
            verdict
            for verdict in self.verdicts
            if verdict.outcome in fail_on and not (verdict.outcome == "missing" and self.stored)
        )


def judge_measurement(
    measurement: Measurement,
    metrics: Sequence[str],
    gate: GateMark,
    *,
    store: BaselineStore,
    settings: Settings,
    gated_metrics: int,
    accept: bool = False,
) -> Judged:
    """Judge `metrics` at each verdict's share of the suite's alarm rate, with `accept` do what `--nri-accept` says."""
    key, record = baseline_key(measurement.document), session_record(measurement)
    file = str(measurement.document["test"]).partition("::")[0]
    baseline = store.find(file, key)
    gates = [
        Gate(
            name,
            tolerance=gate.tolerance if gate.tolerance is not None else settings.tolerance,
            floor=gate.floor if gate.floor is not None else settings.floor,
        )
        for name in metrics
    ]
    share = suite_share(settings.alpha, gated_metrics)
    noise = load_noise(store).spreads(list(metrics), key)
    test = str(measurement.document["test"])
    plan = looks(baseline, gates, settings.runs.least, settings.runs.most, share)
    runs = len(measurement.runs)
    level = (level_at(plan, runs) or plan[0].alpha) if plan else share
    verdicts = tuple(judge([record], baseline, gates, alpha=share, look=level, noise=noise, test=test))
    if not accept:
        return Judged(verdicts, at_look=not plan or runs in {look.runs for look in plan})
    if settings.accept == "all" or (settings.accept == "missing" and baseline is None):
        try:
            store.append(file, key, record, verdicts)
        except BaselineError as error:
            return Judged(verdicts, refused=str(error))
        return Judged(verdicts, stored=f"stored in {store.path(file)}")
    return Judged(verdicts)


def settled(measurement: Measurement, gate: GateMark, **known: Any) -> bool:
    """Whether more runs are for nothing: at a planned look, every gated metric is no longer unknown."""
    judged = judge_measurement(measurement, gate.metrics, gate, **known)
    return judged.at_look and all(verdict.outcome != "unknown" for verdict in judged.verdicts)
