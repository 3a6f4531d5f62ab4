"""From two sides of run values to a verdict. The rules, in order; the first that holds decides:

1. nothing to compare with, or nothing measured; another identity; another machine state
2. worse, better: significant at the verdict's share of alpha, and at least the floor
3. same: the interval and the minimum detectable effect lie inside the tolerance
4. unknown: all else, with what would settle it
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri

from pytest_nriperf.baselines.advice import advise, side, too_few
from pytest_nriperf.baselines.drift import REFERENCE, REFERENCE_ALPHA, REFERENCE_FLOOR, guarded, reference_values
from pytest_nriperf.baselines.sessions import MEDIAN, Baseline, SessionRecord, split_metric
from pytest_nriperf.baselines.store import WINDOW
from pytest_nriperf.baselines.verdict import Gate, Outcome, Verdict, differences
from pytest_nriperf.counters import COUNTERS
from pytest_nriperf.stats import (
    NO_SPREAD,
    Look,
    SessionSpread,
    Shift,
    arrangements,
    level_at,
    plan_looks,
    session_means,
    shift_of_runs,
)
from pytest_nriperf.stats.planning import POWER

# Sessions of a baseline from which its spread between sessions is taken without help.
ENOUGH_SESSIONS = 3
# Where nobody has looked yet: a pessimistic guess, so that only gross changes are called.
ASSUMED = SessionSpread(guess=0.10, guess_degrees=4, source="assumed: nothing is known of this node's sessions")
SIMULATED = SessionSpread(guess_degrees=math.inf, source="simulated: sessions do not differ")

# Of a verdict's alpha, what the comparison with an anchor outside the window gets.
ANCHOR_SHARE = 0.25

Logs = list[list[float]]


@dataclass(frozen=True)
class Knowledge:
    """What judging knows beside the two sides; see `judge`."""

    noise: Mapping[str, SessionSpread]
    spreads: Mapping[str, SessionSpread]
    across: bool = False
    references: bool = True


@dataclass(frozen=True)
class Sides:
    """Run values of both sides as logs, session by session, positive = worse; and what they were judged with."""

    now: Logs
    baseline: Logs
    spread: SessionSpread
    shift: Shift
    run_spread: float

    @property
    def now_runs(self) -> int:
        return sum(map(len, self.now))

    @property
    def baseline_runs(self) -> int:
        return sum(map(len, self.baseline))

    @property
    def session_variance(self) -> float:
        return 0.0 if self.shift.spread.is_none else self.shift.factor * self.spread.typical() ** 2


def judge(
    now: Sequence[SessionRecord],
    baseline: Baseline | None,
    gates: Sequence[Gate],
    *,
    alpha: float,
    look: float | None = None,
    noise: Mapping[str, SessionSpread] | None = None,
    spreads: Mapping[str, SessionSpread] | None = None,
    across: bool = False,
    references: bool = True,
    test: str = "",
) -> list[Verdict]:
    """Judge the gated metrics of one test: `now` is one session, or several that are judged together.

    `alpha` is each verdict's share (`stats.suite_share`), `look` the level of this look when runs are adaptive
    (`stats.plan_looks`), `noise` what is known of the node's spread between sessions by metric
    (`baselines.noise`). Comparable sessions of the baseline are used, the others named; `across` compares with all
    (for looking, never for a gate) and `spreads` overrides by metric what sessions are known to vary by. Without
    `references` the reference loads are not compared, since they ran in unlike balloons.
    """
    known = Knowledge(noise or {}, spreads or {}, across, references)
    level = alpha if look is None else look
    return [_judge_metric(now, baseline, _blank(now, gate, alpha, test), level, known) for gate in gates]


def looks(baseline: Baseline | None, gates: Sequence[Gate], least: int, most: int, alpha: float) -> tuple[Look, ...]:
    """When to look while runs come in, and at what level; fixed before the first run. Empty without a baseline."""
    recent = () if baseline is None else baseline.sessions[-WINDOW:]
    counts = [sum(len(one.values(gate.metric)) for one in recent) for gate in gates]
    known = min((count for count in counts if count), default=0)
    return plan_looks(least, most, known, alpha) if known else ()


def level_reached(plan: Sequence[Look], runs: int, alpha: float) -> float:
    """What a p has to reach after so many runs of a planned number; `alpha` where nothing is planned."""
    return (level_at(plan, runs) or plan[0].alpha) if plan else alpha


def _judge_metric(
    now: Sequence[SessionRecord],
    baseline: Baseline | None,
    blank: Verdict,
    level: float,
    known: Knowledge,
) -> Verdict:
    values = [record.values(blank.metric) for record in now]
    if not any(values):
        return replace(blank, outcome="unknown", reason=f"no run gave a value of {blank.metric}")
    blank = replace(blank, now=_median(values), runs=sum(map(len, values)), sessions=sum(map(bool, values)))
    others = (
        [] if baseline is None else [one for one in baseline.sessions if one.session not in {r.session for r in now}]
    )
    others = [one for one in others if one.values(blank.metric)]
    if not others:
        return replace(
            blank, outcome="missing", reason="no baseline", advice="accept this session: --nri-accept missing"
        )
    refused, usable = comparable(now[-1], others, across=known.across)
    blank = replace(
        blank,
        suspects=differences((usable or others)[-1].fingerprint, now[-1].fingerprint, "treatment"),
        state_differences=differences((usable or others)[-1].fingerprint, now[-1].fingerprint, "state"),
    )
    if not usable:
        return replace(blank, outcome=refused[0], reason=refused[1], advice=refused[2])
    unlike = differences(usable[-1].fingerprint, now[-1].fingerprint, "identity")
    if unlike:
        blank = blank.warned(f"compared across: {', '.join(map(str, unlike))}")
    left_out = len(others) - len(usable)
    if left_out:
        blank = blank.warned(f"{left_out} of {len(others)} baseline sessions left out: another identity or state")
    recent, anchor = _divided(usable, baseline)
    if not anchor:
        verdict = _judge_sessions(now, recent, blank, level, known)
    else:
        verdict = _since_anchor(
            _judge_sessions(now, recent, blank, level * (1 - ANCHOR_SHARE), known),
            _judge_sessions(now, anchor, blank, level * ANCHOR_SHARE, known),
            anchor,
        )
    verdict = _with_low(verdict, now, recent, known)
    return guarded(verdict, _references(now, usable, known)) if known.references else verdict


def _with_low(
    verdict: Verdict, now: Sequence[SessionRecord], others: Sequence[SessionRecord], known: Knowledge
) -> Verdict:
    """Contention only adds time, so a slowdown of the code shows best in each run's low quantile: tell what it says."""
    name, statistic = split_metric(verdict.metric)
    low = f"{name}.low"
    new, old = [one.values(low) for one in now], [one.values(low) for one in others]
    if statistic != MEDIAN or verdict.outcome not in ("same", "unknown") or not any(new) or not any(old):
        return verdict
    blank = Verdict(low, "unknown", "", verdict.unit, verdict.better, alpha=verdict.alpha, simulated=verdict.simulated)
    found = judge_values(list(filter(None, new)), list(filter(None, old)), blank, known.noise.get(low))
    if found.outcome != "worse":
        return verdict
    return verdict.warned(f"each run's low quantile is {found.reason}; gate {low} to fail on it")


