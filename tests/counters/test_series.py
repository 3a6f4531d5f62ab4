"""Readings joined with intervals: exact where rates are steady, within the documented bound where they are not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pytest_nriperf.counters.series import CounterTable, Series, Undefined, Window
from pytest_nriperf.seams import CounterRow

S = 10**9


def series(points: list[tuple[int, float]], kind: str = "cumulative") -> Series:
    rows = [CounterRow(t, t, "source", "name", kind, value, "B", cpu=1) for t, value in points]
    found = CounterTable.from_rows(rows).series(1, "source", "name")
    assert len(found) == 1
    return found[0]


stamps = st.lists(st.integers(1, 10 * S), min_size=2, max_size=30).map(
    lambda steps: np.cumsum(np.array(steps, np.int64) + 1000) + 3_600_000 * S
)


def inside(draw: st.DrawFn, t: np.ndarray) -> Window:
    """A window between the readings that holds two of them."""
    first = draw(st.integers(0, len(t) - 2))
    last = draw(st.integers(first + 1, len(t) - 1))
    start = draw(st.integers(int(t[first - 1]) if first else int(t[0]), int(t[first])))
    end = draw(st.integers(int(t[last]), int(t[last + 1]) if last + 1 < len(t) else int(t[-1])))
    return Window(start, end)


@settings(max_examples=150, deadline=None)
@given(stamps, st.integers(1, 10**12), st.integers(0, 2**62), st.data())
def test_a_steady_rate_comes_back_exactly_over_any_interval(
    t: np.ndarray, rate: int, offset: int, data: st.DataObject
) -> None:
    """Whole counts a nanosecond, so that the readings themselves are exact."""
    per_ns = max(1, rate // S)
    assume(offset + per_ns * int(t[-1] - t[0]) < 2**63)
    found = series([(int(each), offset + per_ns * int(each - t[0])) for each in t])
    window = data.draw(st.composite(inside)(t))
    assume(window.end_ns > window.start_ns)
    assert found.rate(window) == pytest.approx(per_ns * S, rel=1e-9)
    assert found.increase(window) == pytest.approx(per_ns * (window.end_ns - window.start_ns), rel=1e-9)


@settings(max_examples=150, deadline=None)
@given(stamps, st.data())
def test_a_changing_rate_is_off_by_no_more_than_what_the_two_cut_pairs_grew_by(
    t: np.ndarray, data: st.DataObject
) -> None:
    """The truth between readings is free: all of a pair's growth may lie at either end of it."""
    growth = data.draw(st.lists(st.integers(0, 10**15), min_size=len(t) - 1, max_size=len(t) - 1))
    value = np.concatenate([[0], np.cumsum(np.array(growth, np.int64))])
    found = series([(int(each), int(count)) for each, count in zip(t, value, strict=True)])
    window = data.draw(st.composite(inside)(t))
    assume(window.end_ns > window.start_ns)
    first, last = np.searchsorted(t, window.start_ns), np.searchsorted(t, window.end_ns, side="right") - 1
    whole = int(value[last] - value[first])
    cut = (growth[first - 1] if t[first] > window.start_ns else 0) + (growth[last] if t[last] < window.end_ns else 0)
    got = found.increase(window)
    assert whole * (1 - 1e-9) - 1e-6 <= got <= (whole + cut) * (1 + 1e-9) + 1e-6


@settings(max_examples=60, deadline=None)
@given(stamps, st.data())
def test_neighbouring_intervals_add_up(t: np.ndarray, data: st.DataObject) -> None:
    assume(len(t) >= 5)
    growth = data.draw(st.lists(st.integers(0, 10**12), min_size=len(t) - 1, max_size=len(t) - 1))
    value = np.concatenate([[0], np.cumsum(growth)])
    found = series([(int(each), int(count)) for each, count in zip(t, value, strict=True)])
    middle = data.draw(st.integers(int(t[1]), int(t[-2])))
    start, end = int(t[0]), int(t[-1])
    left, right = Window(start, middle), Window(middle, end)
    assert found.increase(left) + found.increase(right) == pytest.approx(
        found.increase(Window(start, end)), rel=1e-9, abs=1e-6
    )


def test_integers_beyond_double_precision_keep_their_last_digit() -> None:
    found = series([(0, 2**62), (S, 2**62 + 1), (2 * S, 2**62 + 3)])
    assert found.increase(Window(0, 2 * S)) == 3


