"""What a sweep has measured: one row per cell and place, every metric with one value per run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# metric -> unit, which direction is better
OBJECTIVES = {"tpot": ("s", "lower"), "throughput": ("token/s", "higher")}


@dataclass(frozen=True)
class Row:
    """One cell of one node and boot. `cell` maps axis to value, `where` tells node, SNC mode and session.

    `metrics` maps a name to its values, one per run, in base units. `cpus` are the allocated CPUs of all replicas,
    `visible` those that the workloads see, `node_cpus` what the node could have given (0: unknown).
    """

    cell: Mapping[str, Any]
    metrics: Mapping[str, tuple[float, ...]]
    cpus: int
    visible: int = 0
    node_cpus: int = 0
    where: Mapping[str, Any] = field(default_factory=dict)
    simulated: bool = False

    def runs(self, metric: str) -> tuple[float, ...]:
        """Values of the runs that have one."""
        return tuple(value for value in self.metrics.get(metric, ()) if np.isfinite(value))

    def value(self, metric: str) -> float:
        """Median over the runs; NaN without any."""
        values = self.runs(metric)
        return float(np.median(values)) if values else float("nan")

    @property
    def name(self) -> str:
        """The cell as people say it: `8 replicas x 16 CPUs hidden`.

        >>> Row({"replicas": 8, "cpus": 16, "hyperthreads": "hidden", "prompt": "0"}, {}, 128).name
        '8 replicas x 16 CPUs hidden, prompt=0'
        """
        rest = dict(self.cell)
        replicas, cpus = rest.pop("replicas", 1), rest.pop("cpus", "all")
        words = [
            f"{replicas} replica{'' if str(replicas) == '1' else 's'} x {cpus} CPU{'' if str(cpus) == '1' else 's'}"
        ]
        words += [str(rest.pop("hyperthreads"))] if "hyperthreads" in rest else []
        extra = [f"{axis}={value}" for axis, value in rest.items()]
        return ", ".join([" ".join(words), *extra])


def pooled(rows: Iterable[Row]) -> list[Row]:
    """Rows of the same cell and place become one with all their runs, in the order of first appearance.

    >>> one = Row({"cpus": 2}, {"tpot": (1.0,)}, 2)
    >>> pooled([one, Row({"cpus": 2}, {"tpot": (3.0,)}, 2)])[0].metrics
    {'tpot': (1.0, 3.0)}
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        place = {key: value for key, value in row.where.items() if key != "session"}
        groups.setdefault(repr((sorted(row.cell.items(), key=str), sorted(place.items(), key=str))), []).append(row)
    return [_joined(group) for group in groups.values()]


def _joined(group: Sequence[Row]) -> Row:
    if len(group) == 1:
        return group[0]
    first = group[0]
    names = dict.fromkeys(name for row in group for name in row.metrics)
    metrics = {name: tuple(value for row in group for value in row.metrics.get(name, ())) for name in names}
    return Row(
        first.cell,
        metrics,
        first.cpus,
        first.visible,
        first.node_cpus,
        first.where,
        any(row.simulated for row in group),
    )


def varying(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Axes with more than one value, places included, each with its values in order."""
    seen: dict[str, dict[Any, None]] = {}
    for row in rows:
        for axis, value in [*row.cell.items(), *row.where.items()]:
            seen.setdefault(axis, {})[value] = None
    return {axis: ordered(values) for axis, values in seen.items() if len(values) > 1 and axis != "session"}


def ordered(values: Iterable[Any]) -> list[Any]:
    """Numbers by size, then words with their numbers by size.

    >>> ordered(["hidden", 16, "25%", 2, "100%"])
    [2, 16, '25%', '100%', 'hidden']
    """

    def key(value: Any) -> tuple[int, float, str]:
        if isinstance(value, int | float):
            return (0, float(value), "")
        number = re.match(r"\d+(\.\d+)?", str(value))
        return (1, float(number[0]), str(value)) if number else (2, 0.0, str(value))

    return sorted(values, key=key)


@dataclass(frozen=True)
class Spread:
    """Spread of runs inside cells on the log scale, pooled over all repeated cells.

    `residuals` are run values minus their cell's mean, enlarged by sqrt(n / (n - 1)); `degrees` are the degrees
    of freedom. None known: no cell was repeated.
    """

    residuals: Floats
    degrees: int

    @property
    def known(self) -> bool:
        """Whether any cell was measured more than once."""
        return self.degrees > 0

    @property
    def deviation(self) -> float:
        """Standard deviation of one run (share); NaN when none is known."""
        return float(np.sqrt(np.mean(self.residuals**2))) if self.known else float("nan")


def spread_of(rows: Sequence[Row], metric: str) -> Spread:
    """The spread of `metric` between runs of one cell."""
    residuals: list[float] = []
    degrees = 0
    for row in rows:
        logs = np.log([value for value in row.runs(metric) if value > 0])
        if len(logs) > 1:
            residuals.extend(((logs - logs.mean()) * np.sqrt(len(logs) / (len(logs) - 1))).tolist())
            degrees += len(logs) - 1
    return Spread(np.array(residuals), degrees)
