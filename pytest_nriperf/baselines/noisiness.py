"""A node's noise in numbers that a person can act on: spreads, what can be detected, what helps most."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pytest_nriperf.baselines.noise import NodeNoise
from pytest_nriperf.stats import SessionMeans, SessionSpread, detectable

# Designs worth knowing the reach of: runs now, sessions of the baseline, runs in each.
DESIGNS = ((5, 3, 5), (5, 5, 5), (10, 5, 5), (10, 10, 5), (20, 10, 10))


@dataclass(frozen=True)
class Design:
    """`runs` now against `sessions` x `baseline_runs`, and the smallest change that they find with 80 % (share)."""

    runs: int
    sessions: int
    baseline_runs: int
    detectable: float


@dataclass(frozen=True)
class MetricNoise:
    """One metric of one test: spreads as shares (0.02 is 2 %), reach of some designs, what helps."""

    metric: str
    test: str
    sessions: int
    runs: int
    run_spread: float
    session_spread: float
    designs: tuple[Design, ...]
    paired: float
    advice: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def noisiness(noise: NodeNoise, alpha: float) -> list[MetricNoise]:
    """Every metric and test of which something is known, by name."""
    return [
        _noise_of(metric, test, group.means, alpha)
        for metric, tests in sorted(noise.groups.items())
        for test, group in sorted(tests.items())
    ]


def _noise_of(metric: str, test: str, group: SessionMeans, alpha: float) -> MetricNoise:
    within, between = math.sqrt(group.within), SessionSpread((group,)).typical()
    paired = math.expm1(detectable(within, 12, 12, alpha))
    return MetricNoise(
        metric=metric,
        test=test,
        sessions=len(group.means),
        runs=sum(group.runs),
        run_spread=within,
        session_spread=between,
        designs=tuple(_designs(within, between, alpha)),
        paired=paired,
        advice=_advice(within, between, paired),
    )


def _designs(within: float, between: float, alpha: float) -> Iterator[Design]:
    for runs, sessions, each in DESIGNS:
        variance = between**2 * (1 + 1 / sessions)
        reach = detectable(within, runs, sessions * each, alpha, session_variance=variance)
        yield Design(runs, sessions, each, math.expm1(reach))


def _advice(within: float, between: float, paired: float) -> str:
    if between > within and between > 0.01:
        return (
            "sessions differ more than runs do: more runs a session do not help. Look for what changes between "
            f"sessions (nriperf doctor), or compare in one session (variants: 12 pairs find {paired * 100:.1f} %)"
        )
    if within > 0.05:
        return (
            "runs differ much: keep neighbours off these CPUs, fix the frequency (nriperf doctor), gate the .low metric"
        )
    return "quiet enough: more sessions in the baseline, then more runs, lower what can be detected"


def worst(found: Sequence[MetricNoise]) -> MetricNoise | None:
    """The metric with the widest reach in the first design, None without any."""
    return max(found, key=lambda one: one.designs[0].detectable, default=None)