def _judge_sessions(
    now: Sequence[SessionRecord],
    others: Sequence[SessionRecord],
    blank: Verdict,
    level: float,
    known: Knowledge,
) -> Verdict:
    values = [record.values(blank.metric) for record in now]
    old = [one.values(blank.metric) for one in others]
    known_noise, spread = known.noise.get(blank.metric), known.spreads.get(blank.metric)
    return judge_values(values, old, blank, known_noise, spread=spread, level=level)


def _divided(
    usable: Sequence[SessionRecord], baseline: Baseline | None
) -> tuple[list[SessionRecord], list[SessionRecord]]:
    """The rolling window, and the pinned sessions that have left it."""
    recent = list(usable[-WINDOW:])
    pinned = frozenset() if baseline is None else baseline.pinned
    return recent, [one for one in usable[:-WINDOW] if one.session in pinned]


def _since_anchor(verdict: Verdict, anchor: Verdict, sessions: Sequence[SessionRecord]) -> Verdict:
    """The verdict against the window, with what the anchor shows of a slow drift."""
    if anchor.effect is None:
        return verdict
    since = f"since the anchor of {sessions[0].time[:10]}: {anchor.effect * 100:+.1f} % ({anchor.outcome})"
    if anchor.outcome == "worse" and verdict.outcome in ("same", "unknown"):
        return replace(anchor, reason=f"slow drift, {since}; since the newest sessions: {verdict.outcome}")
    return verdict.warned(since)


