"""What a measurement can detect, and how many runs it takes: before it is made, or when it was not enough."""

from __future__ import annotations

import math

from scipy.special import ndtri

from pytest_nriperf.stats.rank import arrangements

POWER = 0.8


def detectable(
    run_spread: float,
    now: float,
    baseline: float,
    alpha: float,
    *,
    session_variance: float = 0.0,
    power: float = POWER,
) -> float:
    """Minimum detectable effect on the log scale: found with probability `power` at one-sided `alpha`.

    (z_alpha + z_power) x sqrt(spread^2 (1/now + 1/baseline) + variance of the two sides' session effects).

    >>> round(detectable(0.035, 5, 5, 0.05), 3)
    0.055
    >>> round(detectable(0.035, math.inf, 5, 0.05), 3)
    0.039
    """
    variance = run_spread**2 * (1 / now + 1 / baseline) + session_variance
    return float((-ndtri(alpha) + ndtri(power)) * math.sqrt(variance))


def runs_for_share(baseline: int, alpha: float, limit: int = 1000) -> int:
    """Fewest runs against `baseline` runs whose arrangements can give a p of `alpha`; 0 when none up to `limit`.

    >>> runs_for_share(5, 0.05 / 12), runs_for_share(1, 0.05)
    (5, 19)
    """
    return next((n for n in range(1, limit + 1) if arrangements(n, baseline) * alpha >= 1 - 1e-12), 0)


def runs_for_effect(
    run_spread: float,
    baseline: int,
    alpha: float,
    effect: float,
    *,
    session_variance: float = 0.0,
    limit: int = 1000,
) -> int:
    """Fewest runs against `baseline` runs that detect `effect` (log scale); 0 when no number up to `limit` does.

    >>> runs_for_effect(0.035, 20, 0.05, 0.05), runs_for_effect(0.035, 5, 0.05, 0.035)
    (4, 0)
    """
    if detectable(run_spread, math.inf, baseline, alpha, session_variance=session_variance) > effect:
        return 0
    first = max(1, runs_for_share(baseline, alpha, limit))
    for n in range(first, limit + 1):
        if detectable(run_spread, n, baseline, alpha, session_variance=session_variance) <= effect:
            return n
    return 0


def suite_share(alpha: float, verdicts: int) -> float:
    """Each verdict's share of the suite's false-alarm rate (Bonferroni: holds however the verdicts depend).

    >>> suite_share(0.05, 10)
    0.005
    """
    return alpha / max(1, verdicts)
