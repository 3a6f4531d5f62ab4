"""One verdict: what was found for one gated metric, why, and what would settle it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Outcome = Literal["better", "same", "worse", "unknown", "missing", "incomparable"]
OUTCOMES: tuple[Outcome, ...] = ("worse", "incomparable", "unknown", "missing", "better", "same")


@dataclass(frozen=True)
class Difference:
    """A field of the fingerprint that is not what it was; dotted name, value of the baseline, value now."""

    field: str
    baseline: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.field} {_word(self.baseline)} -> {_word(self.now)}"


@dataclass(frozen=True)
class Gate:
    """A metric to judge. Less than `floor` nobody cares about; what lies inside +-`tolerance` counts as the same."""

    metric: str
    tolerance: float = 0.05
    floor: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 10 or not 0 <= self.floor < 10:
            raise ValueError(f"gate {self.metric}: tolerance {self.tolerance} and floor {self.floor} are shares of one")


@dataclass(frozen=True)
class Verdict:
    """The judgement on one metric.

    `effect` is the relative change of the metric since the baseline (0.05 = 5 % more), `interval` holds it with
    probability 1 - 2 x `alpha` or more, `p` is one-sided in the direction of `outcome` (of the effect where that has
    none), `mde` the smallest change that these runs detect with 80 % at `alpha`. `now` and `baseline` are medians over
    runs in `unit`. `explanation` names the counters that moved with it, if any stands out. `suspects` are differences
    of treatment, `state_differences` those of machine state. `stored`: the session is in the baseline now.
    """

    metric: str
    outcome: Outcome
    reason: str
    unit: str = ""
    better: str = "lower"
    now: float | None = None
    baseline: float | None = None
    effect: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    alpha: float | None = None
    mde: float | None = None
    tolerance: float = 0.05
    floor: float = 0.02
    runs: int = 0
    baseline_runs: int = 0
    sessions: int = 0
    baseline_sessions: int = 0
    session_spread: float | None = None
    session_spread_source: str = ""
    normalised: float | None = None
    advice: str = ""
    explanation: str = ""
    warnings: tuple[str, ...] = ()
    suspects: tuple[Difference, ...] = ()
    state_differences: tuple[Difference, ...] = ()
    simulated: bool = False
    stored: bool = False
    test: str = ""

    @property
    def begun(self) -> bool:
        """Whether the baseline that was missing begins with this very session: nothing is left to do."""
        return self.stored and self.outcome == "missing"

    @property
    def settled(self) -> bool:
        """Whether more runs are for nothing: it is decided either way, or was refused before runs were compared."""
        return self.outcome != "unknown" or self.interval is None

    @property
    def word(self) -> str:
        """The outcome for people: what was missing and begins now is stored."""
        return "stored" if self.begun else self.outcome

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an upper limit that is infinite becomes null (a lower one is -1: -100 %)."""
        plain = asdict(self)
        for name in ("mde", "p", "effect"):
            plain[name] = _finite(plain[name])
        if self.interval is not None:
            plain["interval"] = [_finite(limit) for limit in self.interval]
        for name in ("suspects", "state_differences"):
            plain[name] = [asdict(difference) for difference in getattr(self, name)]
        plain["warnings"] = list(self.warnings)
        return plain

    def warned(self, *warnings: str) -> Verdict:
        """The same verdict with more warnings."""
        return replace(self, warnings=(*self.warnings, *warnings))


def flatten(part: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields under dotted names.

    >>> flatten({"cpu": {"model": "x", "sockets": 2}, "snc": 1})
    {'cpu.model': 'x', 'cpu.sockets': 2, 'snc': 1}
    """
    flat: dict[str, Any] = {}
    for name, value in part.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def differences(
    baseline: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]], part: str
) -> tuple[Difference, ...]:
    """Fields of one part (identity, treatment, state) that differ, sorted by name.

    >>> old, new = {"treatment": {"torch": "2.12"}}, {"treatment": {"torch": "2.13"}}
    >>> [str(difference) for difference in differences(old, new, "treatment")]
    ['torch 2.12 -> 2.13']
    """
    old, new = flatten(baseline.get(part, {})), flatten(now.get(part, {}))
    return tuple(
        Difference(name, old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if _plain(old.get(name)) != _plain(new.get(name))
    )


def _plain(value: Any) -> Any:
    """As it comes back from JSON: tuples are lists."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _word(value: Any) -> str:
    return "(none)" if value is None else str(value)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
