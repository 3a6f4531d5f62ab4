"""The spread between sessions: Student's t where theory says so, heavier tails where little is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from pytest_nriperf.stats import NO_SPREAD, SessionSpread, session_means, shift_of_runs


@pytest.mark.parametrize("sessions", [3, 6, 20])
def test_single_run_sessions_give_students_t(sessions: int) -> None:
    means = np.random.default_rng(sessions).normal(0, 0.02, sessions)
    spread = SessionSpread((session_means([[float(mean)] for mean in means]),))
    points, tail = spread.tail(1 + 1 / sessions)
    error = means.std(ddof=1) * math.sqrt(1 + 1 / sessions)
    for distance in (0.01, 0.03, 0.08):
        expected = student.sf(distance / error, sessions - 1)
        # Far out the grid of candidate variances errs a little, to the safe side.
        assert np.interp(distance, points, tail) == pytest.approx(expected, rel=0.05 if expected > 1e-3 else 0.2)


def test_means_that_spread_as_runs_explain_leave_little_spread() -> None:
    rng = np.random.default_rng(3)
    sessions = [list(rng.normal(0, 0.035, 12)) for _ in range(40)]
    assert SessionSpread((session_means(sessions),)).typical() < 0.008


def test_a_large_spread_is_found() -> None:
    rng = np.random.default_rng(3)
    sessions = [list(rng.normal(0, 0.03) + rng.normal(0, 0.01, 5)) for _ in range(40)]
    assert SessionSpread((session_means(sessions),)).typical() == pytest.approx(0.03, rel=0.25)


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_a_spread_only_weakens_the_evidence_of_sides_that_do_not_overlap(seed: int, now: int, sessions: int) -> None:
    rng = np.random.default_rng(seed)
    new, old = [list(rng.normal(0.2, 0.02, now))], [list(rng.normal(0, 0.02, 3)) for _ in range(sessions)]
    by_guess = [shift_of_runs(new, old, SessionSpread(guess=guess, guess_degrees=5)) for guess in (0.01, 0.03, 0.1)]
    evidence = [shift.p_above() for shift in (shift_of_runs(new, old), *by_guess)]
    assert evidence == sorted(evidence)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_the_interval_agrees_with_the_test_with_a_spread_too(seed: int) -> None:
    rng = np.random.default_rng(seed)
    new, old = [list(rng.normal(0.05, 0.02, 6))], [list(rng.normal(0, 0.03) + rng.normal(0, 0.02, 4)) for _ in range(5)]
    shift = shift_of_runs(new, old, SessionSpread((session_means(old),)))
    low, high = shift.interval(0.05)
    assert shift.p_above(low) == pytest.approx(0.05, abs=2e-3)
    assert shift.p_below(high) == pytest.approx(0.05, abs=2e-3)


def test_the_masses_of_a_spread_are_a_distribution() -> None:
    means = session_means([[0.0, 0.01], [0.02, 0.01], [0.03, 0.05]])
    points, tail = SessionSpread((means,)).tail(1.5)
    assert tail[0] == pytest.approx(1.0, abs=1e-6)
    assert (np.diff(tail) <= 1e-12).all()
    assert np.interp(0.0, points, tail) >= 0.5


def test_nothing_known_has_no_degrees() -> None:
    assert SessionSpread().degrees == 0
    assert math.isinf(NO_SPREAD.degrees)
    assert NO_SPREAD.typical() == 0
