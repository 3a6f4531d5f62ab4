"""What is known of a node: kept, borrowed, shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pytest_nriperf.baselines import BaselineKey, BaselineStore, MetricRuns, SessionRecord
from pytest_nriperf.baselines.noise import (
    LEAST_BORROWED,
    MOST_BORROWED,
    load_noise,
    measured_noise,
    noise_path,
    save_noise,
)
from pytest_nriperf.baselines.noisiness import noisiness, worst
from pytest_nriperf.errors import BaselineError
from pytest_nriperf.report.noise import noise_lines

CHAT, LONG = BaselineKey("test_chat", "cpus=1", "m", "w"), BaselineKey("test_long", "cpus=1", "m", "w")


def sessions(count: int, between: float = 0.02, treatment: str = "a") -> list[SessionRecord]:
    rng = np.random.default_rng(count)
    return [
        SessionRecord(
            f"s{number:03}",
            f"2026-{number:03}",
            {"treatment": {"torch": treatment}},
            {
                "itl": MetricRuns(
                    "s",
                    "lower",
                    {
                        run: {"median": float(value)}
                        for run, value in enumerate(np.exp(rng.normal(0, between) + rng.normal(0, 0.01, 5)))
                    },
                )
            },
        )
        for number in range(count)
    ]


def test_a_noise_check_is_kept_and_found_again(tmp_path: Path) -> None:
    store = BaselineStore(tmp_path, "xeon1")
    noise = measured_noise("xeon1", {CHAT: sessions(20)}, "2026-11-24")
    save_noise(store, noise)
    assert load_noise(store) == noise
    spread = load_noise(store).spread("itl", CHAT)
    assert spread is not None
    assert spread.degrees == 19
    assert spread.source == "noise check of 2026-11-24, 20 of this test"


def test_sessions_that_stand_in_the_baseline_too_do_not_count_twice(tmp_path: Path) -> None:
    store = BaselineStore(tmp_path, "xeon1")
    save_noise(store, measured_noise("xeon1", {CHAT: sessions(20)}, "2026-11-24"))
    noise = load_noise(store)
    spread = noise.spread("itl", CHAT, {f"s{number:03}" for number in range(12)})
    assert spread is not None
    assert spread.degrees == 7
    assert spread.source == "noise check of 2026-11-24, 8 of this test"
    assert noise.spread("itl", CHAT, {f"s{number:03}" for number in range(18)}) is None


def test_another_tests_noise_is_a_guess_of_few_degrees() -> None:
    spread = measured_noise("xeon1", {CHAT: sessions(20, 0.001)}, "2026-11-24").spread("itl", LONG)
    assert spread is not None
    assert spread.degrees == MOST_BORROWED
    assert (spread.evidence, spread.guess) == ((), LEAST_BORROWED)
    assert spread.source == "the most restless of 1 other tests of this node"


def test_of_several_other_tests_the_most_restless_one_is_believed() -> None:
    calm = {BaselineKey(f"test_{number}", "cpus=1", "m", "w"): sessions(20, 0.01) for number in range(5)}
    alone = measured_noise("xeon1", {CHAT: sessions(20, 0.08)}).spread("itl", LONG)
    among = measured_noise("xeon1", {**calm, CHAT: sessions(20, 0.08)}).spread("itl", LONG)
    assert alone is not None
    assert among is not None
    assert among.guess == alone.guess > LEAST_BORROWED


def test_a_restless_test_is_believed_although_the_noise_check_left_it_out(tmp_path: Path) -> None:
    store = BaselineStore(tmp_path, "xeon1")
    save_noise(store, measured_noise("xeon1", {CHAT: sessions(20, 0.01)}, "2026-11-24"))
    restless = BaselineKey("test_restless", "cpus=1", "m", "w")
    for one in sessions(6, 0.2):
        store.append("suites/test_restless.py", restless, one)
    spread = load_noise(store).spread("itl", LONG)
    assert spread is not None
    assert spread.guess > 0.1
    own = load_noise(store).spread("itl", restless)
    assert own is not None
    assert own.source == "accepted sessions, 6 of this test"


def test_without_a_check_the_accepted_sessions_of_other_tests_tell(tmp_path: Path) -> None:
    store = BaselineStore(tmp_path, "xeon1")
    for one in sessions(6):
        store.append("suites/test_chat.py", CHAT, one)
    noise = load_noise(store)
    spread = noise.spread("itl", LONG)
    assert spread is not None
    assert spread.degrees == MOST_BORROWED
    assert "other tests" in spread.source
    own = noise.spread("itl", CHAT)
    assert own is not None
    assert (own.degrees, own.source) == (5, "accepted sessions, 6 of this test")
    assert noise.spread("itl", CHAT, {one.session for one in sessions(6)}) is None


def test_sessions_before_a_change_of_treatment_do_not_count_as_noise(tmp_path: Path) -> None:
    store = BaselineStore(tmp_path, "xeon1")
    for one in [*sessions(3, treatment="old"), *sessions(6)[3:]]:
        store.append("suites/test_chat.py", CHAT, one)
    spread = load_noise(store).spread("itl", LONG)
    assert spread is not None
    assert spread.degrees == 2


def test_too_few_sessions_tell_nothing() -> None:
    assert measured_noise("xeon1", {CHAT: sessions(2)}).spread("itl", LONG) is None


def test_a_damaged_noise_check_is_refused_by_name(tmp_path: Path) -> None:
    store = BaselineStore(tmp_path, "xeon1")
    save_noise(store, measured_noise("xeon1", {CHAT: sessions(5)}, "2026-11-24"))
    noise_path(store).write_text('{"format": 1, "noise": {"itl": 3}}')
    with pytest.raises(BaselineError, match=r"noise\.json"):
        load_noise(store)


def test_a_noise_check_does_not_disturb_the_baselines(tmp_path: Path) -> None:
    store = BaselineStore(tmp_path, "xeon1")
    save_noise(store, measured_noise("xeon1", {CHAT: sessions(5)}, "2026-11-24"))
    store.append("suites/test_chat.py", CHAT, sessions(1)[0])
    assert len(store.load("suites/test_chat.py")) == 1


def test_the_advice_follows_the_larger_spread() -> None:
    (restless,) = noisiness(measured_noise("x", {CHAT: sessions(30, 0.05)}), 0.05)
    (quiet,) = noisiness(measured_noise("x", {CHAT: sessions(30, 0.0)}), 0.05)
    assert "sessions differ more than runs" in restless.advice
    assert "quiet enough" in quiet.advice
    assert worst([quiet, restless]) is restless
    assert restless.designs[0].detectable > quiet.designs[0].detectable


def test_the_table_says_what_can_be_detected() -> None:
    noise = measured_noise("x", {CHAT: sessions(12)}, "2026-11-24")
    text = "\n".join(noise_lines(noise, noisiness(noise, 0.05), 0.05))
    assert "noise check of 2026-11-24" in text
    assert "10v5x5" in text
