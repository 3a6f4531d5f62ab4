"""From two sides of run values to a verdict. The rules, in order; the first that holds decides:

1. nothing to compare with, or nothing measured; another identity; another machine state
2. worse, better: significant at the verdict's share of alpha, and at least the floor
3. same: the interval and the minimum detectable effect lie inside the tolerance
4. unknown: all else, with what would settle it
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pytest_nriperf.baselines.advice import advise, side, too_few
from pytest_nriperf.baselines.drift import REFERENCE_ALPHA, REFERENCE_FLOOR, guarded
from pytest_nriperf.baselines.noise import NodeNoise
from pytest_nriperf.baselines.sessions import MEDIAN, REFERENCE, Baseline, BaselineKey, SessionRecord, split_metric
from pytest_nriperf.baselines.sides import ENOUGH_SESSIONS, SIMULATED, Logs, Sides, logs_of, session_spread, weigh
from pytest_nriperf.baselines.store import WINDOW
from pytest_nriperf.baselines.verdict import Difference, Gate, Outcome, Verdict, differences
from pytest_nriperf.stats import Look, SessionSpread, level_at, plan_looks, shift_of_runs
from pytest_nriperf.units import format_percent

# Of a verdict's alpha, what the comparison with an anchor outside the window gets.
ANCHOR_SHARE = 0.25


@dataclass(frozen=True)
class Knowledge:
    """What judging knows beside the two sides; see `judge`."""

    key: BaselineKey | None
    noise: NodeNoise | None
    spread: SessionSpread | None
    across: bool
    references: bool

    def of_node(self, metric: str, counted: Iterable[SessionRecord]) -> SessionSpread | None:
        """What the node's noise tells of a metric beside the sessions that tell themselves."""
        if self.noise is None or self.key is None:
            return None
        return self.noise.spread(metric, self.key, {one.session for one in counted})


@dataclass(frozen=True)
class Compared:
    """Sessions now and those that they are compared with; the `telling` ones say how much sessions differ."""

    now: Sequence[SessionRecord]
    others: Sequence[SessionRecord]
    telling: Sequence[SessionRecord]
    known: Knowledge


def judge(
    now: Sequence[SessionRecord],
    baseline: Baseline | None,
    gates: Sequence[Gate],
    *,
    alpha: float,
    look: float | None = None,
    noise: NodeNoise | None = None,
    spread: SessionSpread | None = None,
    across: bool = False,
    references: bool = True,
    test: str = "",
) -> list[Verdict]:
    """Judge the gated metrics of one test: `now` is one session, or several that are judged together.

    `alpha` is each verdict's share (`stats.suite_share`), `look` the level of this look when runs are adaptive
    (`stats.plan_looks`), `noise` what is known of the node's sessions (`baselines.noise`), for gated metrics, their
    low quantiles and the reference loads. Comparable sessions of the baseline are used, the others named; `across`
    compares with all (for looking, never for a gate) and `spread` overrides what sessions are known to vary by.
    Without `references` the reference loads are not compared, since they ran in unlike balloons.
    """
    known = Knowledge(None if baseline is None else baseline.key, noise, spread, across, references)
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
    own = {record.session for record in now}
    others = [] if baseline is None else [one for one in baseline.sessions if one.session not in own]
    others = [one for one in others if one.values(blank.metric)]
    if not others:
        return replace(
            blank, outcome="missing", reason="no baseline", advice="accept this session: --nri-accept missing"
        )
    refused, usable = comparable(now, others, across=known.across)
    newest = (usable or others)[-1]
    blank = replace(blank, suspects=unlike(newest, now, "treatment"), state_differences=unlike(newest, now, "state"))
    if not usable:
        return replace(blank, outcome=refused[0], reason=refused[1], advice=refused[2])
    crossed = unlike(newest, now, "identity")
    if crossed:
        blank = blank.warned(f"compared across: {', '.join(map(str, crossed))}")
    left_out = len(others) - len(usable)
    if left_out:
        blank = blank.warned(f"{left_out} of {len(others)} baseline sessions left out: another identity or state")
    recent, anchor = _divided(usable, baseline)
    if not anchor:
        return _against(Compared(now, recent, recent, known), blank, level)
    return _since_anchor(
        _against(Compared(now, recent, recent, known), blank, level * (1 - ANCHOR_SHARE)),
        _against(Compared(now, anchor, recent, known), blank, level * ANCHOR_SHARE),
        anchor,
    )


