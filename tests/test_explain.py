"""What stands out beside a change is named with its size and its usual meaning; chance and noise are not."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nriperf.counters import COUNTERS
from pytest_nriperf.explain import CAUSES, IMPLIED, explain, standing_out

SLOWER = ([0.050, 0.0505, 0.0495], [0.0555, 0.055, 0.056])


def explained(
    metric: str = "tpot", change: tuple[list[float], list[float]] = SLOWER, **moves: tuple[list[float], list[float]]
) -> str:
    before = {metric: change[0]} | {name: values[0] for name, values in moves.items()}
    after = {metric: change[1]} | {name: values[1] for name, values in moves.items()}
    return str(explain(metric, before, after) or "")


WRONG_NODE = ([0.02, 0.021, 0.019], [0.31, 0.30, 0.32])


def test_pages_on_the_wrong_node_are_named_with_the_sizes() -> None:
    text = explained(remote_share=WRONG_NODE, memory_bandwidth=([2e10, 2.01e10, 1.99e10], [1.82e10, 1.83e10, 1.81e10]))
    assert text == "tpot +11 %, remote share 2 % -> 31 %, memory bandwidth -9 %: pages are on the wrong node"


def test_where_it_got_better_the_cause_is_gone() -> None:
    text = explained(change=(SLOWER[1], SLOWER[0]), remote_share=(WRONG_NODE[1], WRONG_NODE[0]))
    assert text == "tpot -10 %, remote share 31 % -> 2 %: no longer so: pages are on the wrong node"


def test_where_the_metric_did_not_move_the_cause_is_named_all_the_same() -> None:
    noisy = ([0.050, 0.056, 0.047], [0.046, 0.054, 0.045])
    assert explained(change=noisy, remote_share=WRONG_NODE).endswith("31 %: pages are on the wrong node")
    gone = explained(change=noisy, remote_share=(WRONG_NODE[1], WRONG_NODE[0]))
    assert gone.endswith("2 %: no longer so: pages are on the wrong node")


def test_a_counter_that_moved_the_good_way_is_listed_without_a_cause() -> None:
    text = explained(remote_share=(WRONG_NODE[1], WRONG_NODE[0]))
    assert text == "tpot +11 %, remote share 31 % -> 2 %"


def test_a_busy_loop_on_the_same_cpus_is_named_once() -> None:
    text = explained(
        foreign_share=([0.0, 0.01, 0.0], [0.5, 0.49, 0.5]), run_queue_wait=([0.01, 0.0, 0.01], [0.5, 0.51, 0.5])
    )
    assert text.endswith("run queue wait 1 % -> 50 %: something else runs on the same CPUs")


def test_waiting_alone_is_named_as_such() -> None:
    assert "threads wait for CPUs" in explained(run_queue_wait=([0.01, 0.0, 0.01], [0.5, 0.51, 0.5]))


def test_a_count_that_began_at_nothing_is_shown_from_where_to_where() -> None:
    text = explained(major_faults=([0.0, 0.0, 0.0], [310.0, 300.0, 305.0]))
    assert text == "tpot +11 %, major faults 0 1/s -> 305 1/s: memory is short: pages come from the disk"


def test_a_new_cpu_limit_that_holds_back_half_the_time_is_named() -> None:
    text = explained(throttled_time=([0.0, 0.0, 0.0], [0.5, 0.52, 0.48]))
    assert text == "tpot +11 %, throttled time 0 s/s -> 0.500 s/s: a CPU limit holds the engines back"
    assert explained(throttled_time=([0.0, 0.0, 0.0], [0.01, 0.01, 0.01])) == ""
    assert explained(throttled_time=([3.0, 3.0, 3.0], [3.03, 3.03, 3.03])) == ""


def test_a_verdict_says_the_direction_where_the_metric_does_not_stand_out_itself() -> None:
    noisy = ([0.050, 0.056, 0.047], [0.049, 0.054, 0.046])
    before = {"tpot": noisy[0], "remote_share": WRONG_NODE[0]}
    after = {"tpot": noisy[1], "remote_share": WRONG_NODE[1]}
    assert "wrong node" in str(explain("tpot", before, after, "worse"))
    assert str(explain("tpot", before, after, "better")).endswith("remote share 2 % -> 31 %")


@pytest.mark.parametrize(
    "values",
    [
        ([100.0, 101.0, 99.0], [103.0, 104.0, 102.0]),
        ([100.0, 130.0, 80.0], [150.0, 120.0, 160.0]),
        ([0.0, 0.0, 0.0], [0.5, 0.4, 0.5]),
        ([float("nan")], [5.0]),
        ([], [5.0]),
    ],
)
def test_what_is_small_noisy_or_missing_does_not_stand_out(values: tuple[list[float], list[float]]) -> None:
    assert explained(migrations=values) == ""


def test_a_share_near_nothing_may_double() -> None:
    assert explained(steal_share=([0.001, 0.001, 0.001], [0.004, 0.004, 0.004])) == ""


def test_single_runs_need_gross_moves_and_say_that_they_are_single() -> None:
    assert explained(frequency=([3.0e9], [2.6e9])) == ""
    text = explained(frequency=([3.0e9], [2.0e9]))
    assert text.endswith("the CPUs run slower (power, heat, governor or turbo) (one run only: may be chance)")


def test_a_rate_gets_worse_downwards() -> None:
    text = explained("throughput", ([20.0, 20.1, 19.9], [15.0, 15.1, 14.9]), remote_share=WRONG_NODE)
    assert text == "throughput -25 %, remote share 2 % -> 31 %: pages are on the wrong node"


def test_causes_are_of_counters_that_exist() -> None:
    assert set(CAUSES) <= set(COUNTERS)
    assert {*IMPLIED, *IMPLIED.values()} <= set(CAUSES)


def test_two_sessions_of_one_machine_rarely_look_different() -> None:
    """Normal noise of 3 % on every counter, five runs a side: what is said then is said wrongly."""
    seeded = random.Random(7)
    alarms = 0
    for _ in range(200):
        sides = [
            {
                name: [
                    abs(seeded.gauss(1.0 if kind.unit != "share" else 0.3, 0.03 if kind.unit != "share" else 0.01))
                    for _ in range(5)
                ]
                for name, kind in COUNTERS.items()
            }
            for _ in range(2)
        ]
        alarms += bool(standing_out(*sides))
    assert alarms <= 6


sides = st.dictionaries(
    st.sampled_from(sorted(COUNTERS)), st.lists(st.floats(0, 1e15) | st.just(float("nan")), max_size=5), max_size=6
)


@settings(max_examples=100, deadline=None)
@given(sides, sides)
def test_any_values_give_one_line_or_none_and_nothing_stands_out_from_itself(
    before: dict[str, list[float]], after: dict[str, list[float]]
) -> None:
    explanation = explain("tpot", before, after)
    assert explanation is None or "\n" not in str(explanation)
    assert standing_out(before, before) == ()
