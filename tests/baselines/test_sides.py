"""The two sides of a comparison: what is ranked, and who tells how much sessions differ."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nriperf.baselines.sides import ENOUGH_SESSIONS, Logs, session_spread, weigh
from pytest_nriperf.stats import NO_SPREAD, SessionSpread, session_means

GUESS = SessionSpread(guess=0.03, guess_degrees=4, source="other tests")


def side(seed: int, sessions: int, runs: int = 3) -> Logs:
    rng = np.random.default_rng(seed)
    return [list(rng.normal(0, 0.02) + rng.normal(0, 0.01, runs)) for _ in range(sessions)]


@given(st.integers(0, 1000), st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_a_guess_counts_until_the_sessions_themselves_are_enough(seed: int, sessions: int) -> None:
    now, baseline = side(seed, 1), side(seed + 1, sessions)
    alone, guessed = session_spread(now, baseline), session_spread(now, baseline, GUESS)
    if sessions >= ENOUGH_SESSIONS:
        assert guessed == alone
    else:
        assert alone is None
        assert guessed is not None
        assert guessed.degrees == 4 + sessions - 1


def test_a_noise_check_of_the_test_is_pooled_with_its_baseline() -> None:
    check = SessionSpread((session_means(side(1, 10)),), source="check")
    spread = session_spread(side(2, 1), side(3, 4), check)
    assert spread is not None
    assert (spread.degrees, spread.source) == (12, "4 sessions of the baseline and check")


@pytest.mark.parametrize(
    ("now", "baseline", "unit"),
    [
        (side(1, 5, 1), side(2, 5, 1), "sessions"),
        (side(1, 5, 4), side(2, 5, 5), "sessions"),
        (side(1, 5, 1), side(2, 5, 5), "runs"),
        (side(1, 2, 5), side(2, 5, 5), "runs"),
        (side(1, 1, 5), side(2, 5, 5), "runs"),
    ],
    ids=["rounds", "about as many runs each", "unlike numbers of runs", "too few sessions", "one session now"],
)
def test_sessions_are_ranked_where_they_are_alike_and_enough(now: Logs, baseline: Logs, unit: str) -> None:
    spread = session_spread(now, baseline)
    assert spread is not None
    sides = weigh(now, baseline, spread, 0.01)
    assert sides.unit == unit
    counted = len if unit == "sessions" else lambda one: sum(map(len, one))
    assert (sides.now, sides.baseline) == (counted(now), counted(baseline))


def test_without_a_spread_between_sessions_runs_are_ranked() -> None:
    assert weigh(side(1, 5), side(2, 5), NO_SPREAD, 0.01).unit == "runs"


def test_of_sessions_as_units_their_means_tell_what_can_be_found() -> None:
    now, baseline = side(1, 8), side(2, 8)
    spread = session_spread(now, baseline)
    assert spread is not None
    sides = weigh(now, baseline, spread, 0.01)
    means = [np.mean(np.asarray(each), axis=1) for each in (now, baseline)]
    assert sides.deviation == pytest.approx(math.sqrt(np.mean([mean.var(ddof=1) for mean in means])))
    assert sides.degrees == 14
