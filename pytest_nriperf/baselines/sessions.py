"""What a baseline remembers of a session: one number or a few per run and metric, and on what it was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MEDIAN = "median"
# Before the name of a reference load that is judged like a metric.
REFERENCE = "reference"


@dataclass(frozen=True)
class MetricRuns:
    """One metric of one session: per run a few statistics (`low`, `median`, `p95`) in `unit`.

    `better` is `lower` or `higher`. A run in which the metric could not be formed is absent.
    """

    unit: str
    better: str
    runs: Mapping[int, Mapping[str, float]]

    def __post_init__(self) -> None:
        if self.better not in ("lower", "higher"):
            raise ValueError(f"better is 'lower' or 'higher', not {self.better!r}")


@dataclass(frozen=True)
class SessionRecord:
    """One session of one test on one node, reduced to run values.

    `fingerprint` holds the parts identity, treatment and state as nested plain values. `reference` are the values
    of the short reference load beside each run (name -> one value a run, unit free). `remarks` says of a run what
    was found wrong with it (steal, throttling). `time` is ISO 8601 in UTC.
    """

    session: str
    time: str
    fingerprint: Mapping[str, Mapping[str, Any]]
    metrics: Mapping[str, MetricRuns]
    commit: str = ""
    simulated: bool = False
    reference: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    remarks: Mapping[int, str] = field(default_factory=dict)

    @property
    def disturbed(self) -> int:
        """How many of the runs that count were disturbed; one that was made again does not count."""
        return len(self.remarks.keys() & {run for metric in self.metrics.values() for run in metric.runs})

    def values(self, metric: str) -> tuple[float, ...]:
        """One value per run of a metric as a gate names it (`ttft`, `itl.p95`), or of a reference load.

        The latter by its name after a prefix: `reference.memory_bandwidth`.
        """
        return tuple(value for _, value in sorted(self.by_run(metric).items()))

    def by_run(self, metric: str) -> dict[int, float]:
        """The same by the number of the run."""
        name, statistic = split_metric(metric)
        if name == REFERENCE:
            return dict(self.reference.get(statistic, {}))
        found = self.metrics.get(name)
        runs = {} if found is None else {run: values.get(statistic) for run, values in found.runs.items()}
        return {run: value for run, value in runs.items() if value is not None and math.isfinite(value)}


@dataclass(frozen=True, order=True)
class BaselineKey:
    """What a baseline belongs to: test function, canonical balloon, model and workload, each as canonical text."""

    test: str
    balloon: str
    model: str
    workload: str

    def __post_init__(self) -> None:
        if any(" | " in part for part in (self.test, self.balloon, self.model, self.workload)):
            raise ValueError(f"baseline key {self}: ' | ' divides its parts and may not stand in one")

    def __str__(self) -> str:
        return " | ".join((self.test, self.balloon, self.model, self.workload))

    @classmethod
    def parse(cls, text: str) -> BaselineKey:
        """The inverse of `str`.

        >>> BaselineKey.parse("test_chat | cpus=1 | smollm2 | new_tokens=32").model
        'smollm2'
        """
        parts = text.split(" | ")
        if len(parts) != 4:
            raise ValueError(f"baseline key {text!r} has {len(parts)} parts, not 4")
        return cls(*parts)


@dataclass(frozen=True)
class Baseline:
    """The sessions accepted for one key, oldest first; `pinned` are the anchor that a rolling window never drops."""

    key: BaselineKey
    sessions: tuple[SessionRecord, ...]
    pinned: frozenset[str] = frozenset()

    def without(self, sessions: Sequence[str]) -> Baseline:
        """The baseline with some sessions left out: nothing is compared with itself."""
        return Baseline(self.key, tuple(one for one in self.sessions if one.session not in sessions), self.pinned)


def split_metric(metric: str) -> tuple[str, str]:
    """Recorded metric and statistic that a gate's name stands for.

    >>> split_metric("ttft"), split_metric("itl.low")
    (('ttft', 'median'), ('itl', 'low'))
    """
    name, _, statistic = metric.partition(".")
    return name, statistic or MEDIAN
