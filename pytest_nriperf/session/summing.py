"""Results of a session as the terminal shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_nriperf.baselines import Verdict
from pytest_nriperf.experiment.judging import Judged
from pytest_nriperf.metrics import Measurement
from pytest_nriperf.report.counters import counter_remarks
from pytest_nriperf.report.terminal import MeasurementSummary, MetricLine
from pytest_nriperf.units import short_path

# Shown for a measurement that no gate names.
SHOWN = ("ttft", "itl", "throughput")


@dataclass
class Result:
    """One measurement of the session and, once its test has asked, its verdicts."""

    measurement: Measurement
    judged: Judged | None = None


def summarised(result: Result) -> MeasurementSummary:
    """Gated metrics with their verdicts, then the usual ones; of variants the second beside the first."""
    measurement, judged = result.measurement, result.judged
    document = measurement.document
    verdicts: Mapping[str, Verdict] = {v.metric: v for v in judged.verdicts} if judged else {}
    names = [*verdicts, *(name for name in SHOWN if name not in verdicts)]
    remarks = [text for text in (judged.stored, judged.refused) if text] if judged else []
    return MeasurementSummary(
        test=str(document["test"]),
        sizes=_sizes(document["balloon"]),
        model=str(document["model"]["choice"]),
        runs=len(measurement.runs),
        path=short_path(measurement.path.parent if measurement.variants else measurement.path),
        lines=[_line(name, result, verdicts.get(name)) for name in names],
        failures=sum(each.failures for each in measurement.variants.values()) or measurement.failures,
        simulated=bool(document["simulated"]),
        remarks=[*_variant_lines(measurement), *counter_remarks(measurement), *remarks],
        warnings=_warnings(measurement),
        counted="pair" if measurement.variants else "run",
        function=f"{str(document['test']).partition('::')[0]}::{document['function']}",
        node=str(document["node"]),
    )


def _line(name: str, result: Result, verdict: Verdict | None) -> MetricLine:
    metric = result.measurement.metric(name)
    low, high = metric.spread
    spread = (high - low) / 2 / metric.value if len(metric.per_run) > 1 and metric.value else None
    if not result.measurement.variants:
        return MetricLine(name, metric.value, metric.unit, spread, verdict)
    (first, other), (second, _) = result.measurement.variants.items()
    return MetricLine(name, metric.value, metric.unit, spread, verdict, second, (first, other.metric(name).value))


def _variant_lines(measurement: Measurement) -> list[str]:
    """Each variant: what it changes, and the folder in its session where it is recorded."""
    lines = []
    for name, one in measurement.variants.items():
        own = one.document["variant"]["arguments"]
        flat = [(key, value) for key, value in own.items() if key != "env"] + list(own.get("env", {}).items())
        changes = ", ".join(f"{key}={value}" for key, value in flat) or "as the test is"
        lines.append(f"{name}: {changes} · {_sizes(one.document['balloon'])} · {one.path.name}")
    return lines


def _warnings(measurement: Measurement) -> list[str]:
    sides = measurement.variants or {"": measurement}
    told = [(f"{name}: " if name else "", text) for name, one in sides.items() for text in one.warnings]
    return [f"{prefix}{text}" for prefix, text in told if "pooled" not in text]


def _sizes(balloon: Mapping[str, Any]) -> str:
    """What was allocated and what could be used of it."""
    replicas = len(balloon["granted"]["replicas"])
    return f"{replicas} × {balloon['sizes']}" if replicas > 1 else str(balloon["sizes"])


def junit_properties(verdict: Verdict) -> Sequence[tuple[str, object]]:
    """What reaches JUnit XML of one verdict."""
    name = f"nriperf.{verdict.metric}"
    found = [(f"{name}.verdict", verdict.outcome), (name, verdict.now), (f"{name}.unit", verdict.unit)]
    optional = {"baseline": verdict.baseline, "change": verdict.effect, "p": verdict.p, "mde": verdict.mde}
    return [*found, *((f"{name}.{key}", value) for key, value in optional.items() if value is not None)]
