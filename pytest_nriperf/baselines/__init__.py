"""Baselines and verdicts: what was accepted, what is compared with it, and the judgement."""

from __future__ import annotations

from pytest_nriperf.baselines.judging import judge, judge_values, level_reached, looks
from pytest_nriperf.baselines.sessions import Baseline, BaselineKey, MetricRuns, SessionRecord
from pytest_nriperf.baselines.store import BaselineStore
from pytest_nriperf.baselines.verdict import OUTCOMES, Difference, Gate, Outcome, Verdict, differences

__all__ = [
    "OUTCOMES",
    "Baseline",
    "BaselineKey",
    "BaselineStore",
    "Difference",
    "Gate",
    "MetricRuns",
    "Outcome",
    "SessionRecord",
    "Verdict",
    "differences",
    "judge",
    "judge_values",
    "level_reached",
    "looks",
]