def test_a_partial_pair_counts_with_its_share_of_time() -> None:
    found = series([(0, 0), (S, 100), (2 * S, 300), (3 * S, 300)])
    assert found.increase(Window(S // 2, 2 * S + S // 4)) == pytest.approx(50 + 200 + 0, abs=1e-9)
    assert found.rate(Window(S // 2, 2 * S + S // 4)) == pytest.approx(250 / 1.75, rel=1e-12)


@pytest.mark.parametrize(
    ("window", "reason"),
    [
        (Window(S + 1, 2 * S - 1), "0 readings in 1 s, two are needed: raise --nri-sample-hz"),
        (Window(S, 2 * S - 1), "1 reading in 1 s"),
        (Window(5, 5), "the interval is empty"),
        (Window(2 * S, S), "the interval is empty"),
        (Window(0, 20 * S), "readings cover 15 % of the interval"),
    ],
)
def test_an_interval_without_readings_enough_is_undefined_with_the_reason(window: Window, reason: str) -> None:
    found = series([(0, 0), (S, 1), (2 * S, 2), (3 * S, 3)])
    with pytest.raises(Undefined, match=reason):
        found.rate(window)


def test_where_a_counter_fell_the_pair_is_left_out_and_the_rest_speaks_for_it() -> None:
    found = series([(each * S, 100 * each if each < 15 else 100 * (each - 15)) for each in range(21)])
    assert found.rate(Window(0, 20 * S)) == pytest.approx(100)
    assert found.increase(Window(0, 20 * S)) == pytest.approx(2000)
    wild = series([(0, 0), (S, 100), (2 * S, 5), (3 * S, 105)])
    with pytest.raises(Undefined, match="readings cover 67 %"):
        wild.rate(Window(0, 3 * S))


def test_a_gauge_is_averaged_over_time_not_over_readings() -> None:
    found = series([(0, 0.0), (S, 10.0), (10 * S, 10.0)], "gauge")
    assert found.mean(Window(0, 10 * S)) == pytest.approx(9.5)


def test_a_gauge_is_cut_where_the_interval_cuts_it() -> None:
    found = series([(0, 0.0), (S, 10.0), (2 * S, 10.0), (3 * S, 0.0)], "gauge")
    assert found.mean(Window(S // 2, 2 * S + S // 2)) == pytest.approx((0.5 * 7.5 + 10 + 0.5 * 7.5) / 2)


def test_an_interval_value_speaks_of_the_time_before_it() -> None:
    found = series([(0, 99.0), (S, 10.0), (3 * S, 40.0)], "interval")
    assert found.mean(Window(0, 3 * S)) == pytest.approx(30.0)
    assert found.mean(Window(S // 2, 2 * S + S)) == pytest.approx((0.5 * 10 + 2 * 40) / 2.5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e12, 1e12), min_size=2, max_size=20), st.sampled_from(["gauge", "interval"]), st.data())
def test_a_mean_lies_between_the_readings(values: list[float], kind: str, data: st.DataObject) -> None:
    t = np.arange(len(values)) * S
    found = series([(int(each), value) for each, value in zip(t, values, strict=True)], kind)
    window = data.draw(st.composite(inside)(t))
    assume(window.end_ns > window.start_ns)
    slack = 1e-6 * (1 + max(map(abs, values)))
    assert min(values) - slack <= found.mean(window) <= max(values) + slack


def test_readings_are_found_by_run_source_and_name_one_series_a_scope() -> None:
    rows = [
        CounterRow(t, t, source, name, "cumulative", t + cpu, "", cpu=cpu, replica=replica)
        for t in (2, 1, 3)
        for source in ("a", "b")
        for name in ("x", "y")
        for cpu, replica in ((0, 0), (1, 0), (0, 1))
    ]
    table = CounterTable.from_rows(rows, run=4)
    assert table.names(4) == [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]
    assert table.names(1) == []
    found = table.series(4, "b", "x")
    assert [(each.scope["replica"], each.scope["cpu"]) for each in found] == [(0, 0), (0, 1), (1, 0)]
    assert [list(each.t_ns) for each in found] == [[1, 2, 3]] * 3
    assert table.series(4, "b", "z") == []
    assert len(table) == len(rows)


def test_two_readings_of_one_instant_keep_the_later_row() -> None:
    found = series([(1, 5), (1, 6), (2, 9)])
    assert list(found.value) == [6, 9]


def test_an_empty_table_has_nothing() -> None:
    table = CounterTable.from_rows([])
    assert (len(table), table.names(1), table.series(1, "a", "b")) == (0, [], [])


def test_the_last_reading_and_the_growth_around_a_run() -> None:
    found = series([(0, 5), (S, 9), (2 * S, 2), (3 * S, 4)])
    assert (found.last(), found.whole()) == (4, 6)
    with pytest.raises(Undefined, match="one reading only"):
        series([(0, 5)]).whole()


def test_no_value_is_ever_nan() -> None:
    found = series([(0, 0), (S, 0), (2 * S, 0)])
    assert not math.isnan(found.rate(Window(0, 2 * S)))
