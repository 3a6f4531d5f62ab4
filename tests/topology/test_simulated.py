from __future__ import annotations

import pytest

from pytest_nriperf.errors import UsageError
from pytest_nriperf.topology import simulated_topology

GIB = 1 << 30


def test_cores_are_counted_per_socket_and_siblings_are_split() -> None:
    topology = simulated_topology("sim:2s64c2t-snc2")
    assert topology.online == frozenset(range(256))
    assert topology.siblings(3) == {3, 131}
    assert topology.cpu(131).thread == 1
    assert topology.cpu(64).socket == 1
    assert topology.node_cpus(1) == frozenset(range(32, 64)) | frozenset(range(160, 192))
    assert topology.simulated


def test_adjacent_siblings_are_numbered_side_by_side() -> None:
    topology = simulated_topology("sim:2s4c2t-adjacent")
    assert topology.siblings(2) == {2, 3}
    assert topology.cpu(8).socket == 1


def test_memory_defaults_to_four_gib_a_core_and_can_be_given_per_node() -> None:
    assert simulated_topology("sim:2s8c-snc2").node(0).memory_bytes == 16 * GIB
    assert simulated_topology("sim:2s8c-snc2-7g").node(3).memory_bytes == 7 * GIB


def test_memory_only_nodes_come_after_those_with_cpus() -> None:
    topology = simulated_topology("sim:2s4c-cxl64g")
    assert topology.cpu_nodes == (0, 1)
    assert [(node.id, len(node.cpus), node.memory_bytes) for node in topology.nodes[2:]] == [
        (2, 0, 64 * GIB),
        (3, 0, 64 * GIB),
    ]
    assert topology.node(0).distances[2] < topology.node(0).distances[3]


def test_l3_caches_can_be_smaller_than_a_socket() -> None:
    topology = simulated_topology("sim:1s8c2t-l3x4")
    assert {cpu.l3 for cpu in topology.cpus} == {0, 1}
    assert topology.cpu(3).l3 != topology.cpu(4).l3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sim:", "is no simulated machine"),
        ("sim:2s", "is no simulated machine"),
        ("2s4c", "is no simulated machine"),
        ("sim:0s4c", "has 0 CPUs"),
        ("sim:64s64c4t", "has 16384 CPUs"),
        ("sim:1s6c-snc4", "6 cores per socket do not divide by snc4"),
        ("sim:1s6c-l3x4", "do not divide by l3x4"),
        ("sim:1s6c-fast", "unknown option -fast"),
    ],
)
def test_a_wrong_shape_is_answered_with_the_form(text: str, says: str) -> None:
    with pytest.raises(UsageError, match="for example sim:2s64c2t-snc2") as caught:
        simulated_topology(text)
    assert says in str(caught.value)
