"""Verdicts: the rules of worse, better, same and unknown, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from pytest_nriperf.baselines import Baseline, BaselineKey, Gate, MetricRuns, SessionRecord, Verdict, judge
from pytest_nriperf.baselines.noise import NodeNoise, measured_noise

KEY = BaselineKey("test_chat", "cpus=1", "sim:", "new_tokens=8")
STEADY = (1.000, 1.004, 0.996, 1.002, 0.998)


def record(
    name: str,
    values: Sequence[float],
    *,
    better: str = "lower",
    simulated: bool = False,
    **parts: Mapping[str, Any],
) -> SessionRecord:
    runs = {run: {"median": value, "low": value * 0.9} for run, value in enumerate(values)}
    fingerprint = {"identity": {"cpu": "x"}, "treatment": {"torch": "2.12"}, "state": {"thp": "always"}, **parts}
    return SessionRecord(
        name, f"2026-11-{name}T00:00:00Z", fingerprint, {"itl": MetricRuns("s", better, runs)}, simulated=simulated
    )


def verdict(
    now: SessionRecord,
    *before: SessionRecord,
    alpha: float = 0.05,
    metric: str = "itl",
    noise: NodeNoise | None = None,
) -> Verdict:
    return judge([now], Baseline(KEY, before), [Gate(metric)], alpha=alpha, noise=noise)[0]


def scaled(values: Sequence[float], factor: float) -> list[float]:
    return [value * factor for value in values]


FOUR = [record(f"0{day}", scaled(STEADY, 1 + 0.002 * day)) for day in range(1, 5)]
EIGHT = [record(f"1{day}", scaled(STEADY, 1 + 0.002 * day)) for day in range(8)]
CHECK = measured_noise("xeon1", {KEY: EIGHT}, "today")


def test_a_clear_slowdown_is_worse_and_says_by_how_much() -> None:
    found = verdict(record("20", scaled(STEADY, 1.1)), *FOUR)
    assert found.outcome == "worse"
    assert found.effect == pytest.approx(0.095, abs=0.01)
    assert found.interval is not None
    assert found.interval[0] > 0
    assert "worse" in found.reason


def test_the_same_change_of_a_rate_is_better() -> None:
    before = [record(f"0{day}", scaled(STEADY, 1 + 0.002 * day), better="higher") for day in range(1, 5)]
    found = verdict(record("20", scaled(STEADY, 1.1), better="higher"), *before)
    assert found.outcome == "better"
    assert found.effect == pytest.approx(0.095, abs=0.01)


def test_no_change_on_a_quiet_node_is_the_same() -> None:
    found = verdict(record("20", scaled(STEADY, 1.005)), *FOUR)
    assert found.outcome == "same"
    assert found.mde is not None
    assert found.mde < 0.05


def test_a_significant_change_below_the_floor_is_not_worse() -> None:
    assert verdict(record("20", scaled(STEADY, 1.02)), *FOUR).outcome in {"same", "unknown"}


def test_where_nothing_is_known_of_sessions_it_is_unknown_and_says_what_to_do() -> None:
    found = verdict(record("20", scaled(STEADY, 3.0)), FOUR[0])
    assert found.outcome == "unknown"
    assert found.reason == "how much sessions differ is not known: the baseline has 1 session"
    assert found.advice.startswith("accept 2 more (--nri-accept all), or measure how sessions differ: nriperf noise")
    assert found.effect == pytest.approx(2.0, abs=0.02)
    assert found.settled


def test_a_noise_check_of_the_test_tells_where_its_baseline_is_young() -> None:
    found = verdict(record("20", scaled(STEADY, 1.1)), FOUR[0], noise=CHECK)
    assert found.outcome == "worse"
    assert found.session_spread_source == "noise check of today, 8 of this test"


def test_what_a_baseline_has_in_common_with_a_noise_check_counts_once() -> None:
    checked = measured_noise("xeon1", {KEY: FOUR}, "today")
    now = record("20", scaled(STEADY, 1.02))
    assert verdict(now, *FOUR, noise=checked).interval == verdict(now, *FOUR).interval


def test_other_tests_tell_until_a_baseline_has_three_sessions_of_its_own() -> None:
    others = measured_noise("xeon1", {BaselineKey("test_long", "cpus=1", "sim:", "w"): FOUR})
    now = record("20", scaled(STEADY, 1.1))
    assert "other tests" in verdict(now, *FOUR[:2], noise=others).session_spread_source
    assert verdict(now, *FOUR[:3], noise=others) == verdict(now, *FOUR[:3])


def test_one_run_is_unknown_with_the_number_of_runs_needed() -> None:
    found = verdict(record("20", [1.5]), *FOUR, alpha=0.01)
    assert found.outcome == "unknown"
    assert "arrangements" in found.reason
    assert "runs" in found.advice
    assert not found.settled


def test_a_share_of_alpha_that_the_runs_cannot_resolve_is_unknown() -> None:
    found = verdict(record("20", scaled(STEADY, 5)), FOUR[0], alpha=0.05 / 40, noise=CHECK)
    assert found.outcome == "unknown"
    assert "252 arrangements" in found.reason


def test_several_sessions_on_both_sides_are_the_units() -> None:
    before = [record(f"1{day}", scaled(STEADY, 1 + 0.01 * day)) for day in range(8)]
    now = [record(f"2{day}", scaled(STEADY, 1.2 + 0.01 * day)) for day in range(8)]
    (found,) = judge(now, Baseline(KEY, tuple(before)), [Gate("itl")], alpha=0.05)
    assert found.p == pytest.approx(1 / math.comb(16, 8))
    assert (found.outcome, found.session_spread_source) == ("worse", "sessions as units")
    # 80 % of a normal estimate, whose spread is that of eight session means on either side.
    assert found.mde is not None
    assert found.mde > 0.025


def test_too_few_rounds_say_how_many_sessions_are_needed() -> None:
    before = [record(f"1{day}", [1 + 0.01 * day]) for day in range(4)]
    now = [record(f"2{day}", [1.2 + 0.01 * day]) for day in range(4)]
    (found,) = judge(now, Baseline(KEY, tuple(before)), [Gate("itl")], alpha=0.01)
    assert found.reason == "4 v 4 sessions have 70 arrangements: p cannot reach 0.01"
    assert found.advice == "measure 5 sessions"


def test_without_a_baseline_it_is_missing_and_names_the_option() -> None:
    found = judge([FOUR[0]], None, [Gate("itl")], alpha=0.05)[0]
    assert found.outcome == "missing"
    assert "--nri-accept missing" in found.advice


def test_a_session_is_never_compared_with_itself() -> None:
    assert verdict(FOUR[0], FOUR[0]).outcome == "missing"


def test_another_identity_is_incomparable_and_the_field_is_named() -> None:
    found = verdict(record("20", STEADY, identity={"cpu": "y"}), *FOUR)
    assert found.outcome == "incomparable"
    assert "cpu x -> y" in found.reason


def test_another_machine_state_is_unknown_and_the_field_is_named() -> None:
    found = verdict(record("20", STEADY, state={"thp": "never"}), *FOUR)
    assert found.outcome == "unknown"
    assert "machine state: thp always -> never" in found.reason


@pytest.mark.parametrize("odd", ["20", "21"])
def test_every_session_that_is_judged_has_to_be_like_the_baseline(odd: str) -> None:
    def judged(part: str, values: Mapping[str, Any]) -> Verdict:
        plain = [record("20", STEADY), record("21", STEADY)]
        now = [
            replace(one, fingerprint={**one.fingerprint, part: values}) if one.session == odd else one for one in plain
        ]
        return judge(now, Baseline(KEY, tuple(FOUR)), [Gate("itl")], alpha=0.05)[0]

    assert judged("identity", {"cpu": "y"}).reason == "identity differs: cpu x -> y"
    assert judged("state", {"thp": "never"}).reason == "machine state: thp always -> never"
    assert [str(one) for one in judged("treatment", {"torch": "2.13"}).suspects] == ["torch 2.12 -> 2.13"]


def test_another_treatment_is_judged_and_named_as_suspect() -> None:
    found = verdict(record("20", scaled(STEADY, 1.1), treatment={"torch": "2.13"}), *FOUR)
    assert found.outcome == "worse"
    assert [str(one) for one in found.suspects] == ["torch 2.12 -> 2.13"]


def test_a_simulated_session_says_so() -> None:
    before = record("01", STEADY, simulated=True)
    assert verdict(record("20", scaled(STEADY, 1.1), simulated=True), before).simulated


def test_a_metric_that_was_not_measured_is_unknown() -> None:
    assert "no run gave a value" in verdict(FOUR[0], *FOUR[1:], metric="ttft").reason


def test_values_that_are_not_positive_have_no_ratio() -> None:
    assert "not positive" in verdict(record("20", [0.0, 1.0]), *FOUR).reason


def test_a_gate_names_its_quantile() -> None:
    assert verdict(record("20", scaled(STEADY, 1.1)), *FOUR, metric="itl.low").now == pytest.approx(0.99, abs=0.01)


def test_a_verdict_is_plain_json() -> None:
    plain = verdict(record("20", [1.5], treatment={"torch": "2.13"}), *FOUR, alpha=0.01).as_dict()
    assert plain["interval"] == [-1.0, None]
    assert plain["suspects"] == [{"field": "torch", "baseline": "2.12", "now": "2.13"}]


def test_what_only_the_low_quantile_shows_is_told() -> None:
    noisy = (1.0, 1.3, 1.05, 1.6, 1.1)

    def with_low(name: str, low: float) -> SessionRecord:
        runs = {run: {"median": value, "low": low + run / 1000} for run, value in enumerate(noisy)}
        return SessionRecord(name, f"2026-11-{name}", {}, {"itl": MetricRuns("s", "lower", runs)})

    before = [with_low(f"0{day}", 0.9 + day / 1000) for day in range(1, 5)]
    found = judge([with_low("20", 1.0)], Baseline(KEY, tuple(before)), [Gate("itl")], alpha=0.05)[0]
    assert found.outcome == "unknown"
    assert any("low quantile is worse by 1" in text and "gate itl.low" in text for text in found.warnings)


def test_what_low_quantiles_vary_by_is_told_by_the_noise_check_too() -> None:
    restless = record("20", [1.0, 1.6, 0.7, 1.9, 1.3])
    runs = {run: {**values, "low": values["low"] * 1.2} for run, values in FOUR[1].metrics["itl"].runs.items()}
    mixed = {run: {**runs[run], "median": restless.metrics["itl"].runs[run]["median"]} for run in runs}
    now = replace(restless, metrics={"itl": MetricRuns("s", "lower", mixed)})
    found = verdict(now, FOUR[0], noise=CHECK)
    assert found.outcome == "unknown"
    assert any("low quantile is worse by 20" in text for text in found.warnings)
