"""The machine or the code: reference loads, disturbed runs, slow drift, pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from pytest_nriperf.baselines import Baseline, BaselineKey, Gate, MetricRuns, SessionRecord, Verdict, judge
from pytest_nriperf.baselines.drift import disturbances
from pytest_nriperf.baselines.noise import measured_noise
from pytest_nriperf.baselines.pairs import halves_taken, judge_pairs, started_in_order, turns

KEY = BaselineKey("test_chat", "cpus=1", "m", "w")
STEADY = (1.000, 1.004, 0.996, 1.002, 0.998)


def record(
    day: int, factor: float = 1.0, bandwidth: float = 1.0, remarks: dict[int, str] | None = None
) -> SessionRecord:
    runs = {run: {"median": value * factor} for run, value in enumerate(STEADY)}
    reference = {"memory_bandwidth": {run: 1e10 * bandwidth * value for run, value in enumerate(STEADY)}}
    return SessionRecord(
        f"s{day:03}",
        f"2026-11-{day:03}",
        {},
        {"itl": MetricRuns("s", "lower", runs)},
        reference=reference,
        remarks=remarks or {},
    )


def verdict(now: SessionRecord, before: Sequence[SessionRecord], pinned: Sequence[str] = ()) -> Verdict:
    return judge([now], Baseline(KEY, tuple(before), frozenset(pinned)), [Gate("itl")], alpha=0.05)[0]


FOUR = [record(day, 1 + day / 1000, 1 + day / 1000) for day in range(1, 5)]


def test_a_reference_that_moved_makes_the_verdict_unknown_and_normalises() -> None:
    found = verdict(record(20, 1.16, 0.86), FOUR)
    assert found.outcome == "unknown"
    assert found.reason == "the machine changed (memory bandwidth -14 %)"
    assert found.effect == pytest.approx(0.157, abs=0.01)
    assert found.normalised == pytest.approx(0.0, abs=0.01)


def test_references_of_unlike_balloons_are_not_compared() -> None:
    kept = Baseline(KEY, tuple(FOUR))
    (found,) = judge([record(20, 1.16, 0.86)], kept, [Gate("itl")], alpha=0.05, references=False)
    assert found.outcome == "worse"


def test_a_reference_that_stood_leaves_the_verdict() -> None:
    assert verdict(record(20, 1.16), FOUR).outcome == "worse"
    assert verdict(record(20), FOUR).outcome == "same"


def test_without_a_reference_beside_the_baseline_nothing_is_guarded() -> None:
    before = [SessionRecord(one.session, one.time, {}, one.metrics) for one in FOUR]
    assert verdict(record(20, 1.16, 0.5), before).outcome == "worse"


def test_what_a_reference_varies_by_is_told_by_the_noise_check_too() -> None:
    nights = [record(day, 1 + day / 1000, 1 + day / 1000) for day in range(30, 38)]
    check = measured_noise("xeon1", {KEY: nights}, "today")
    kept = Baseline(KEY, tuple(FOUR[:1]))
    (found,) = judge([record(20, 1.16, 0.86)], kept, [Gate("itl")], alpha=0.05, noise=check)
    assert found.reason == "the machine changed (memory bandwidth -14 %)"
    (unheard,) = judge([record(20, 1.16, 0.86)], kept, [Gate("itl")], alpha=0.05)
    assert "how much sessions differ is not known" in unheard.reason


def test_a_drift_of_the_machine_is_told_from_one_of_the_code() -> None:
    drifting = [record(day, 1.01 ** (day // 7), 0.99 ** (day // 7)) for day in range(1, 60)]
    found = verdict(record(60, 1.01**8, 0.99**8), drifting, ["s001", "s002", "s003"])
    assert found.outcome in ("same", "unknown")
    assert any("since the anchor of 2026-11-00: +" in text and "unknown" in text for text in found.warnings)


def test_a_slow_drift_is_seen_against_the_anchor() -> None:
    drifting = [record(day, 1.01 ** (day // 7)) for day in range(1, 60)]
    found = verdict(record(60, 1.01**8), drifting, ["s001", "s002", "s003"])
    assert found.outcome == "worse"
    assert "slow drift, since the anchor" in found.reason


def test_without_drift_the_anchor_is_only_told() -> None:
    steady = [record(day, 1 + day % 3 / 1000) for day in range(1, 60)]
    found = verdict(record(60), steady, ["s001", "s002", "s003"])
    assert found.outcome == "same"
    assert any("since the anchor" in text for text in found.warnings)


def test_remarks_on_runs_are_always_reported() -> None:
    found = verdict(record(20, remarks={2: "steal 4.0 % of CPU time"}), FOUR)
    assert found.warnings == ("disturbed runs of s020: 2 (steal 4.0 % of CPU time)",)


def test_disturbances_follow_rules_fixed_beforehand() -> None:
    assert disturbances({"steal_share": 0.005}) == ()
    assert disturbances({"thermal_throttles": 3}) == ("thermal throttling, 3 times",)
    assert disturbances({"steal_share": 0.005}, {"steal_share": 0.001}) == ("steal 0.5 % of CPU time",)


def blank(alpha: float = 0.05, better: str = "lower") -> Verdict:
    return Verdict("itl", "unknown", "", better=better, alpha=alpha)


def test_pairs_find_what_the_noise_of_sessions_would_hide() -> None:
    common = [1.0, 1.3, 0.8, 1.1, 0.9, 1.2, 1.05, 0.7]
    found = judge_pairs(common, [value * (1.05 + at / 1000) for at, value in enumerate(common)], blank())
    assert found.outcome == "worse"
    assert found.effect == pytest.approx(0.0535, abs=0.005)
    assert found.p == pytest.approx(1 / 256)


def test_pairs_of_a_rate_turn_round() -> None:
    assert judge_pairs([10.0] * 8, [11.0 + at / 100 for at in range(8)], blank(better="higher")).outcome == "better"


def test_too_few_pairs_say_how_many_are_needed() -> None:
    found = judge_pairs([1.0] * 4, [2.0] * 4, blank(0.01))
    assert found.outcome == "unknown"
    assert "16 sign patterns" in found.reason
    assert "7 pairs" in found.advice


def test_no_pairs_and_bad_pairs_are_unknown() -> None:
    assert "no pair" in judge_pairs([], [], blank()).reason
    assert "not positive" in judge_pairs([1.0], [0.0], blank()).reason


@pytest.mark.parametrize("pairs", [4, 8, 12, 16, 20])
def test_a_steady_drift_falls_out_of_pairs_in_turn(pairs: int) -> None:
    order = turns(pairs)
    positions = {letter: sum(at for at, one in enumerate(order) if one == letter) for letter in "AB"}
    assert positions["A"] == positions["B"]


def mean_varies(order: str, correlation: float) -> float:
    """Variance of the mean difference of pairs in this order, by that of as many independent differences."""
    runs = np.arange(len(order))
    alike = correlation ** np.abs(np.subtract.outer(runs, runs))
    sides = np.where(np.array(list(order)) == "B", 1.0, -1.0)
    return float(sides @ alike @ sides / (len(order) * (1 - correlation)))


@pytest.mark.parametrize("pairs", range(8, 41))
def test_runs_that_are_like_their_neighbours_do_not_raise_alarms_of_pairs(pairs: int) -> None:
    assert mean_varies(turns(pairs), 0.4) <= 1.0
    assert mean_varies("ABBA" * pairs, 0.4) > 1.15


def test_both_variants_of_a_duet_have_each_half_equally_often() -> None:
    assert all(halves_taken(pairs)[::2].count("A") == pairs // 2 for pairs in range(2, 21, 2))


def test_each_variant_of_a_duet_is_started_first_and_last_in_both_halves() -> None:
    for pairs in (4, 8, 12):
        met = Counter(zip(halves_taken(pairs)[::2], started_in_order(pairs)[::2], strict=True))
        assert met == dict.fromkeys([("A", "A"), ("B", "A"), ("B", "B"), ("A", "B")], pairs // 4)
