"""Rates over time are those of each pair of readings, per socket and replica; what is nothing is not drawn."""

from __future__ import annotations

import pytest

from pytest_nriperf.counters import CounterTable, Timeline, timelines
from tests.counters.views import S, pcm_rows, steady
from tests.pcm_double import Machine


def drawn(rows: list) -> dict[tuple[str, str], Timeline]:  # type: ignore[type-arg]
    return {(each.label, each.where): each for each in timelines(CounterTable.from_rows(rows), 1)}


def test_memory_and_power_are_drawn_for_each_socket() -> None:
    found = drawn(pcm_rows(Machine(), frozenset({0})))
    assert set(found) == {
        (label, f"socket {socket}") for label in ("memory read", "memory written", "package power") for socket in (0, 1)
    }
    read = found["memory read", "socket 0"]
    assert list(read.t_ns) == [(second + 0.5) * S for second in range(10, 20)]
    assert list(read.value) == pytest.approx([22.8e9] * 10)
    assert read.unit == "B/s"


def test_cpus_in_use_and_waiting_are_drawn_for_each_replica() -> None:
    rows = steady("proc", {"on_cpu_time": 1.5e9, "run_queue_wait": 0}, replica=3)
    assert list(drawn(rows)["CPUs in use", "replica 3"].value) == pytest.approx([1.5] * 10)
    assert ("threads waiting for a CPU", "replica 3") not in drawn(rows)


def test_a_pair_in_which_the_counter_fell_is_left_out() -> None:
    rows = steady("proc", {"on_cpu_time": 1e9}, replica=0)
    rows = [row._replace(value=5) if row.t_ns >= 15 * S else row for row in rows]
    assert len(drawn(rows)["CPUs in use", "replica 0"].value) == 9


def test_too_many_replicas_are_not_drawn() -> None:
    rows = [row for replica in range(9) for row in steady("proc", {"on_cpu_time": 1e9}, replica=replica)]
    assert drawn(rows) == {}