def _references(now: Sequence[SessionRecord], others: Sequence[SessionRecord], known: Knowledge) -> dict[str, Verdict]:
    """The reference loads beside the runs, judged like rates."""
    judged = {}
    for name in sorted({name for record in now for name in record.reference}):
        new, old = reference_values(now, name), reference_values(others, name)
        if new and old:
            metric = REFERENCE + name
            blank = Verdict(metric, "unknown", "", better="higher", alpha=REFERENCE_ALPHA, floor=REFERENCE_FLOOR)
            judged[name] = judge_values(new, old, blank, known.noise.get(metric))
    return judged


def judge_values(
    now: Sequence[Sequence[float]],
    baseline: Sequence[Sequence[float]],
    blank: Verdict,
    noise: SessionSpread | None = None,
    *,
    spread: SessionSpread | None = None,
    level: float | None = None,
) -> Verdict:
    """Judge run values, session by session, filling in `blank`; `spread` overrides what is known of sessions.

    `level` is what a p has to reach when it is not the verdict's whole share of alpha.
    """
    blank = replace(
        blank,
        now=_median(now),
        baseline=_median(baseline),
        runs=sum(map(len, now)),
        baseline_runs=sum(map(len, baseline)),
        sessions=len(now),
        baseline_sessions=len(baseline),
    )
    offset = COUNTERS[blank.metric].offset if blank.metric in COUNTERS else 0.0
    now, baseline = _above(now, offset), _above(baseline, offset)
    if min(min(map(min, filter(None, now))), min(map(min, filter(None, baseline)))) <= 0:
        return replace(blank, outcome="unknown", reason=f"{blank.metric} has values that are not positive: no ratio")
    sign = 1.0 if blank.better == "lower" else -1.0
    new, old = _logs(now, sign), _logs(baseline, sign)
    alpha = blank.alpha or 0.05
    known = spread or (SIMULATED if blank.simulated else session_spread(new, old, noise))
    return decide(weigh(new, old, known, alpha), blank, alpha, alpha if level is None else level, sign)


def session_spread(now: Logs, baseline: Logs, noise: SessionSpread | None) -> SessionSpread:
    """What is known of the spread between sessions: from the baseline, the node's noise check, or assumed."""
    own = tuple(group for group in (session_means(baseline), session_means(now)) if group.degrees)
    enough = len(baseline) >= ENOUGH_SESSIONS
    if noise is None or noise.degrees == 0:
        known = SessionSpread(source=f"{len(baseline)} sessions of the baseline") if enough else ASSUMED
    elif enough:
        known = replace(noise, source=f"{len(baseline)} sessions of the baseline and {noise.source}")
    else:
        known = noise
    shares = (known.shares or (1.0,) * len(known.evidence)) + (1.0,) * len(own)
    return replace(known, evidence=known.evidence + own, shares=shares)


def weigh(now: Logs, baseline: Logs, spread: SessionSpread, alpha: float) -> Sides:
    """Both sides with their shift. Many sessions on both sides: each session is one value, and nothing is assumed."""
    run_spread = math.sqrt(session_means(now + baseline).within)
    if len(now) > 1 and arrangements(len(now), len(baseline)) * alpha >= 1:
        means = [[float(np.mean(session))] for session in now], [[float(np.mean(session))] for session in baseline]
        shift = shift_of_runs(*means, replace(NO_SPREAD, source="sessions as units"))
        return Sides(now, baseline, shift.spread, shift, run_spread)
    return Sides(now, baseline, spread, shift_of_runs(now, baseline, spread), run_spread)


def comparable(
    now: SessionRecord, others: Sequence[SessionRecord], *, across: bool = False
) -> tuple[tuple[Outcome, str, str], list[SessionRecord]]:
    """Baseline sessions of the same identity and state; and what to say when there is none: outcome, reason, advice."""
    if across:
        return ("unknown", "", ""), list(others)
    same = [one for one in others if not differences(one.fingerprint, now.fingerprint, "identity")]
    if not same:
        unlike = ", ".join(map(str, differences(others[-1].fingerprint, now.fingerprint, "identity")))
        advice = "this machine is another one: accept a baseline for it with nriperf accept --restart"
        return ("incomparable", f"identity differs: {unlike}", advice), []
    usable = [one for one in same if not differences(one.fingerprint, now.fingerprint, "state")]
    unlike = ", ".join(map(str, differences(same[-1].fingerprint, now.fingerprint, "state")))
    advice = "bring the machine back into that state (nriperf doctor), or accept --restart in the new one"
    return ("unknown", f"machine state: {unlike}", advice), usable


