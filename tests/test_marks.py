"""Arguments of marks are merged, closest first, and checked before anything runs."""

from __future__ import annotations

import pytest

from pytest_nriperf.errors import SpecError
from pytest_nriperf.marks import GateMark, balloon_spec, gate_of, llm_request, unmet
from pytest_nriperf.topology import simulated_topology


def test_closer_arguments_win_one_by_one() -> None:
    spec = balloon_spec([((), {"hyperthreads": "hidden"}), ((), {"cpus": 8, "hyperthreads": "spread"})])
    assert (spec.cpus, spec.hyperthreads) == (8, "hidden")


def test_a_model_may_be_given_without_its_name() -> None:
    assert llm_request([(("smollm2",), {}), ((), {"model": "x", "dtype": "bfloat16"})]).model == "smollm2"
    assert llm_request([((), {"keep_loaded": True})]).keep_loaded


def test_a_gate_is_taken_whole_from_the_closest_mark() -> None:
    assert gate_of([(("itl", "itl", "ttft.low"), {"tolerance": 0.1}), (("e2e",), {})]) == GateMark(
        ("itl", "ttft.low"), 0.1
    )
    assert gate_of([]) == GateMark()


@pytest.mark.parametrize("tolerance", [0, 1, -0.1, 5, "5%", True, None])
def test_a_tolerance_is_a_share(tolerance: object) -> None:
    with pytest.raises(SpecError, match="is no share between 0 and 1"):
        gate_of([(("itl",), {"tolerance": tolerance})])


@pytest.mark.parametrize("weights", ["public", ""])
def test_weights_are_private_or_shared(weights: str) -> None:
    with pytest.raises(SpecError, match="write 'private' or 'shared'"):
        llm_request([((), {"weights": weights})])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"min_cpus": 16}, None),
        ({"min_cpus": 17}, "needs at least 17 CPUs, this node has 16"),
        ({"threads_per_core": 1}, "needs 1 threads a core, this node has 2"),
        ({"snc": 2, "min_sockets": 2, "min_cores": 8, "numa_nodes": 4, "sockets": 2}, None),
        ({"snc": 1}, "needs 1 NUMA nodes a socket (SNC), this node has 2"),
    ],
)
def test_what_a_node_lacks_is_said_with_both_numbers(asked: dict[str, int], said: str | None) -> None:
    assert unmet(simulated_topology("sim:2s4c2t-snc2"), [((), asked)]) == said
