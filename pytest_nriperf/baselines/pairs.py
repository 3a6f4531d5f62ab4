"""Two variants measured together in one session, run by run: the session's own noise falls out of each pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pytest_nriperf.baselines.judging import decide
from pytest_nriperf.baselines.sessions import SessionRecord, split_metric
from pytest_nriperf.baselines.sides import Sides
from pytest_nriperf.baselines.verdict import Gate, Verdict, differences
from pytest_nriperf.stats import detectable, shift_of_pairs


def turns(pairs: int) -> str:
    """The order of runs that take turns: A B B A B A A B, then A B A B B A B A and B A B A A B A B by turns.

    After every fourth pair both sides stood first equally often and a steady drift falls out. Runs that follow each
    other are often alike (autocorrelation), so differences of pairs that follow each other are unlike where these
    stand alike, and alike where they are turned. With turned neighbours in the majority (A B B A for ever) the
    differences vary together and the test alarms half as often again as it should. Here alike neighbours are more.

    >>> turns(4), turns(12)[8:]
    ('ABBABAAB', 'ABABBABABABAABAB')
    """
    blocks = ("ABBABAAB", "ABABBABA", "BABAABAB")
    numbers = range((pairs + 3) // 4)
    return "".join(blocks[2 - number % 2 if number else 0] for number in numbers)[: 2 * pairs]


def halves_taken(pairs: int) -> str:
    """Which variant of a duet has the first half of the balloon, then which the second, pair by pair.

    Both have each half equally often after every second pair, since halves differ more than a drift does.

    >>> halves_taken(4), halves_taken(3)
    ('ABBABAAB', 'ABBABA')
    """
    return "".join("AB" if number % 4 in (0, 3) else "BA" for number in range(pairs))


def started_in_order(pairs: int) -> str:
    """Which variant of a duet is started first, then which second, pair by pair; both load at the same time.

    The engine that was loaded last is often faster (its memory is the fresher), whatever its half of the balloon: what
    a small lead leaves of that falls out over four pairs, in which each variant meets both orders in both halves.

    >>> started_in_order(4), [started_in_order(4)[at] == halves_taken(4)[at] for at in (0, 2, 4, 6)]
    ('ABABBABA', [True, False, True, False])
    """
    return "".join("AB" if number % 4 in (0, 1) else "BA" for number in range(pairs))


def judge_variants(
    first: tuple[str, SessionRecord],
    second: tuple[str, SessionRecord],
    gates: Sequence[Gate],
    *,
    alpha: float,
    level: float | None = None,
    test: str = "",
) -> list[Verdict]:
    """Judge the second variant (its name and its runs) against the first, in the pairs of runs that both have."""
    (name, before), (other, now) = first, second
    remarks = [
        f"{whose}: disturbed run {run} ({text})"
        for whose, record in (first, second)
        for run, text in sorted(record.remarks.items())
    ]
    verdicts = []
    for gate in gates:
        kind = now.metrics.get(split_metric(gate.metric)[0])
        blank = Verdict(
            gate.metric,
            "unknown",
            "",
            unit="" if kind is None else kind.unit,
            better="lower" if kind is None else kind.better,
            alpha=alpha,
            tolerance=gate.tolerance,
            floor=gate.floor,
            warnings=tuple(remarks),
            suspects=differences(before.fingerprint, now.fingerprint, "treatment"),
            simulated=before.simulated or now.simulated,
            test=test,
        )
        old, new = before.by_run(gate.metric), now.by_run(gate.metric)
        common = sorted(old.keys() & new.keys())
        judged = judge_pairs([old[run] for run in common], [new[run] for run in common], blank, level=level)
        verdicts.append(replace(judged, reason=f"{other} against {name}: {judged.reason}"))
    return verdicts


def judge_pairs(
    first: Sequence[float], second: Sequence[float], blank: Verdict, *, level: float | None = None
) -> Verdict:
    """Judge variant b (`second`) against a (`first`); values stand in pairs that ran next to or beside each other.

    `level` is what a p has to reach at one of several looks (`stats.plan_pair_looks`), else the verdict's alpha.

    Exact signed-rank test on the differences of logs: assumes of them only that they are symmetric when nothing
    differs, which swapping a and b at random or in the orders above gives. Raises ValueError for unequal lengths.
    """
    pairs = list(zip(first, second, strict=True))
    blank = replace(
        blank,
        now=float(np.median(second)) if pairs else None,
        baseline=float(np.median(first)) if pairs else None,
        runs=len(pairs),
        baseline_runs=len(pairs),
        sessions=1,
        baseline_sessions=1,
    )
    if not pairs:
        return replace(blank, outcome="unknown", reason=f"no pair of runs gave values of {blank.metric}")
    if min(map(min, pairs)) <= 0:
        return replace(blank, outcome="unknown", reason=f"{blank.metric} has values that are not positive: no ratio")
    sign = 1.0 if blank.better == "lower" else -1.0
    differences = [sign * (math.log(b) - math.log(a)) for a, b in pairs]
    spread = float(np.std(differences, ddof=1)) / math.sqrt(2) if len(pairs) > 1 else 0.0
    count = len(pairs)
    sides = Sides(count, count, shift_of_pairs(differences), spread, count - 1, "pairs")
    alpha = blank.alpha or 0.05
    level = alpha if level is None else level
    judged = decide(sides, blank, alpha, level, sign)
    if judged.outcome != "unknown":
        return judged
    if sides.shift.resolution > level:
        needed = math.ceil(-math.log2(level))
        reason = f"{len(pairs)} pairs have {2 ** len(pairs)} sign patterns: p cannot reach {level:.2g}"
        return replace(judged, reason=reason, advice=f"measure {needed} pairs (--nri-runs)")
    return replace(judged, advice=_advice(spread, len(pairs), alpha, blank.tolerance))


def _advice(spread: float, pairs: int, alpha: float, tolerance: float) -> str:
    """How many pairs detect a change of the size of the tolerance."""
    enough = (n for n in range(2, 1000) if detectable(spread, n, n, alpha) <= math.log1p(tolerance))
    needed = max(next(enough, 0), pairs + max(1, pairs // 2))
    return f"measure {needed} pairs (now {pairs}) to settle {tolerance * 100:g} % (--nri-runs)"