def decide(sides: Sides, blank: Verdict, alpha: float, level: float, sign: float) -> Verdict:
    """The rules 2 to 4, everything at `level`, which is below the verdict's `alpha` at one of several looks.

    The interval and with it `same` too: a premature `same` would end the runs before they show a change.
    """
    shift = sides.shift
    low, high = shift.interval(level)
    above, below = shift.p_above(), shift.p_below()
    estimate, floor, tolerance = shift.estimate, math.log1p(blank.floor), math.log1p(blank.tolerance)
    mde = minimum_detectable(sides, (low, high), floor)
    judged = replace(
        blank,
        effect=math.expm1(sign * estimate),
        interval=_relative(low, high, sign),
        p=above if estimate >= 0 else below,
        mde=None if mde is None else math.expm1(mde),
        session_spread=None if sides.spread.is_none else math.expm1(sides.spread.typical()),
        session_spread_source=sides.spread.source,
    )
    change = side(estimate, sign).split()[0] + " %"
    if above <= level * (1 + 1e-9) and estimate >= floor:
        return replace(judged, outcome="worse", reason=f"worse by {change} (p = {above:.2g}, level {level:.2g})")
    if below <= level * (1 + 1e-9) and -estimate >= floor:
        return replace(judged, outcome="better", reason=f"better by {change} (p = {below:.2g}, level {level:.2g})")
    if -tolerance <= low and high <= tolerance and mde is not None and mde <= tolerance:
        return replace(judged, outcome="same", reason=f"the change lies inside ±{blank.tolerance * 100:g} %")
    if shift.resolution > level:
        reason, advice = too_few(sides.now_runs, sides.baseline_runs, level)
        return replace(judged, outcome="unknown", reason=reason, advice=advice)
    reason = f"anything from {side(low, sign)} to {side(high, sign)}"
    return replace(judged, outcome="unknown", reason=reason, advice=advise(sides, alpha, tolerance))


def minimum_detectable(sides: Sides, interval: tuple[float, float], floor: float) -> float | None:
    """Smallest shift found with 80 %: from the estimate to the limit, and 80 % of the estimate's own spread beyond.

    None where so few runs cannot find any. The floor has to be passed by the estimate too.
    """
    low, high = interval
    if math.isinf(low) or math.isinf(high):
        return None
    variance = sides.run_spread**2 * (1 / sides.now_runs + 1 / sides.baseline_runs) + sides.session_variance
    beyond = float(ndtri(POWER)) * math.sqrt(variance)
    return max((high - low) / 2, floor) + beyond


def _blank(now: Sequence[SessionRecord], gate: Gate, alpha: float, test: str) -> Verdict:
    name, _ = split_metric(gate.metric)
    kind = next((record.metrics[name] for record in now if name in record.metrics), None)
    remarks = tuple(
        f"disturbed runs of {record.session}: "
        + ", ".join(f"{run} ({text})" for run, text in sorted(record.remarks.items()))
        for record in now
        if record.remarks
    )
    return Verdict(
        metric=gate.metric,
        outcome="unknown",
        reason="",
        unit="" if kind is None else kind.unit,
        better="lower" if kind is None else kind.better,
        alpha=alpha,
        tolerance=gate.tolerance,
        floor=gate.floor,
        warnings=remarks,
        simulated=any(record.simulated for record in now),
        test=test,
    )


def _relative(low: float, high: float, sign: float) -> tuple[float, float]:
    ends = sorted((sign * low, sign * high))
    return math.expm1(ends[0]), math.expm1(ends[1])


def _above(sessions: Sequence[Sequence[float]], offset: float) -> Sequence[Sequence[float]]:
    """Values on a scale where nothing is not zero (`counters.CounterKind.offset`)."""
    return [[value + offset for value in session] for session in sessions] if offset else sessions


def _logs(sessions: Sequence[Sequence[float]], sign: float) -> Logs:
    return [[sign * math.log(value) for value in session] for session in sessions if len(session)]


def _median(sessions: Sequence[Sequence[float]]) -> float:
    return float(np.median([value for session in sessions for value in session]))
