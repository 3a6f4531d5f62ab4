"""The statistics of verdicts: pure functions of numbers. docs/statistics.md tells the method from the outside in."""

from __future__ import annotations

from pytest_nriperf.stats.looks import Look, level_at, plan_looks, plan_pair_looks
from pytest_nriperf.stats.planning import detectable, runs_for_effect, runs_for_share, suite_share
from pytest_nriperf.stats.rank import arrangements
from pytest_nriperf.stats.shift import Shift, shift_of_pairs, shift_of_runs
from pytest_nriperf.stats.spread import NO_SPREAD, SessionMeans, SessionSpread, session_means

__all__ = [
    "NO_SPREAD",
    "Look",
    "SessionMeans",
    "SessionSpread",
    "Shift",
    "arrangements",
    "detectable",
    "level_at",
    "plan_looks",
    "plan_pair_looks",
    "runs_for_effect",
    "runs_for_share",
    "session_means",
    "shift_of_pairs",
    "shift_of_runs",
    "suite_share",
]
