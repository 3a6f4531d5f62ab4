"""From a recording's tables to views: the measured part, the tokens of successes, decoding without prefill."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pytest_nriperf.counters import Window, counter_views, interval_view

S = 10**9
ROW = {
    "run": 1,
    "replica": 0,
    "phase": "measure",
    "status": "ok",
    "submit_ns": 0,
    "first_ns": 2 * S,
    "last_ns": 6 * S,
    "end_ns": 6 * S,
    "prompt_tokens": 100,
    "output_tokens": 41,
}
NOTHING = pa.table(
    {
        **{
            name: pa.array([], pa.int64())
            for name in ("run", "t_ns", "replica", "cpu", "core", "socket", "node", "pid")
        },
        **{name: pa.array([], pa.string()) for name in ("source", "name", "kind", "unit")},
        "value": pa.array([], pa.float64()),
        "value_int": pa.array([], pa.int64()),
    }
)


def requests(*rows: dict[str, Any]) -> pa.Table:
    text = ("phase", "status")
    schema = pa.schema([(name, pa.string() if name in text else pa.int64()) for name in ROW])
    return pa.Table.from_pylist([{**ROW, **row} for row in rows], schema)


def test_the_window_is_the_measured_part_and_failures_hold_it_open_but_give_no_tokens() -> None:
    table = requests(
        {"phase": "warmup", "submit_ns": -9 * S},
        {},
        {
            "submit_ns": 6 * S,
            "first_ns": None,
            "last_ns": None,
            "end_ns": 9 * S,
            "status": "failed",
            "output_tokens": 5,
        },
        {"run": 2, "submit_ns": 50 * S, "first_ns": 51 * S, "last_ns": 52 * S, "end_ns": 53 * S},
    )
    first, second = counter_views({}, [1, 2, 3], table, NOTHING)
    assert (first.run, first.window, first.tokens) == (1, Window(0, 9 * S), 41)
    assert (second.run, second.window) == (2, Window(50 * S, 53 * S))


def test_decoding_is_counted_from_first_to_last_token_over_all_streams() -> None:
    both = requests({}, {"replica": 1, "last_ns": 4 * S})
    view = counter_views({}, [1], both, NOTHING)[0]
    assert view.facts["decoded_tokens_per_second"] == pytest.approx(40 / 4 + 40 / 2)
    assert view.facts["context_tokens"] == pytest.approx(100 + 41 / 2)
    together = requests({}, {"submit_ns": 1})
    streams = counter_views({"parameters": {"concurrency": 8}}, [1], together, NOTHING)[0]
    assert streams.facts["decoded_tokens_per_second"] == pytest.approx(2 * 10)


def test_what_the_document_says_of_model_and_cpus_is_kept() -> None:
    document = {
        "model": {"weight_bytes": 7, "weight_bytes_per_token": 6, "kv_bytes_per_token": 2, "name": "x"},
        "balloon": {"granted": {"replicas": [{"allocated": "0-1", "visible": "0"}]}, "read_bandwidth": 2.5e10},
    }
    view = counter_views(document, [1], requests({}), NOTHING)[0]
    assert (view.visible, view.siblings) == (frozenset({0}), frozenset({1}))
    known = {"weight_bytes": 7.0, "weight_bytes_per_token": 6.0, "kv_bytes_per_token": 2.0, "read_bandwidth": 2.5e10}
    assert known.items() <= view.facts.items()


@pytest.mark.parametrize("row", [{"output_tokens": 1}, {"first_ns": None}, {"last_ns": 2 * S}, {"status": "failed"}])
def test_a_run_that_decoded_nothing_has_no_rate(row: dict[str, Any]) -> None:
    view = counter_views({}, [1], requests(row), NOTHING)[0]
    assert "decoded_tokens_per_second" not in view.facts


def test_an_interval_has_the_tokens_that_came_out_in_it() -> None:
    tokens = pa.table({"run": [1, 1, 1, 2], "t_ns": [1, 2, 3, 2], "n": [1, 2, 4, 8]})
    assert interval_view({}, 1, Window(1, 2), tokens, NOTHING).tokens == 2
    assert interval_view({}, 1, Window(0, 9), tokens, NOTHING).tokens == 7
