"""Looks: alpha spent over them, and no more; and planning."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

from pytest_nriperf.baselines import Verdict, judge_values
from pytest_nriperf.stats import (
    NO_SPREAD,
    SessionSpread,
    arrangements,
    detectable,
    level_at,
    plan_looks,
    runs_for_effect,
    runs_for_share,
    session_means,
)


@given(st.integers(2, 10), st.integers(0, 20), st.integers(3, 60), st.sampled_from([0.05, 0.01, 0.002]))
@settings(max_examples=30, deadline=None)
def test_looks_are_ordered_and_none_is_blind(least: int, more: int, baseline: int, alpha: float) -> None:
    looks = plan_looks(least, least + more, baseline, alpha)
    assert [look.runs for look in looks] == sorted({look.runs for look in looks})
    assert looks[-1].runs == least + more
    assert all(look.alpha <= alpha * 1.001 for look in looks)
    assert sum(look.alpha for look in looks) >= alpha * 0.999
    assert all(arrangements(look.runs, baseline) * look.alpha >= 1 for look in looks[:-1])


@pytest.mark.parametrize("baseline", [5, 20, 200])
def test_the_looks_together_keep_alpha(baseline: int) -> None:
    rng = np.random.default_rng(1)
    now, before = rng.normal(size=(40_000, 20)), rng.normal(size=(40_000, 1)) / math.sqrt(baseline)
    passed = np.zeros(40_000, dtype=bool)
    for runs, alpha in plan_looks(5, 20, baseline, 0.05):
        error = math.sqrt(1 / runs + 1 / baseline)
        passed |= (now[:, :runs].mean(axis=1) - before[:, 0]) / error > -ndtri(alpha)
    assert passed.mean() == pytest.approx(0.05, abs=0.004)


@pytest.mark.parametrize("between", [0.0, 0.02])
def test_adaptive_runs_keep_the_alarm_rate(between: float) -> None:
    rng = np.random.default_rng(2)
    looks, worse, cases = plan_looks(5, 12, 12, 0.05), 0, 300
    for _ in range(cases):
        old = [list(np.exp(rng.normal(0, between) + rng.normal(0, 0.03, 3))) for _ in range(4)]
        now = np.exp(rng.normal(0, between) + rng.normal(0, 0.03, 12))
        check = session_means([list(rng.normal(0, between) + rng.normal(0, 0.03, 5)) for _ in range(20)])
        blank = Verdict("itl", "unknown", "", alpha=0.05)
        for runs, level in looks:
            found = judge_values([list(now[:runs])], old, blank, SessionSpread((check,)), level=level)
            if found.settled:
                break
        worse += found.outcome == "worse"
    # Three standard errors above 5 % at 300 cases.
    assert worse / cases <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / cases)


def test_adaptive_runs_find_a_slowdown_in_fewer_runs() -> None:
    rng = np.random.default_rng(2)
    looks, found, used = plan_looks(5, 12, 12, 0.05), 0, 0
    for _ in range(100):
        old = [list(np.exp(rng.normal(0, 0.035, 3))) for _ in range(4)]
        now = np.exp(0.0488 + rng.normal(0, 0.035, 12))
        blank = Verdict("itl", "unknown", "", alpha=0.05)
        for runs, level in looks:
            judged = judge_values([list(now[:runs])], old, blank, spread=NO_SPREAD, level=level)
            if judged.settled:
                break
        found, used = found + (judged.outcome == "worse"), used + runs
    assert found >= 85
    assert used / 100 < 10


def test_a_number_of_runs_between_looks_is_judged_as_the_look_before() -> None:
    looks = plan_looks(5, 12, 12, 0.05)
    assert level_at(looks, 7) == looks[0].alpha
    assert level_at(looks, 3) is None


def test_with_five_baseline_runs_no_number_of_runs_gets_below_3_9_percent() -> None:
    assert detectable(0.035, math.inf, 5, 0.05) == pytest.approx(0.0389, abs=1e-4)
    assert runs_for_effect(0.035, 5, 0.05, 0.038) == 0
    assert runs_for_effect(0.035, 5, 0.05, 0.04) > 50


@given(st.integers(1, 30), st.sampled_from([0.05, 0.01, 0.001]))
@settings(max_examples=30, deadline=None)
def test_the_runs_needed_for_a_share_are_the_fewest(baseline: int, alpha: float) -> None:
    needed = runs_for_share(baseline, alpha)
    if needed:
        assert arrangements(needed, baseline) * alpha >= 1 - 1e-9
        assert needed == 1 or arrangements(needed - 1, baseline) * alpha < 1
