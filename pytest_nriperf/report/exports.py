"""Measurements in other tools' formats: pytest-benchmark's JSON, CSV, JSON lines, OpenMetrics. Pure: rows to text."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_nriperf.baselines.evidence import Evidence

FORMATS = ("pytest-benchmark", "csv", "jsonl", "openmetrics")


@dataclass(frozen=True)
class RunValue:
    """One statistic of one metric of one run."""

    test: str
    node: str
    session: str
    time: str
    balloon: str
    model: str
    workload: str
    metric: str
    statistic: str
    run: int
    value: float
    unit: str
    better: str
    simulated: bool


def run_values(measured: Sequence[Evidence]) -> Iterator[RunValue]:
    """Every run value of the measurements, in order."""
    for one in measured:
        key, record = one.key, one.record
        for metric, kind in sorted(record.metrics.items()):
            for run, values in sorted(kind.runs.items()):
                for statistic, value in sorted(values.items()):
                    yield RunValue(
                        one.label, one.node, record.session, record.time, key.balloon, key.model, key.workload,
                        metric, statistic, run, value, kind.unit, kind.better, record.simulated,
                    )  # fmt: skip


def export(measured: Sequence[Evidence], form: str) -> str:
    """The measurements as text in one of FORMATS."""
    if form == "pytest-benchmark":
        return json.dumps(_benchmark_document(measured), indent=1, allow_nan=False) + "\n"
    rows = [vars(value) for value in run_values(measured)]
    if form == "jsonl":
        return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    if form == "csv":
        return _csv(rows)
    return "\n".join([*_openmetrics(measured), "# EOF", ""])


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(RunValue.__annotations__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _benchmark_document(measured: Sequence[Evidence]) -> dict[str, Any]:
    """pytest-benchmark's stored run: one benchmark a test and metric, one round a run. Rates become seconds a token."""
    first = measured[0].record if measured else None
    identity = dict(first.fingerprint.get("identity", {})) if first else {}
    return {
        "machine_info": {
            "node": measured[0].node if measured else "",
            "machine": str(identity.get("cpu", "unknown")),
            "python_implementation": "CPython",
            "python_version": "3",
            "cpu": {"brand_raw": str(identity.get("cpu", "unknown"))},
        },
        "commit_info": {
            "id": first.commit if first else "",
            "time": None,
            "author_time": None,
            "dirty": False,
            "project": "pytest-nriperf",
            "branch": "",
        },
        "benchmarks": [row for one in measured for row in _benchmarks(one)],
        "datetime": first.time if first else "",
        "version": "5.3.1",
    }


def _benchmarks(one: Evidence) -> Iterator[dict[str, Any]]:
    for metric, kind in sorted(one.record.metrics.items()):
        values = [run["median"] for _, run in sorted(kind.runs.items()) if run.get("median", 0) > 0]
        if not values or (kind.unit != "s" and kind.better != "higher"):
            continue
        seconds = values if kind.unit == "s" else [1 / value for value in values]
        yield {
            "group": metric,
            "name": f"{one.key.test}[{metric}]",
            "fullname": f"{one.label}[{metric}]",
            "params": None,
            "param": None,
            "extra_info": {
                "metric": metric,
                "unit": kind.unit,
                "balloon": one.key.balloon,
                "model": one.key.model,
                "workload": one.key.workload,
                "session": one.record.session,
                "simulated": one.record.simulated,
            },
            "options": {
                "disable_gc": False,
                "timer": "perf_counter",
                "min_rounds": 1,
                "max_time": 0.0,
                "min_time": 0.0,
                "warmup": False,
            },
            "stats": _stats(seconds),
        }


def _stats(seconds: Sequence[float]) -> dict[str, Any]:
    """pytest-benchmark's statistics of one benchmark's rounds."""
    count, mean = len(seconds), statistics.fmean(seconds)
    spread = statistics.stdev(seconds) if count > 1 else 0.0
    quarters = statistics.quantiles(seconds, n=4, method="inclusive") if count > 1 else [seconds[0]] * 3
    low, middle, high = quarters
    beyond = 1.5 * (high - low)
    inside = [value for value in seconds if low - beyond <= value <= high + beyond]
    far = sum(abs(value - mean) > spread for value in seconds)
    return {
        "min": min(seconds), "max": max(seconds), "mean": mean, "stddev": spread, "rounds": count,
        "median": middle, "iqr": high - low, "q1": low, "q3": high,
        "iqr_outliers": count - len(inside), "stddev_outliers": far, "outliers": f"{far};{count - len(inside)}",
        "ld15iqr": min(inside), "hd15iqr": max(inside), "ops": 1 / mean, "total": math.fsum(seconds),
        "iterations": 1, "data": list(seconds),
    }  # fmt: skip


def _openmetrics(measured: Sequence[Evidence]) -> Iterator[str]:
    """One gauge a metric: the median over runs of each statistic; of several sessions of a test the newest one's."""
    families: dict[str, dict[str, float]] = {}
    heads: dict[str, list[str]] = {}
    for one in sorted(measured, key=lambda each: each.record.time):
        for metric, kind in sorted(one.record.metrics.items()):
            name = f"nriperf_{metric.replace('.', '_')}"
            unit = {"s": "seconds", "token/s": "tokens_per_second", "B/s": "bytes_per_second"}.get(kind.unit, "")
            full = f"{name}_{unit}" if unit else name
            heads[full] = [f"# TYPE {full} gauge"] + ([f"# UNIT {full} {unit}"] if unit else [])
            for statistic in sorted({key for run in kind.runs.values() for key in run}):
                values = [run[statistic] for run in kind.runs.values() if statistic in run]
                labels = _labels(
                    test=one.label, node=one.node, balloon=one.key.balloon, model=one.key.model,
                    workload=one.key.workload, statistic=statistic, simulated=str(one.record.simulated).lower(),
                )  # fmt: skip
                families.setdefault(full, {})[labels] = statistics.median(values)
    for full, samples in families.items():
        yield from heads[full]
        yield from (f"{full}{{{labels}}} {value!r}" for labels, value in samples.items())


def _labels(**labels: str) -> str:
    def quoted(text: str) -> str:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return ",".join(f'{name}="{quoted(text)}"' for name, text in labels.items())