def _against(sides: Compared, blank: Verdict, level: float) -> Verdict:
    """The verdict, with what each run's low quantile says, unless the machine changed."""
    verdict = _judged(sides, blank, level)
    name, statistic = split_metric(verdict.metric)
    if statistic == MEDIAN and verdict.outcome in ("same", "unknown"):
        plain = Verdict(f"{name}.low", "unknown", "", better=blank.better, alpha=blank.alpha, simulated=blank.simulated)
        low = _judged(sides, plain, level)
        # Contention only adds time, so a slowdown of the code shows best in the low quantile.
        if low.outcome == "worse":
            verdict = verdict.warned(f"each run's low quantile is {low.reason}; gate {low.metric} to fail on it")
    return guarded(verdict, _references(sides)) if sides.known.references else verdict


def _references(sides: Compared) -> dict[str, Verdict]:
    """The reference loads beside the runs, judged like rates."""
    judged = {}
    for name in sorted({name for record in sides.now for name in record.reference}):
        metric = f"{REFERENCE}.{name}"
        blank = Verdict(metric, "unknown", "", better="higher", alpha=REFERENCE_ALPHA, floor=REFERENCE_FLOOR)
        judged[name] = _judged(sides, blank, REFERENCE_ALPHA)
    return judged


def _judged(sides: Compared, blank: Verdict, level: float) -> Verdict:
    """The verdict on the values of one metric alone; `blank` where a side has none."""
    new, old, told = (_values(side, blank.metric) for side in (sides.now, sides.others, sides.telling))
    if not new or not old:
        return blank
    noise = sides.known.of_node(blank.metric, (*sides.now, *sides.telling))
    return judge_values(new, old, blank, noise, spread=sides.known.spread, telling=told, level=level)


def _values(records: Sequence[SessionRecord], metric: str) -> list[tuple[float, ...]]:
    """Run values, session by session; sessions without any are left out."""
    return [values for values in (one.values(metric) for one in records) if values]


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
    since = f"since the anchor of {sessions[0].time[:10]}: {format_percent(anchor.effect, signed=True)}"
    machine_stood = verdict.normalised is None
    if anchor.outcome == "worse" and verdict.outcome in ("same", "unknown") and machine_stood:
        return replace(
            anchor, reason=f"slow drift, {since} ({anchor.outcome}); since the newest sessions: {verdict.outcome}"
        )
    return verdict.warned(f"{since} ({anchor.outcome})")


