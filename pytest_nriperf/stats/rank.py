"""The exact rank test of two groups of runs, turned into a confidence distribution of the shift between them.

Every value is one run (never a token): runs are exchangeable when nothing changed, so each way of dealing the
pooled runs to the two sides is equally likely. The statistic is Mann and Whitney's U; inverting the test gives
Hodges and Lehmann's estimate and interval (Hodges, Lehmann 1963; Lehmann, Nonparametrics, 1975, section 2.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@lru_cache(maxsize=512)
def rank_sum_masses(now: int, baseline: int) -> Floats:
    """P(U = k) for k = 0 .. now * baseline when all arrangements are equally likely.

    Mann and Whitney's recursion (1947) on probabilities: the largest pooled value belongs to one of the sides.

    >>> rank_sum_masses(1, 2).tolist()
    [0.3333333333333333, 0.3333333333333333, 0.3333333333333333]
    """
    row = [np.ones(1) for _ in range(baseline + 1)]
    for n in range(1, now + 1):
        fresh = [np.ones(1)]
        for m in range(1, baseline + 1):
            masses = np.zeros(n * m + 1)
            masses[m:] += row[m] * (n / (n + m))
            masses[: n * (m - 1) + 1] += fresh[m - 1] * (m / (n + m))
            fresh.append(masses)
        row = fresh
    row[baseline].setflags(write=False)
    return row[baseline]


def arrangements(now: int, baseline: int) -> int:
    """Ways to deal the pooled runs to two sides of these sizes: no p can be below one over this.

    >>> arrangements(5, 5), arrangements(5, 12)
    (252, 6188)
    """
    return math.comb(now + baseline, now)


def pairwise_shifts(now: Sequence[float] | Floats, baseline: Sequence[float] | Floats) -> Floats:
    """All differences now - baseline, sorted; their median is Hodges and Lehmann's estimate of the shift."""
    differences = np.subtract.outer(np.asarray(now, dtype=float), np.asarray(baseline, dtype=float))
    return np.sort(differences, axis=None)


@lru_cache(maxsize=64)
def sign_masses(pairs: int) -> Floats:
    """P(W = k) of Wilcoxon's signed-rank statistic of `pairs` differences, k = 0 .. pairs * (pairs + 1) / 2.

    >>> sign_masses(2).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    masses = np.ones(1)
    for rank in range(1, pairs + 1):
        grown = np.zeros(len(masses) + rank)
        grown[: len(masses)] += masses / 2
        grown[rank:] += masses / 2
        masses = grown
    masses.setflags(write=False)
    return masses


def walsh_averages(differences: Sequence[float] | Floats) -> Floats:
    """Means of all pairs of differences, each with itself too, sorted; their median estimates the shift of pairs."""
    values = np.asarray(differences, dtype=float)
    first, second = np.triu_indices(len(values))
    return np.sort((values[first] + values[second]) / 2)
