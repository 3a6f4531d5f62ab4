"""Rules by which stored sessions can be judged again. The first is the gate's; the others are for comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from pytest_nriperf.baselines.judging import judge
from pytest_nriperf.baselines.noise import NodeNoise
from pytest_nriperf.baselines.sessions import MEDIAN, Baseline, SessionRecord, split_metric
from pytest_nriperf.baselines.verdict import Gate, Verdict
from pytest_nriperf.errors import UsageError
from pytest_nriperf.stats import NO_SPREAD
from pytest_nriperf.units import format_percent

RULES = {
    "sessions": "the gate's rule: exact rank test on runs, widened by the spread between sessions",
    "low": "the same on each run's 10th percentile: contention only adds time, so it finds slowdowns best",
    "tail": "the same on each run's 95th percentile",
    "runs": "the exact rank test blind to sessions: what changed, be it code or the hour",
    "threshold:PERCENT": "medians further apart than that: what most tools do; no alarm rate",
}


def judge_by(
    rule: str,
    now: Sequence[SessionRecord],
    baseline: Baseline | None,
    gates: Sequence[Gate],
    *,
    alpha: float,
    look: float | None = None,
    noise: NodeNoise | None = None,
    test: str = "",
) -> list[Verdict]:
    """Judge by a rule of RULES; the gate's own at the level `look` where given. Raises UsageError for another."""
    name, _, argument = rule.partition(":")
    if name == "sessions":
        return judge(now, baseline, gates, alpha=alpha, look=look, noise=noise, test=test)
    if name in ("low", "tail"):
        statistic = {"low": "low", "tail": "p95"}[name]
        moved = [replace(gate, metric=_of_statistic(gate.metric, statistic, now)) for gate in gates]
        return judge(now, baseline, moved, alpha=alpha, noise=noise, test=test)
    if name == "runs":
        return judge(now, baseline, gates, alpha=alpha, spread=NO_SPREAD, test=test)
    if name == "threshold":
        limit = _percent(rule, argument)
        return [_by_threshold(one, limit) for one in judge(now, baseline, gates, alpha=alpha, noise=noise, test=test)]
    raise UsageError(f"there is no rule {rule!r}", f"known are {', '.join(RULES)}")


def _of_statistic(metric: str, statistic: str, now: Sequence[SessionRecord]) -> str:
    """The metric's other statistic, where its runs have it (a rate has not)."""
    name, own = split_metric(metric)
    there = any(statistic in run for one in now if name in one.metrics for run in one.metrics[name].runs.values())
    return f"{name}.{statistic}" if own == MEDIAN and there else metric


def _by_threshold(verdict: Verdict, limit: float) -> Verdict:
    if verdict.now is None or not verdict.baseline or verdict.outcome in ("missing", "incomparable"):
        return verdict
    change = verdict.now / verdict.baseline - 1
    bad = change if verdict.better == "lower" else -change
    plain = replace(verdict, effect=change, interval=None, p=None, mde=None, advice="")
    said = f"medians differ by {format_percent(change, signed=True)}, limit {format_percent(limit)}"
    if abs(bad) <= limit:
        return replace(plain, outcome="same", reason=said)
    return replace(plain, outcome="worse" if bad > 0 else "better", reason=said)


def _percent(rule: str, text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = math.nan
    if not 0 < value < 100:
        raise UsageError(f"rule {rule!r} has no percentage", "write for example threshold:5%")
    return value
