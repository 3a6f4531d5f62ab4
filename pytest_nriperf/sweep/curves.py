"""Scaling curves of a sweep: one metric along one axis, everything else held, with the knee."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_nriperf.sweep.rows import OBJECTIVES, Row, ordered, varying

ENOUGH = 0.95


@dataclass(frozen=True)
class Curve:
    """`metric` along `axis` for cells that share `fixed`; `low` and `high` span the runs.

    `knee` is the smallest value of the axis that gives at least 95 % of the best of the curve; `fall` how much of
    the best is left at the end (1 when the curve never falls). Both in speed, so a latency counts as one over it.
    """

    metric: str
    axis: str
    fixed: tuple[tuple[str, Any], ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    knee: float
    fall: float

    @property
    def name(self) -> str:
        """What is held, in words."""
        return ", ".join(f"{axis}={value}" for axis, value in self.fixed) or "all"


def curves(rows: Sequence[Row], metric: str, axis: str) -> list[Curve]:
    """A curve for each combination of the other axes that has at least three numbers on the axis."""
    others = [name for name in varying(rows) if name != axis]
    groups: dict[tuple[tuple[str, Any], ...], list[Row]] = {}
    for row in rows:
        labels = {**row.cell, **row.where}
        if np.isfinite(_place(row, axis)) and np.isfinite(row.value(metric)):
            groups.setdefault(tuple((name, labels.get(name)) for name in others), []).append(row)
    made = [_curve(metric, axis, fixed, group) for fixed, group in groups.items() if len(group) > 2]
    places = {name: ordered({dict(curve.fixed)[name] for curve in made}) for name in others}
    return sorted(made, key=lambda curve: [places[name].index(value) for name, value in curve.fixed])


def _curve(metric: str, axis: str, fixed: tuple[tuple[str, Any], ...], group: Sequence[Row]) -> Curve:
    points = sorted(group, key=lambda row: _place(row, axis))
    x = tuple(_place(row, axis) for row in points)
    y = tuple(row.value(metric) for row in points)
    spans = [(min(row.runs(metric)), max(row.runs(metric))) for row in points]
    place, fall = knee(x, y, OBJECTIVES.get(metric, ("", "lower"))[1])
    return Curve(metric, axis, fixed, x, y, tuple(s[0] for s in spans), tuple(s[1] for s in spans), place, fall)


def knee(x: Sequence[float], y: Sequence[float], better: str = "higher") -> tuple[float, float]:
    """The smallest x that gives at least 95 % of the best speed, and the speed left at the largest x.

    >>> knee([1, 2, 4, 8], [10.0, 19.0, 20.0, 15.0])
    (2.0, 0.75)
    >>> knee([1, 2], [0.2, 0.1], better="lower")
    (2.0, 1.0)
    """
    speed = np.asarray(y, dtype=float)
    speed = 1 / speed if better == "lower" else speed
    order = np.argsort(x)
    reached = np.flatnonzero(speed[order] >= ENOUGH * speed.max())
    return float(np.asarray(x, dtype=float)[order][reached[0]]), float(speed[order][-1] / speed.max())


def _place(row: Row, axis: str) -> float:
    """The row's number on the axis; NaN for a word."""
    value = row.cell.get(axis, row.where.get(axis))
    try:
        return float(str(value))
    except ValueError:
        return float("nan")
