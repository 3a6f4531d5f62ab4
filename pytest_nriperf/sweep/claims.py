"""Findings stated as formulas and decided on the node at hand: confirmed, refuted or undecided, with figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_nriperf.stats import shift_of_runs

Outcome = Literal["confirmed", "refuted", "undecided"]


@dataclass(frozen=True)
class Finding:
    """What the runs say of "`ratio` >= `bound`": the interval holds the ratio with probability 1 - 2 x alpha."""

    formula: str
    outcome: Outcome
    ratio: float
    low: float
    high: float
    bound: float
    runs: tuple[int, int]

    def __str__(self) -> str:
        limits = f"{self.low:.3g}x to {'open' if math.isinf(self.high) else f'{self.high:.3g}x'}"
        return f"{self.outcome}: {self.formula}: {self.ratio:.3g}x ({limits}, runs {self.runs[0]} and {self.runs[1]})"


def at_least(
    formula: str, one: Sequence[float], other: Sequence[float], bound: float, *, alpha: float = 0.025
) -> Finding:
    """Whether one / other >= bound, by run values of which more is better; exact rank test of both sides.

    Confirmed when the whole interval lies above the bound, refuted when it lies below.

    >>> str(at_least("half against all", [30.0, 31, 32, 33, 34], [10.0, 10.1, 10.2, 10.3, 10.4], 2.5))
    'confirmed: half against all (claim: at least 2.5x): 3.14x (2.94x to 3.33x, runs 5 and 5)'
    """
    shift = shift_of_runs([[math.log(value) for value in one]], [[math.log(value) for value in other]])
    low, high = (math.exp(limit) for limit in shift.interval(alpha))
    outcome: Outcome = "confirmed" if low >= bound else "refuted" if high < bound else "undecided"
    return Finding(
        f"{formula} (claim: at least {bound:g}x)",
        outcome,
        math.exp(shift.estimate),
        low,
        high,
        bound,
        (len(one), len(other)),
    )


def at_most(
    formula: str, one: Sequence[float], other: Sequence[float], bound: float, *, alpha: float = 0.025
) -> Finding:
    """Whether one / other <= bound."""
    turned = at_least(formula, other, one, 1 / bound, alpha=alpha)
    return Finding(
        f"{formula} (claim: at most {bound:g}x)",
        turned.outcome,
        1 / turned.ratio,
        1 / turned.high if turned.high else math.inf,
        1 / turned.low if turned.low else math.inf,
        bound,
        turned.runs[::-1],
    )


def any_of(findings: Sequence[Finding]) -> Finding:
    """A claim that holds when one of several does; they share alpha, so that looking at many proves nothing.

    The one that decides is told: the strongest when confirmed or refuted, else the nearest to being confirmed.
    """
    confirmed = [finding for finding in findings if finding.outcome == "confirmed"]
    undecided = [finding for finding in findings if finding.outcome == "undecided"]
    return max(confirmed or undecided or findings, key=lambda finding: finding.low / finding.bound)
