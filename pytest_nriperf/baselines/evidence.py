"""From a recorded measurement to what baselines keep of it, and to the key that it is compared by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_nriperf.baselines.conditions import reference_loads, run_facts
from pytest_nriperf.baselines.drift import disturbances
from pytest_nriperf.baselines.judging import level_reached, looks
from pytest_nriperf.baselines.sessions import Baseline, BaselineKey, MetricRuns, SessionRecord
from pytest_nriperf.baselines.verdict import Gate
from pytest_nriperf.errors import RecordingError
from pytest_nriperf.metrics import METRICS, Measurement
from pytest_nriperf.sessions import find_recordings
from pytest_nriperf.stats import suite_share

# Judged where a recording does not say what its gate named.
USUAL = ("ttft", "itl", "throughput")


@dataclass(frozen=True)
class Evidence:
    """One recorded measurement as verdicts see it; `variant` as its document has it, empty without variants.

    `planned` are the fewest and the most runs that were asked for.
    """

    key: BaselineKey
    record: SessionRecord
    test: str
    node: str
    path: Path
    gates: tuple[Gate, ...]
    alpha: float
    variant: Mapping[str, Any] = field(default_factory=dict)
    planned: tuple[int, int] | None = None

    @property
    def test_file(self) -> str:
        """Path of the file of tests, relative to their root."""
        return self.test.partition("::")[0]

    @property
    def label(self) -> str:
        """The test's id, with the name of the variant: two variants of a test are two measurements."""
        return f"{self.test}[variant={self.variant['name']}]" if self.variant else self.test

    def level(self, baseline: Baseline | None, gates: Sequence[Gate], alpha: float) -> float:
        """What a p has to reach: less than `alpha` where the number of runs depended on what was seen."""
        others = None if baseline is None else baseline.without([self.record.session])
        plan = looks(others, gates, *self.planned, alpha) if self.planned else ()
        runs = max((len(self.record.by_run(gate.metric)) for gate in gates), default=0)
        return level_reached(plan, runs, alpha)


def evidence(measurement: Measurement) -> Evidence:
    """What a measurement says. Raises RecordingError naming the recording when its document lacks a field."""
    document = measurement.document
    try:
        gate = document.get("gate") or {}
        names = tuple(gate.get("metrics") or USUAL)
        return Evidence(
            key=baseline_key(document),
            record=session_record(measurement),
            test=str(document["test"]),
            node=str(document["baseline_node"]),
            path=measurement.path,
            gates=tuple(Gate(name, gate.get("tolerance") or 0.05, gate.get("floor") or 0.02) for name in names),
            alpha=float(gate.get("alpha") or suite_share(0.05, len(names))),
            variant=document.get("variant") or {},
            planned=(int(gate["runs"][0]), int(gate["runs"][1])) if gate.get("runs") else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RecordingError(
            f"{measurement.path}: the recording's document cannot be used ({type(error).__name__}: {error})",
            "measure again with this version",
        ) from error


def read_evidence(path: Path) -> list[Evidence]:
    """Evidence of every recording that a path names: a recording, a session, or an out folder (its newest session).

    One that was broken off before its first run was finished says nothing and is left out. Raises RecordingError where
    that holds for all.
    """
    measured = [Measurement.from_recording(folder) for folder in find_recordings(path)]
    found = [evidence(one) for one in measured if one.runs]
    if not found:
        raise RecordingError(f"{path} has no finished run", "go on with it (pytest --nri-resume), or measure again")
    return found


def session_record(measurement: Measurement) -> SessionRecord:
    """The measurement reduced to a few statistics per metric and run."""
    document = measurement.document
    facts = document.get("runs") or {}
    repeated = {int(run) for run, fact in facts.items() if fact.get("repeated")}
    metrics = {
        name: MetricRuns(METRICS[name].unit, METRICS[name].better, _statistics(runs, repeated))
        for name, runs in measurement.per_run_statistics().items()
        if runs
    }
    for name, metric in measurement.pcm.items():
        values = zip(metric.runs, metric.per_run, strict=True)
        runs = {run: {"median": value} for run, value in values if math.isfinite(value) and run not in repeated}
        if runs:
            metrics[name] = MetricRuns(metric.unit, metric.better, runs)
    return SessionRecord(
        session=measurement.path.parent.name,
        time=str(document["time"]),
        fingerprint=document["fingerprint"],
        metrics=metrics,
        commit=str((document.get("suite") or {}).get("commit", "")),
        simulated=bool(document["simulated"]),
        reference=reference_loads(measurement.counters),
        remarks=_remarks(measurement, repeated),
    )


def baseline_key(document: Mapping[str, Any]) -> BaselineKey:
    """What a measurement is compared by: function, canonical balloon, model and workload of its document."""
    return BaselineKey(
        test=str(document["function"]),
        balloon=str(document["balloon"]["canonical"]),
        model=str(document["model"]["choice"]),
        workload=str(document["workload"]),
    )


def _remarks(measurement: Measurement, repeated: Set[int]) -> dict[int, str]:
    """What disturbed a run; a run that was repeated for it says so, and its values are left out.

    As the recording says, which knows the limits that held; else from the counters.
    """
    found = {run: ", ".join(disturbances(facts)) for run, facts in run_facts(measurement.counters).items()}
    known = measurement.document.get("runs") or {}
    found |= {int(run): ", ".join(fact["disturbances"]) for run, fact in known.items() if "disturbances" in fact}
    told = {run: text for run, text in found.items() if text}
    return {run: f"{text}; repeated" if run in repeated else text for run, text in sorted(told.items())}


def _statistics(runs: Mapping[int, Mapping[str, float]], repeated: Set[int]) -> dict[int, dict[str, float]]:
    """As baselines name them: a rate is its run's median; counts are not statistics."""
    found: dict[int, dict[str, float]] = {}
    for run, values in runs.items():
        if run in repeated:
            continue
        kept = {"median" if name == "rate" else name: value for name, value in values.items() if name != "n"}
        found[run] = {name: value for name, value in kept.items() if math.isfinite(value)}
    return found
