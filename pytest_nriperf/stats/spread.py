"""What is known of the spread between sessions, as a distribution rather than a number.

A session shares a boot, a page layout and the neighbours of its hour, so runs of two sessions differ by more than
runs of one. That spread is learnt from session means: with true variance v between sessions, the weighted sum of
squares Q(v) of the means around their weighted mean follows chi-squared with (sessions - 1) degrees, so
P(variance <= v) = P(chi-squared >= Q(v)): the Q profile (Viechtbauer 2007), a generalised pivot (Weerahandi 1993).
Few sessions give a distribution with a heavy tail, and with it wide intervals, just as Student's t does; in the
balanced case the result is Student's t. Whatever else makes the runs of one session alike (autocorrelation of
runs, for one) shows between session means too and is counted as spread between sessions.

All values are on the scale of natural logarithms: 0.02 is a spread of 2 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import chdtrc, ndtr

from pytest_nriperf.stats.rank import Floats

# Candidate variances between sessions (spreads 0.002 % to 1000 %), and where the mass between two of them stands.
_VARIANCES = np.concatenate([[0.0], np.geomspace(2e-5, 10.0, 110) ** 2])
_DEVIATIONS = np.sqrt(np.concatenate([[0.0], _VARIANCES[1:2], np.sqrt(_VARIANCES[1:-1] * _VARIANCES[2:])]))
_POINTS = np.sinh(np.linspace(-13.0, 13.0, 401)) * 1e-4


def _normal_tails(deviations: Floats) -> Floats:
    """P(draw >= point) for each point (a row) and each normal distribution around zero (a column)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        reached = ndtr(-_POINTS[:, None] / deviations)
    return np.where(deviations > 0, reached, _POINTS[:, None] <= 0)


_TAILS = _normal_tails(_DEVIATIONS)


@dataclass(frozen=True)
class SessionMeans:
    """Sessions of one test on one node while nothing changed: mean of the logs of the runs, and number of runs."""

    means: tuple[float, ...]
    runs: tuple[int, ...]
    within: float
    """Variance of one run inside its session (0 when every session has a single run)."""

    @property
    def degrees(self) -> int:
        return max(0, len(self.means) - 1)


def session_means(sessions: Sequence[Sequence[float]]) -> SessionMeans:
    """Reduce sessions of run values (logs) to means, counts and the pooled variance within.

    >>> session_means([[0.0, 0.2], [0.1, 0.3]])
    SessionMeans(means=(0.1, 0.2), runs=(2, 2), within=0.02...)
    """
    filled = [np.asarray(session, dtype=float) for session in sessions if len(session)]
    squares = sum(float(((session - session.mean()) ** 2).sum()) for session in filled)
    degrees = sum(len(session) - 1 for session in filled)
    return SessionMeans(
        tuple(float(session.mean()) for session in filled),
        tuple(len(session) for session in filled),
        squares / degrees if degrees else 0.0,
    )


@dataclass(frozen=True)
class SessionSpread:
    """The spread between sessions as known: evidence of session means, a guess, or both.

    Each group of the evidence counts around its own mean, so the code may have changed between groups. `guess`
    counts as much as `guess_degrees` sessions more would; infinite degrees make it a certainty. `source` says in
    words where the knowledge comes from.
    """

    evidence: tuple[SessionMeans, ...] = ()
    guess: float = 0.0
    guess_degrees: float = 0.0
    source: str = ""

    @property
    def degrees(self) -> float:
        """How many degrees of freedom the knowledge has; 0 means that nothing is known."""
        return self.guess_degrees + sum(group.degrees for group in self.evidence)

    @property
    def is_none(self) -> bool:
        """The two sides ran in the same session, or the engine is simulated: certainly no spread."""
        return math.isinf(self.guess_degrees) and self.guess == 0

    def typical(self) -> float:
        """Median of the distribution: one standard deviation between sessions."""
        if math.isinf(self.guess_degrees):
            return self.guess
        below = np.cumsum(_masses(self))
        return float(_DEVIATIONS[int(np.searchsorted(below, 0.5))])

    def tail(self, factor: float) -> tuple[Floats, Floats]:
        """Points x and P(difference of the two sides' sessions >= x), for variance = `factor` x that of a session."""
        return math.sqrt(factor) * _POINTS, _tail(self)

    def masses(self) -> Floats:
        """The mass of each candidate variance; for a spread that is no certainty."""
        degrees = self.degrees
        weighed = np.zeros(len(_VARIANCES))
        for group in self.evidence:
            if group.degrees:
                weighed += _q_profile(group)
        if self.guess_degrees:
            with np.errstate(divide="ignore"):
                weighed += self.guess_degrees * self.guess**2 / _VARIANCES
        below = np.asarray(chdtrc(degrees, weighed))
        below[-1] = 1.0
        masses: Floats = np.diff(below, prepend=0.0)
        return masses


# The same is asked at every look, and for every limit.
@lru_cache(maxsize=64)
def _masses(spread: SessionSpread) -> Floats:
    masses = spread.masses()
    masses.setflags(write=False)
    return masses


@lru_cache(maxsize=64)
def _tail(spread: SessionSpread) -> Floats:
    certain = math.isinf(spread.guess_degrees)
    tail: Floats = _normal_tails(np.array([spread.guess]))[:, 0] if certain else _TAILS @ _masses(spread)
    tail.setflags(write=False)
    return tail


NO_SPREAD = SessionSpread(guess_degrees=math.inf, source="one session")


def _q_profile(group: SessionMeans) -> Floats:
    """Cochran's Q of the session means for every candidate variance between sessions."""
    means = np.asarray(group.means)[:, None]
    own = group.within / np.asarray(group.runs, dtype=float)[:, None]
    weights = 1.0 / np.maximum(_VARIANCES[None, :] + own, 1e-300)
    centre = (weights * means).sum(axis=0) / weights.sum(axis=0)
    profile: Floats = (weights * (means - centre) ** 2).sum(axis=0)
    return profile
