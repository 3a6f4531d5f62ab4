"""The Pareto front of a sweep: stream latency, node throughput and CPUs allocated, with how sure it is.

Ties are kept: a cell is off the front only when another is at least as good in all three and better in one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_nriperf.sweep.rows import Floats, Row, spread_of

DRAWS = 400
REFERENCE = 1.1


@dataclass(frozen=True)
class FrontCell:
    """A cell with its place. `probability` to be on the front by bootstrap; None when no cell was repeated."""

    row: Row
    on_front: bool
    probability: float | None


def objectives(rows: Sequence[Row]) -> Floats:
    """Shape (cells, 3): log TPOT, minus log node throughput, log CPUs: all the smaller the better."""
    values = [(row.value("tpot"), row.value("throughput"), float(row.cpus)) for row in rows]
    table: Floats = np.log(np.array(values, dtype=float).reshape(-1, 3))
    table[:, 1] *= -1
    return table


def undominated(points: Floats) -> NDArray[np.bool_]:
    """Which points (rows, the smaller the better) no other dominates; equal points all stay; NaN never does.

    >>> undominated(np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0], [2.0, 2.0]])).tolist()
    [True, True, True, False]
    """
    keep: NDArray[np.bool_] = np.asarray(~np.isnan(points).any(1))
    for index in np.flatnonzero(keep):
        if not keep[index]:
            continue
        worse = (points >= points[index]).all(1) & (points > points[index]).any(1)
        keep &= ~worse
    return keep


def pareto(rows: Sequence[Row], draws: int = DRAWS, seed: int = 0) -> list[FrontCell]:
    """Every cell with whether it is on the front, and how probable that is.

    Bootstrap of residuals: each draw gives every cell the mean of as many residuals (pairs of latency and
    throughput, pooled over repeated cells) as it has runs.
    """
    complete = [row for row in rows if np.isfinite(row.value("tpot")) and np.isfinite(row.value("throughput"))]
    if not complete:
        return []
    points = objectives(complete)
    on_front = undominated(points)
    shares = _probabilities(complete, points, draws, seed)
    return [
        FrontCell(row, bool(on), None if shares is None else float(shares[index]))
        for index, (row, on) in enumerate(zip(complete, on_front, strict=True))
    ]


def _probabilities(rows: Sequence[Row], points: Floats, draws: int, seed: int) -> Floats | None:
    latency, throughput = spread_of(rows, "tpot"), spread_of(rows, "throughput")
    if not (latency.known and throughput.known) or len(latency.residuals) != len(throughput.residuals):
        return None
    residuals = np.stack([latency.residuals, -throughput.residuals], axis=1)
    runs = np.array([max(1, len(row.runs("tpot"))) for row in rows])
    # Only cells that some draw can bring to the front are drawn: the others are dominated by a wide margin.
    reach = 4 * np.abs(residuals).max(0)
    near = _near_front(points, reach)
    random = np.random.default_rng(seed)
    hits = np.zeros(len(rows))
    for _ in range(draws):
        moved = points[near].copy()
        for row, count in enumerate(runs[near]):
            moved[row, :2] += residuals[random.integers(len(residuals), size=count)].mean(0)
        hits[near] += undominated(moved)
    shares: Floats = hits / draws
    return shares


def _near_front(points: Floats, reach: Floats) -> NDArray[np.int_]:
    eased = points.copy()
    eased[:, :2] -= reach
    strict = points[undominated(points)]
    hopeless = np.array([bool(((strict <= own).all(1) & (strict[:, :2] < own[:2]).all(1)).any()) for own in eased])
    return np.flatnonzero(~hopeless)


def scaled(points: Floats, front: Floats) -> Floats:
    """Points in units of the front's range: 0 its best, 1 its worst value of each objective."""
    low, high = front.min(0), front.max(0)
    unit: Floats = (points - low) / np.where(high > low, high - low, 1.0)
    return unit


def hypervolume(points: Floats, reference: float = REFERENCE) -> float:
    """Volume between the points and the corner (reference, reference, reference) that they dominate; exact.

    Slabs between the values of the third objective, each times the area of the points at or below it.

    >>> hypervolume(np.array([[0.0, 0.0, 0.0]]), 1.0), hypervolume(np.array([[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]), 1.0)
    (1.0, 0.75)
    """
    inside = points[(points < reference).all(1)]
    inside = inside[np.argsort(inside[:, 2], kind="stable")]
    heights = np.append(inside[:, 2], reference)
    total = 0.0
    for count in range(1, len(inside) + 1):
        thickness = heights[count] - heights[count - 1]
        if thickness > 0:
            total += thickness * _area(inside[:count, :2], reference)
    return float(total)


def _area(points: Floats, reference: float) -> float:
    sorted_points = points[np.lexsort((points[:, 1], points[:, 0]))]
    lowest = np.minimum.accumulate(sorted_points[:, 1])
    widths = np.diff(np.append(sorted_points[:, 0], reference))
    return float((widths * (reference - lowest)).sum())


def shortfall(points: Floats, chosen: Sequence[int] | NDArray[np.int_]) -> float:
    """Share of the full sweep's hypervolume that the chosen cells miss: axes scaled to the full front, corner 1.1.

    >>> cube = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    >>> shortfall(cube, [0, 1]), round(shortfall(cube, [0]), 3)
    (0.0, 0.916)
    """
    unit = scaled(points, points[undominated(points)])
    full = hypervolume(unit[undominated(unit)])
    part = unit[np.asarray(chosen, dtype=int)]
    return 1 - hypervolume(part[undominated(part)]) / full
