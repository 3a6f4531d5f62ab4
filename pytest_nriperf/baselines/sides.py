"""The two sides of a comparison as values to rank, and what is known of the spread between their sessions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import ndtri, stdtrit

from pytest_nriperf.counters import COUNTERS
from pytest_nriperf.stats import NO_SPREAD, SessionSpread, Shift, arrangements, session_means, shift_of_runs
from pytest_nriperf.stats.planning import POWER

# Sessions from which a test says itself how much its sessions differ.
ENOUGH_SESSIONS = 3
# Sessions are ranked as units where their means are about equally exact: one has at most so many times another's runs.
ALIKE_RUNS = 1.5
SIMULATED = SessionSpread(guess_degrees=math.inf, source="simulated: sessions do not differ")
AS_UNITS = replace(NO_SPREAD, source="sessions as units")

# Sessions of run values.
Logs = list[list[float]]


@dataclass(frozen=True)
class Sides:
    """How far two sides lie apart, and how exactly that is known.

    `now` and `baseline` count the `unit`s that were ranked; `deviation` is one unit's standard deviation (log scale;
    of a run: inside its session) with `degrees` of freedom.
    """

    now: int
    baseline: int
    shift: Shift
    deviation: float
    degrees: int
    unit: Literal["runs", "sessions", "pairs"] = "runs"

    @property
    def session_variance(self) -> float:
        """Of the difference of the two sides' sessions, which no number of runs removes."""
        return 0.0 if self.shift.spread.is_none else self.shift.factor * self.shift.spread.typical() ** 2

    def beyond(self) -> float:
        """How far a change must lie beyond the limit of what is significant to be found with `POWER`."""
        quantile = stdtrit(self.degrees, POWER) if self.degrees else ndtri(POWER)
        variance = self.deviation**2 * (1 / self.now + 1 / self.baseline) + self.session_variance
        return float(quantile) * math.sqrt(variance)


def logs_of(values: Sequence[float], metric: str, sign: float = 1.0) -> list[float] | None:
    """Logs of run values, on a scale where nothing is not zero (`counters.CounterKind.offset`).

    None where a value has no logarithm.

    >>> logs_of([1.0, math.e], "itl", sign=-1.0), logs_of([0.0], "itl")
    ([-0.0, -1.0], None)
    """
    offset = COUNTERS[metric].offset if metric in COUNTERS else 0.0
    if min(values) + offset <= 0:
        return None
    return [sign * math.log(value + offset) for value in values]


def session_spread(now: Logs, baseline: Logs, noise: SessionSpread | None = None) -> SessionSpread | None:
    """What is known of the spread between sessions, None where that is nothing.

    The sessions of both sides tell, and `noise` where it is evidence (a noise check of this very test). What `noise`
    guesses from other tests counts only until there are sessions enough.
    """
    within = session_means(now + baseline).within
    # Sessions of a single run do not say what runs vary by: the other side does.
    own = tuple(
        group if group.within else replace(group, within=within)
        for group in (session_means(baseline), session_means(now))
        if group.degrees
    )
    checked = () if noise is None else noise.evidence
    evidence = (*checked, *own)
    if sum(group.degrees for group in evidence) >= ENOUGH_SESSIONS - 1:
        told = [f"{len(baseline)} sessions of the baseline"] if len(baseline) > 1 else []
        told += [f"{len(now)} judged together"] if len(now) > 1 else []
        told += [noise.source] if noise is not None and checked else []
        return SessionSpread(evidence, source=" and ".join(told))
    return None if noise is None or noise.degrees == 0 else replace(noise, evidence=evidence)


def weigh(now: Logs, baseline: Logs, spread: SessionSpread, level: float) -> Sides:
    """Rank runs, widened by the spread between sessions; or sessions themselves, where both sides have enough."""
    if _sessions_are_units(now, baseline, spread, level):
        new, old = ([float(np.mean(session)) for session in side] for side in (now, baseline))
        shift = shift_of_runs([[mean] for mean in new], [[mean] for mean in old], AS_UNITS)
        within = session_means([new, old]).within
        return Sides(len(new), len(old), shift, math.sqrt(within), len(new) + len(old) - 2, "sessions")
    runs = session_means(now + baseline)
    counts = sum(map(len, now)), sum(map(len, baseline))
    shift = shift_of_runs(now, baseline, spread)
    return Sides(*counts, shift, math.sqrt(runs.within), sum(counts) - len(runs.means))


def _sessions_are_units(now: Logs, baseline: Logs, spread: SessionSpread, level: float) -> bool:
    """Whether session means are exchangeable when nothing changed, and enough to give a p of `level`.

    Then nothing has to be assumed of how sessions differ. Sessions of a single run are never anything else.
    """
    if spread.is_none or min(len(now), len(baseline)) < 2:
        return False
    runs = [len(session) for session in now + baseline]
    if max(runs) == 1:
        return True
    return max(runs) <= ALIKE_RUNS * min(runs) and arrangements(len(now), len(baseline)) * level >= 1
