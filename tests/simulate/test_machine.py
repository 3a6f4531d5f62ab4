"""The talk's findings hold on the simulated server, and each vanishes with its cause."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nriperf.errors import UsageError
from pytest_nriperf.simulate.llm import ModelSize
from pytest_nriperf.simulate.machine import CAUSES, Load, Machine, fair_rates, speeds
from tests.simulate.servers import balloons, server

SIZE = ModelSize()
CONTEXT = np.array([64.0])


def rates(machine: Machine, loads: Sequence[Load]) -> list[float]:
    return [1 / float(speed.step_s(SIZE, CONTEXT)[0]) for speed in speeds(machine, SIZE, loads)]


def stream(machine: Machine, replicas: int, cpus: int, hyperthreads: str) -> float:
    return float(np.median(rates(machine, balloons(machine, replicas, cpus, hyperthreads))))


def node(machine: Machine, replicas: int, cpus: int, hyperthreads: str) -> float:
    return sum(rates(machine, balloons(machine, replicas, cpus, hyperthreads)))


def gain_of_fewer_cpus(machine: Machine) -> float:
    """Best stream speed on fewer CPUs over the speed on all 256."""
    fewer = [stream(machine, 1, cpus, kind) for cpus in range(16, 248, 16) for kind in ("paired", "hidden")]
    return max(fewer) / stream(machine, 1, 256, "paired")


def slowdown_by_neighbours(machine: Machine) -> float:
    """How much slower a replica on 32 CPUs of node 0 is when one of the same socket runs beside it."""
    first, second = (
        Load(frozenset(range(start, start + 32)), frozenset({machine.node_of[start]})) for start in (0, 32)
    )
    return rates(machine, [first])[0] / rates(machine, [first, second])[0]


def test_one_inference_on_all_cpus_is_not_optimal() -> None:
    assert gain_of_fewer_cpus(server()) > 1.2


def test_with_unlimited_bandwidth_all_cpus_are_the_best() -> None:
    assert gain_of_fewer_cpus(server("bandwidth")) < 1.0


def test_sub_numa_clustering_protects_from_the_neighbour() -> None:
    assert slowdown_by_neighbours(server(snc=1)) > 1.5
    assert slowdown_by_neighbours(server(snc=2)) < 1.02


def test_without_interference_there_is_nothing_to_protect_from() -> None:
    assert slowdown_by_neighbours(server("interference", snc=1)) == pytest.approx(1.0)


def test_hidden_hyperthreads_are_the_best_use_of_paid_cpus_and_spreading_above_half_load_is_bad() -> None:
    machine = server()
    assert node(machine, 8, 16, "hidden") > 1.05 * node(machine, 8, 16, "paired")
    assert node(machine, 8, 24, "spread") < 0.7 * node(machine, 8, 24, "hidden")


def test_with_ideal_hyperthreads_hiding_them_gains_nothing() -> None:
    machine = server("hyperthreads")
    assert node(machine, 8, 16, "hidden") == pytest.approx(node(machine, 8, 16, "paired"), rel=0.01)
    assert stream(machine, 1, 8, "hidden") < 0.6 * stream(machine, 1, 8, "paired")
    assert node(machine, 8, 24, "spread") > 0.8 * node(machine, 8, 24, "hidden")


def test_eight_replicas_on_half_the_cpus_nearly_triple_the_node_at_a_third_of_the_speed() -> None:
    machine = server()
    throughput = node(machine, 8, 16, "hidden") / node(machine, 1, 256, "paired")
    speed = stream(machine, 8, 16, "hidden") / stream(machine, 1, 256, "paired")
    assert 2.5 < throughput < 3.2
    assert 0.28 < speed < 0.40


def test_with_near_remote_memory_eight_replicas_gain_little() -> None:
    machine = server("remote")
    assert node(machine, 8, 16, "hidden") < 1.3 * node(machine, 1, 256, "paired")


def test_few_cpus_per_replica_gain_from_the_second_thread() -> None:
    assert stream(server(), 1, 8, "paired") > stream(server(), 1, 8, "hidden")


@pytest.mark.parametrize("cause", sorted(set(CAUSES) - {"noise"}))
def test_switching_a_cause_off_never_slows_the_node(cause: str) -> None:
    for replicas, cpus in ((1, 256), (1, 8), (4, 64), (8, 24), (16, 16)):
        assert node(server(cause), replicas, cpus, "paired") >= node(server(), replicas, cpus, "paired") * 0.999


def test_an_unknown_cause_is_named_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no cause 'gravity'; causes are bandwidth"):
        server("gravity")


def test_a_larger_batch_reads_the_weights_once_for_all_its_tokens() -> None:
    machine = server()
    one, eight = (
        speeds(machine, SIZE, [Load(load.visible, load.memory, batch)])[0]
        for load in balloons(machine, 1, 64, "hidden")
        for batch in (1, 8)
    )
    assert 8 / float(eight.step_s(SIZE, CONTEXT)[0]) > 4 / float(one.step_s(SIZE, CONTEXT)[0])


def test_the_prompt_scales_with_cores_where_decoding_does_not() -> None:
    machine = server()
    small, large = (speeds(machine, SIZE, balloons(machine, 1, cpus, "hidden"))[0] for cpus in (32, 64))
    assert small.prefill(SIZE, 2048) > 1.5 * large.prefill(SIZE, 2048)
    assert float(small.step_s(SIZE, CONTEXT)[0]) < 1.2 * float(large.step_s(SIZE, CONTEXT)[0])


@settings(max_examples=60, deadline=None)
@given(
    use=st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=3, max_size=3), min_size=1, max_size=6),
    limits=st.lists(st.floats(0.1, 100), min_size=6, max_size=6),
    capacity=st.lists(st.floats(1, 100), min_size=3, max_size=3),
)
def test_fair_rates_fill_no_resource_beyond_its_capacity_and_leave_nobody_waiting_without_cause(
    use: list[list[float]], limits: list[float], capacity: list[float]
) -> None:
    shares, most, room = np.array(use), np.array(limits[: len(use)]), np.array(capacity)
    given_rates = fair_rates(shares, most, room)
    taken = (given_rates[:, None] * shares).sum(0)
    assert (taken <= room * (1 + 1e-6)).all()
    full = taken >= room * (1 - 1e-6)
    for rate, limit, row in zip(given_rates, most, shares, strict=True):
        assert rate >= limit * (1 - 1e-6) or (row[full] > 0).any()