def judge_values(
    now: Sequence[Sequence[float]],
    baseline: Sequence[Sequence[float]],
    blank: Verdict,
    noise: SessionSpread | None = None,
    *,
    spread: SessionSpread | None = None,
    telling: Sequence[Sequence[float]] | None = None,
    level: float | None = None,
) -> Verdict:
    """Judge run values, session by session, filling in `blank`.

    How much sessions differ is told by the baseline's, or by others of the same test (`telling`), and by `noise`
    (`baselines.noise`); `spread` overrides them. `level` is what a p has to reach when it is not the verdict's whole
    share of alpha.
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
    sign = 1.0 if blank.better == "lower" else -1.0
    new, old, told = (_logs(each, blank.metric, sign) for each in (now, baseline, telling or baseline))
    if new is None or old is None or told is None:
        return replace(blank, outcome="unknown", reason=f"{blank.metric} has values that are not positive: no ratio")
    alpha = blank.alpha or 0.05
    level = alpha if level is None else level
    known = spread or (SIMULATED if blank.simulated else session_spread(new, told, noise))
    if known is None:
        return _not_known(new, old, blank, sign)
    return decide(weigh(new, old, known, level), blank, alpha, level, sign)


def _not_known(now: Logs, baseline: Logs, blank: Verdict, sign: float) -> Verdict:
    """Sessions differ, and nobody looked by how much: whatever the runs show, it may be the hour."""
    count = len(baseline)
    more = ENOUGH_SESSIONS - count
    return replace(
        blank,
        outcome="unknown",
        effect=math.expm1(sign * shift_of_runs(now, baseline).estimate),
        reason=f"how much sessions differ is not known: the baseline has {count} session{'s' if count > 1 else ''}",
        advice=f"accept {more} more (--nri-accept all), or measure how sessions differ: "
        "nriperf noise --sessions 10 --save -- TESTS",
    )


def comparable(
    now: Sequence[SessionRecord], others: Sequence[SessionRecord], *, across: bool = False
) -> tuple[tuple[Outcome, str, str], list[SessionRecord]]:
    """Baseline sessions of the identity and state of all sessions now; and outcome, reason, advice without any."""
    if across:
        return ("unknown", "", ""), list(others)
    same = [one for one in others if not unlike(one, now, "identity")]
    if not same:
        found = ", ".join(map(str, unlike(others[-1], now, "identity")))
        advice = "this machine is another one: accept a baseline for it with nriperf accept --restart"
        return ("incomparable", f"identity differs: {found}", advice), []
    usable = [one for one in same if not unlike(one, now, "state")]
    found = ", ".join(map(str, unlike(same[-1], now, "state")))
    advice = "bring the machine back into that state (nriperf doctor), or accept --restart in the new one"
    return ("unknown", f"machine state: {found}", advice), usable


def unlike(
    baseline: SessionRecord, now: Sequence[SessionRecord], part: Literal["identity", "treatment", "state"]
) -> tuple[Difference, ...]:
    """In what any of the sessions now differs from one of the baseline, each difference once."""
    found: list[Difference] = []
    for record in now:
        found += [one for one in differences(baseline.fingerprint, record.fingerprint, part) if one not in found]
    return tuple(found)


def decide(sides: Sides, blank: Verdict, alpha: float, level: float, sign: float) -> Verdict:
    """The rules 2 to 4, everything at `level`, which is below the verdict's `alpha` at one of several looks.

    The interval and with it `same` too: a premature `same` would end the runs before they show a change.
    """
    shift, spread = sides.shift, sides.shift.spread
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
        session_spread=None if spread.is_none else math.expm1(spread.typical()),
        session_spread_source=spread.source,
    )
    change = side(estimate, sign).split()[0] + " %"
    if above <= level * (1 + 1e-9) and estimate >= floor:
        return replace(judged, outcome="worse", reason=f"worse by {change} (p = {above:.2g}, level {level:.2g})")
    if below <= level * (1 + 1e-9) and -estimate >= floor:
        return replace(judged, outcome="better", reason=f"better by {change} (p = {below:.2g}, level {level:.2g})")
    if -tolerance <= low and high <= tolerance and mde is not None and mde <= tolerance:
        return replace(judged, outcome="same", reason=f"the change lies inside ±{blank.tolerance * 100:g} %")
    if shift.resolution > level:
        reason, advice = too_few(sides.now, sides.baseline, level, sides.unit)
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
    return max((high - low) / 2, floor) + sides.beyond()


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


def _logs(sessions: Sequence[Sequence[float]], metric: str, sign: float) -> Logs | None:
    """Logs of all sessions that have values, None where one has no logarithm."""
    found = [logs_of(session, metric, sign) for session in sessions if len(session)]
    return None if None in found else [logs for logs in found if logs is not None]


def _median(sessions: Sequence[Sequence[float]]) -> float:
    return float(np.median([value for session in sessions for value in session]))
