"""The exact rank tests: against brute force, and against their own inversion."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, wilcoxon

from pytest_nriperf.stats import NO_SPREAD, arrangements, shift_of_pairs, shift_of_runs
from pytest_nriperf.stats.rank import rank_sum_masses, sign_masses

values = st.lists(st.floats(-1, 1).map(lambda value: round(value, 3)), min_size=1, max_size=7)


@pytest.mark.parametrize(("now", "baseline"), [(1, 1), (2, 3), (4, 4), (5, 5), (3, 6)])
def test_the_rank_sum_distribution_is_that_of_all_arrangements(now: int, baseline: int) -> None:
    counts = np.zeros(now * baseline + 1)
    for mine in itertools.combinations(range(now + baseline), now):
        others = set(range(now + baseline)) - set(mine)
        counts[sum(a > b for a in mine for b in others)] += 1
    assert counts.sum() == arrangements(now, baseline)
    assert rank_sum_masses(now, baseline) == pytest.approx(counts / counts.sum())


@pytest.mark.parametrize("pairs", [1, 3, 6])
def test_the_signed_rank_distribution_is_that_of_all_signs(pairs: int) -> None:
    counts = np.zeros(pairs * (pairs + 1) // 2 + 1)
    for signs in itertools.product((0, 1), repeat=pairs):
        counts[sum(rank * sign for rank, sign in enumerate(signs, 1))] += 1
    assert sign_masses(pairs) == pytest.approx(counts / counts.sum())


@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(2, 9))
@settings(max_examples=40, deadline=None)
def test_p_is_that_of_the_exact_mann_whitney_test(seed: int, now: int, baseline: int) -> None:
    rng = np.random.default_rng(seed)
    new, old = rng.normal(0.5, 1, now), rng.normal(0, 1, baseline)
    shift = shift_of_runs([list(new)], [list(old)])
    assert shift.p_above() == pytest.approx(mannwhitneyu(new, old, alternative="greater", method="exact").pvalue)
    assert shift.p_below() == pytest.approx(mannwhitneyu(new, old, alternative="less", method="exact").pvalue)


@given(st.integers(0, 10_000), st.integers(2, 12))
@settings(max_examples=30, deadline=None)
def test_p_of_pairs_is_that_of_the_exact_signed_rank_test(seed: int, pairs: int) -> None:
    differences = np.random.default_rng(seed).normal(0.3, 1, pairs)
    assert shift_of_pairs(list(differences)).p_above() == pytest.approx(
        wilcoxon(differences, alternative="greater", method="exact").pvalue
    )


@given(values, values, st.floats(-2, 2))
@settings(max_examples=60, deadline=None)
def test_ties_never_make_evidence(now: list[float], baseline: list[float], limit: float) -> None:
    shift = shift_of_runs([now], [baseline])
    assert shift.p_above(limit) + shift.p_below(limit) >= 1 - 1e-9
    assert shift.p_above(limit) >= shift.resolution - 1e-12


@given(values, values, st.sampled_from([0.01, 0.05, 0.2]))
@settings(max_examples=60, deadline=None)
def test_the_interval_holds_what_the_test_does_not_refuse(
    now: list[float], baseline: list[float], alpha: float
) -> None:
    shift = shift_of_runs([now], [baseline])
    low, high = shift.interval(alpha)
    if shift.resolution > alpha:
        assert (low, high) == (-math.inf, math.inf)
        return
    assert shift.p_above(low - 1e-6) <= alpha
    assert shift.p_above(low + 1e-6) > alpha
    assert shift.p_below(high + 1e-6) <= alpha
    assert shift.p_below(high - 1e-6) > alpha


@given(values, values, st.floats(-3, 3))
@settings(max_examples=40, deadline=None)
def test_a_shift_moves_the_estimate_and_nothing_else(now: list[float], baseline: list[float], move: float) -> None:
    plain, moved = shift_of_runs([now], [baseline]), shift_of_runs([[v + move for v in now]], [baseline])
    assert moved.estimate == pytest.approx(plain.estimate + move, abs=1e-9)


@given(values, values)
@settings(max_examples=40, deadline=None)
def test_swapping_the_sides_swaps_the_directions(now: list[float], baseline: list[float]) -> None:
    one, other = shift_of_runs([now], [baseline]), shift_of_runs([baseline], [now])
    assert one.p_above() == pytest.approx(other.p_below())
    assert one.estimate == pytest.approx(-other.estimate)


def test_one_session_has_no_spread_between_sessions() -> None:
    assert shift_of_runs([[1.0]], [[0.0]]).spread is NO_SPREAD
