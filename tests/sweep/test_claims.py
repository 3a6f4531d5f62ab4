"""A claim is confirmed or refuted only when the whole interval says so."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_nriperf.sweep.claims import any_of, at_least, at_most


def values(middle: float, spread: float, count: int = 6, seed: int = 0) -> list[float]:
    return list(middle * np.exp(np.random.default_rng(seed).normal(0, spread, count)))


def test_a_clear_difference_confirms_or_refutes() -> None:
    assert at_least("x", values(30, 0.01), values(10, 0.01, seed=1), 2.5).outcome == "confirmed"
    assert at_least("x", values(20, 0.01), values(10, 0.01, seed=1), 2.5).outcome == "refuted"


def test_noise_or_too_few_runs_leave_it_undecided() -> None:
    assert at_least("x", values(30, 0.5), values(10, 0.5, seed=1), 2.5).outcome == "undecided"
    assert at_least("x", values(30, 0.01, 1), values(10, 0.01, 1), 2.5).outcome == "undecided"


def test_at_most_is_the_mirror_image() -> None:
    found = at_most("x", values(5, 0.01), values(10, 0.01, seed=1), 0.8)
    assert found.outcome == "confirmed"
    assert found.low < found.ratio < found.high
    assert found.ratio == pytest.approx(0.5, rel=0.03)
    assert at_most("x", values(9, 0.01), values(10, 0.01, seed=1), 0.8).outcome == "refuted"


def test_one_of_several_is_enough_and_all_must_be_refuted() -> None:
    good, bad, open_ = (
        at_least("x", values(middle, spread), values(10, 0.01, seed=1), 1.02)
        for middle, spread in ((12, 0.01), (9, 0.01), (10.2, 0.05))
    )
    assert any_of([bad, good]).outcome == "confirmed"
    assert any_of([bad, open_]).outcome == "undecided"
    assert any_of([bad, bad]).outcome == "refuted"
