"""How far now lies from the baseline: one distribution from the exact rank test and the spread between sessions.

The rank test alone answers "do these runs differ". Two sessions differ anyway, by a draw from the spread between
sessions; so the p of "the change is above t" is the exact p for t plus that draw, averaged over it. With no spread
it is the exact rank test, and the spread can only widen it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pytest_nriperf.stats.rank import Floats, pairwise_shifts, rank_sum_masses, sign_masses, walsh_averages
from pytest_nriperf.stats.spread import NO_SPREAD, SessionSpread

# Limits are found by halving, to less than a millionth of what the candidates span.
_HALVINGS = 24


@dataclass(frozen=True)
class Shift:
    """Confidence distribution of a shift on the log scale.

    `points` are its sorted candidate values, `masses` the exact probabilities of the statistic (one more than
    points: the first lies beyond all of them). `factor` is the variance of the two sides' session effects in
    units of one session's.
    """

    points: Floats
    masses: Floats
    spread: SessionSpread
    factor: float

    @property
    def estimate(self) -> float:
        """Hodges and Lehmann's estimate: the median of the candidate shifts."""
        return float(np.median(self.points))

    @property
    def resolution(self) -> float:
        """The smallest p that this many runs can give, whatever they show."""
        return float(self.masses[0])

    def p_above(self, limit: float = 0.0) -> float:
        """One-sided p of the evidence that the shift is above `limit`."""
        return self._p(self.points - limit)

    def p_below(self, limit: float = 0.0) -> float:
        """One-sided p of the evidence that the shift is below `limit`."""
        return self._p(limit - self.points[::-1])

    def interval(self, alpha: float) -> tuple[float, float]:
        """Limits that the shift passes with probability `alpha` each; infinite where the runs are too few."""
        return -self._bound(-self.points[::-1], alpha), self._bound(self.points, alpha)

    def _p(self, distances: Floats) -> float:
        if self._tail is None:
            return float(self.masses[: int(np.searchsorted(distances, 0.0, side="right")) + 1].sum())
        reached = np.interp(distances, *self._tail)
        return min(1.0, float(self.masses[0] + self.masses[1:] @ reached))

    @cached_property
    def _tail(self) -> tuple[Floats, Floats] | None:
        return None if self.spread.is_none or self.factor == 0 else self.spread.tail(self.factor)

    def _bound(self, points: Floats, alpha: float) -> float:
        """Upper limit: the largest t that is not refused at `alpha`, by the same p as above."""
        mirrored = points[::-1]
        if self.resolution > alpha:
            return math.inf
        if self._tail is None:
            rank = int(np.searchsorted(np.cumsum(self.masses), alpha, side="right"))
            return float(mirrored[rank - 1])
        low, high = float(points[0]), float(points[-1])
        reach = max(1e-3, high - low)
        while self._p(high - mirrored) > alpha:
            high += reach
            reach *= 2
            if reach > 1e3:
                return math.inf
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if self._p(middle - mirrored) > alpha:
                low = middle
            else:
                high = middle
        return high


def shift_of_runs(
    now: Sequence[Sequence[float]],
    baseline: Sequence[Sequence[float]],
    spread: SessionSpread = NO_SPREAD,
) -> Shift:
    """Shift of now against the baseline, each a list of sessions of run values (logs).

    >>> shift = shift_of_runs([[0.05, 0.06, 0.07, 0.08, 0.09]], [[0.0, 0.01, 0.02, 0.03, 0.04]])
    >>> round(shift.estimate, 3), round(shift.p_above(), 5), 1 / 252
    (0.05, 0.00397, 0.003968253968253968)
    """
    new = np.concatenate([np.asarray(session, dtype=float) for session in now])
    old = np.concatenate([np.asarray(session, dtype=float) for session in baseline])
    factor = _session_weight(now) + _session_weight(baseline)
    return Shift(pairwise_shifts(new, old), rank_sum_masses(len(new), len(old)), spread, factor)


def shift_of_pairs(differences: Sequence[float]) -> Shift:
    """Shift of pairs measured together (b minus a, logs): the exact signed-rank test and its Walsh averages.

    >>> shift = shift_of_pairs([0.05, 0.04, 0.06, 0.05, 0.07])
    >>> round(shift.estimate, 3), shift.p_above()
    (0.055, 0.03125)
    """
    return Shift(walsh_averages(differences), sign_masses(len(differences)), NO_SPREAD, 0.0)


def _session_weight(sessions: Sequence[Sequence[float]]) -> float:
    """Variance of a side's mean session effect in units of one session's: 1 for one session, 1/k for k alike."""
    runs = [len(session) for session in sessions]
    return sum((count / sum(runs)) ** 2 for count in runs)
