"""What would settle an unknown verdict: more runs, and on which side."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_nriperf.stats import arrangements, detectable, runs_for_effect, runs_for_share

if TYPE_CHECKING:
    from pytest_nriperf.baselines.sides import Sides


def percent(shift: float) -> str:
    """A log shift as a signed percentage.

    >>> percent(0.05), percent(float("-inf"))
    ('+5.1 %', 'anything')
    """
    return "anything" if math.isinf(shift) else f"{math.expm1(shift) * 100:+.1f} %"


def side(shift: float, sign: float = 1.0) -> str:
    """A shift in words, positive = worse; `sign` is -1 where the metric itself falls when it gets worse.

    >>> side(0.05), side(-0.05), side(0.05, sign=-1.0), side(float("inf"))
    ('5.1 % worse', '4.9 % better', '4.9 % worse', 'any amount worse')
    """
    word = "worse" if shift > 0 else "better"
    if math.isinf(shift):
        return f"any amount {word}"
    return f"{abs(math.expm1(sign * shift)) * 100:.1f} % {word}"


def too_few(now: int, baseline: int, alpha: float, unit: str = "runs") -> tuple[str, str]:
    """Reason and advice when the runs cannot give a p as small as the verdict's share of alpha.

    >>> too_few(5, 5, 0.05 / 20)
    ('5 v 5 runs have 252 arrangements: p cannot reach 0.0025', 'measure 6 runs (--nri-runs)')
    >>> too_few(4, 4, 0.01, "sessions")
    ('4 v 4 sessions have 70 arrangements: p cannot reach 0.01', 'measure 5 sessions')
    """
    reason = f"{now} v {baseline} {unit} have {arrangements(now, baseline)} arrangements: p cannot reach {alpha:.2g}"
    needed = runs_for_share(baseline, alpha)
    if 0 < needed <= 4 * max(now, 5):
        return reason, f"measure {needed} {unit}{' (--nri-runs)' if unit == 'runs' else ''}"
    both = next(n for n in range(1, 1000) if arrangements(n, n) * alpha >= 1)
    return reason, f"accept more sessions: {both} {unit} on both sides are needed"


def advise(sides: Sides, alpha: float, tolerance: float) -> str:
    """How many runs (or sessions) detect a change of the size of the tolerance, counted on both sides."""
    new, old, unit, variance = sides.now, sides.baseline, sides.unit, sides.session_variance
    needed = runs_for_effect(sides.deviation, old, alpha, tolerance, session_variance=variance)
    if needed > new:
        return f"measure {needed} {unit} (now {new}) to settle {percent(tolerance)}"
    limit = detectable(sides.deviation, math.inf, old, alpha, session_variance=variance)
    sessions = detectable(0.0, 1, 1, alpha, session_variance=variance)
    if sessions > tolerance:
        return (
            f"no number of runs gets below {percent(sessions)}, since sessions differ: accept more sessions, "
            "check the node (nriperf noise), or compare in one session (variants)"
        )
    if needed == 0:
        return f"no number of new {unit} gets below {percent(limit)} with {old} in the baseline; accept more sessions"
    return f"measure {new + max(1, new // 2)} {unit} (now {new}), or accept more sessions"
