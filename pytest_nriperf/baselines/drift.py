"""Did the machine change rather than the code? Reference loads beside the runs, and runs that were disturbed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from pytest_nriperf.baselines.sessions import split_metric
from pytest_nriperf.baselines.verdict import Verdict
from pytest_nriperf.errors import SettingsError
from pytest_nriperf.units import format_percent

# The reference load that limits a metric: prefill multiplies matrices, decoding reads the weights from memory.
_LIMITED_BY = {"ttft": "matrix_product"}
_WORDS = {"memory_bandwidth": "memory bandwidth", "matrix_product": "matrix product"}
# One-sided level at which a reference counts as moved, each way; and the least move that matters.
REFERENCE_ALPHA = 0.005
REFERENCE_FLOOR = 0.02


@dataclass(frozen=True)
class Disturbance:
    """A fact of a run, the most of it that an undisturbed run has, and how it is told."""

    fact: str
    limit: float
    words: str
    figure: Callable[[float], str] = format_percent


# Fixed before any run is seen: a rule chosen after the fact can prove anything.
DISTURBANCES = (
    Disturbance("steal_share", 0.01, "steal {} of CPU time"),
    Disturbance("waiting_share", 0.05, "engine waited for a CPU {} of its time"),
    Disturbance("quota_share", 0.0, "CPU quota throttled it {} of the run"),
    Disturbance("thermal_throttles", 0.0, "thermal throttling, {} times", "{:.0f}".format),
)


def check_limits(limits: Mapping[str, float]) -> None:
    """Raises SettingsError for a limit on what is no fact of a run."""
    known = [rule.fact for rule in DISTURBANCES]
    for fact in limits:
        if fact not in known:
            raise SettingsError(f"disturbances: a run has no fact {fact!r}", f"known are {', '.join(known)}")


def disturbances(facts: Mapping[str, float], limits: Mapping[str, float] = MappingProxyType({})) -> tuple[str, ...]:
    """What was wrong with a run, in words; empty when nothing. `limits` moves single limits.

    >>> disturbances({"steal_share": 0.04, "waiting_share": 0.01})
    ('steal 4.0 % of CPU time',)
    """
    return tuple(
        rule.words.format(rule.figure(facts[rule.fact]))
        for rule in DISTURBANCES
        if facts.get(rule.fact, 0.0) > limits.get(rule.fact, rule.limit)
    )


def guarded(verdict: Verdict, moved: Mapping[str, Verdict]) -> Verdict:
    """The verdict in the light of the reference loads that were judged like metrics (rates: higher is better).

    One that moved makes the verdict unknown; the effect normalised by the reference stands beside the raw one.
    """
    named = {name: one for name, one in moved.items() if one.outcome in ("worse", "better") and one.effect is not None}
    if not named or verdict.outcome not in ("worse", "better", "same", "unknown"):
        return verdict
    changes = ", ".join(
        f"{_WORDS.get(name, name)} {format_percent(one.effect, signed=True, digits=0)}"
        for name, one in sorted(named.items())
    )
    name = _LIMITED_BY.get(split_metric(verdict.metric)[0], "memory_bandwidth")
    limiting = named.get(name) or next(iter(named.values()))
    return replace(
        verdict,
        outcome="unknown",
        reason=f"the machine changed ({changes})",
        normalised=_normalised(verdict, limiting),
        advice="look at the machine (nriperf doctor), then measure again; after a wanted change accept --restart",
    )


def _normalised(verdict: Verdict, reference: Verdict) -> float | None:
    """The effect as it would be on a machine whose reference load had not moved."""
    if verdict.effect is None or reference.effect is None:
        return None
    sign = 1.0 if verdict.better == "lower" else -1.0
    return math.expm1(math.log1p(verdict.effect) + sign * math.log1p(reference.effect))
