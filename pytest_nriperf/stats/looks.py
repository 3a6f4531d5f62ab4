"""Looking at the runs before all are made, without raising the alarm rate.

Alpha is spent as the runs come in (Lan, DeMets 1983) by O'Brien and Fleming's function: little early, most of it at
the last look. The level of each look follows from the joint distribution of the looks (Armitage, McPherson, Rowe
1969), with the information that runs carry against a fixed baseline. A spread between sessions makes the looks more
alike than that, so the rate can only be lower.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from pytest_nriperf.stats.rank import Floats, arrangements

_GRID = 601
_RATIO = 1.55


class Look(NamedTuple):
    """After `runs` runs, a verdict is significant at `alpha`."""

    runs: int
    alpha: float


@lru_cache(maxsize=256)
def plan_looks(least: int, most: int, baseline: int, alpha: float) -> tuple[Look, ...]:
    """Looks from `least` to `most` runs against `baseline` runs, together at `alpha`.

    A look that so few runs cannot pass is left out, and what it would have spent stays for the later ones.

    >>> [look.runs for look in plan_looks(5, 12, 12, 0.05)]
    [5, 8, 12]
    >>> plan_looks(5, 5, 5, 0.05)
    (Look(runs=5, alpha=0.05),)
    """
    return _without_blind(_counts(least, most), baseline, alpha, lambda runs: 1 / arrangements(runs, baseline))


@lru_cache(maxsize=256)
def plan_pair_looks(least: int, most: int, alpha: float) -> tuple[Look, ...]:
    """The same for pairs of runs, whose information grows with their number alone.

    >>> [look.runs for look in plan_pair_looks(5, 20, 0.05)], plan_pair_looks(6, 6, 0.05)
    ([13, 20], (Look(runs=6, alpha=0.05),))
    """
    return _without_blind(_counts(least, most), math.inf, alpha, lambda pairs: 0.5**pairs)


def _without_blind(
    counts: list[int], baseline: float, alpha: float, finest: Callable[[int], float]
) -> tuple[Look, ...]:
    """Looks at these counts but those whose smallest possible p (`finest`) is above their level."""
    while True:
        looks = tuple(map(Look, counts, _levels(counts, baseline, alpha)))
        blind = [look.runs for look in looks[:-1] if look.alpha < finest(look.runs)]
        if not blind:
            return looks
        counts = [count for count in counts if count != blind[0]]


def level_at(looks: Sequence[Look], runs: int) -> float | None:
    """The level at which `runs` runs are judged: that of the last planned look they reach, None before the first.

    >>> level_at((Look(5, 0.01), Look(8, 0.04)), 6), level_at((Look(5, 0.01),), 4)
    (0.01, None)
    """
    return next((look.alpha for look in reversed(looks) if look.runs <= runs), None)


def _counts(least: int, most: int) -> list[int]:
    steps = max(0, round(math.log(most / least) / math.log(_RATIO)))
    if steps == 0:
        return [most] if least == most else [least, most]
    return sorted({round(least * (most / least) ** (step / steps)) for step in range(steps + 1)})


def _levels(counts: list[int], baseline: float, alpha: float) -> list[float]:
    """Nominal level of every look: the chance to pass one of the first k is what is spent by then."""
    if len(counts) == 1:
        return [alpha]
    information = [1 / (1 / count + 1 / baseline) for count in counts]
    times = [value / information[-1] for value in information]
    spent = [float(2 * ndtr(ndtri(alpha / 2) / math.sqrt(time))) for time in times]
    levels = [spent[0]]
    points = np.linspace(-8.0, -float(ndtri(spent[0])), _GRID) * math.sqrt(times[0])
    density = _normal(points, times[0])
    for (before, time), (used, total) in zip(pairwise(times), pairwise(spent), strict=True):
        limit = _limit(points, density, time - before, total - used)
        levels.append(float(ndtr(-limit / math.sqrt(time))))
        reached = np.linspace(-8.0 * math.sqrt(time), limit, _GRID)
        density = np.asarray(np.trapezoid(density * _normal(reached[:, None] - points, time - before), points, axis=1))
        points = reached
    return levels


def _limit(points: Floats, density: Floats, step: float, spend: float) -> float:
    """The limit that is passed with probability `spend` after one more step of the walk."""
    low, high = -1.0, 12.0
    for _ in range(60):
        middle = (low + high) / 2
        passed = np.trapezoid(density * ndtr((points - middle) / math.sqrt(step)), points)
        low, high = (middle, high) if passed > spend else (low, middle)
    return high


def _normal(distance: Floats, variance: float) -> Floats:
    values: Floats = np.exp(-(distance**2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
    return values
