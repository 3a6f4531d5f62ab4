from __future__ import annotations

import json

import pytest

from pytest_nriperf.errors import TopologyError
from pytest_nriperf.topology import Cpu, NumaNode, Topology, simulated_topology


@pytest.mark.parametrize(
    ("shape", "line"),
    [
        ("sim:2s64c2t-snc2", "2 sockets x 64 cores x 2 threads = 256 CPUs, 4 NUMA nodes (SNC-2)"),
        ("sim:1s1c", "1 socket x 1 core x 1 thread = 1 CPU, 1 NUMA node"),
        ("sim:2s4c2t-cxl8g", "2 sockets x 4 cores x 2 threads = 16 CPUs, 2 NUMA nodes, 2 memory-only"),
    ],
)
def test_the_summary_says_the_shape_in_one_line(shape: str, line: str) -> None:
    assert simulated_topology(shape).summary() == line


def test_an_uneven_machine_is_not_called_a_product() -> None:
    cpus = (Cpu(0, 0, 0, 0, 0, 0), Cpu(1, 0, 0, 0, 1, 0), Cpu(2, 0, 0, 1, 0, 0))
    node = NumaNode(0, frozenset({0, 1, 2}))
    topology = Topology("t", cpus, (node,), offline=frozenset({3}), isolated=frozenset({2}))
    assert topology.summary() == "1 socket, 2 cores, 3 CPUs, 1 NUMA node, 1 offline, 1 isolated"


@pytest.mark.parametrize("shape", ["sim:2s64c2t-snc2", "sim:1s3c-l3x1", "sim:2s4c2t-adjacent-cxl8g"])
def test_a_topology_survives_json(shape: str) -> None:
    topology = simulated_topology(shape)
    again = Topology.from_dict(json.loads(json.dumps(topology.as_dict())))
    assert again == topology
    assert hash(again) == hash(topology)


@pytest.mark.parametrize("damage", ["cpus", "nodes", "name", "isolated"])
def test_a_description_that_lacks_a_part_is_refused(damage: str) -> None:
    data = simulated_topology("sim:1s2c").as_dict()
    del data[damage]
    with pytest.raises(TopologyError, match=damage):
        Topology.from_dict(data)


def test_columns_of_unequal_length_are_refused() -> None:
    data = simulated_topology("sim:1s2c").as_dict()
    data["cpus"]["socket"].pop()
    with pytest.raises(TopologyError, match="no description of a topology"):
        Topology.from_dict(data)


def test_a_cpu_that_is_not_there_is_named_with_those_that_are() -> None:
    topology = simulated_topology("sim:1s2c")
    with pytest.raises(TopologyError, match=r"CPU 7 .* not there; its CPUs are 0-1"):
        topology.cpu(7)
    with pytest.raises(TopologyError, match="no NUMA node 3"):
        topology.node(3)


def test_memory_near_cpus_without_memory_of_their_own_is_the_nearest() -> None:
    cpus = (Cpu(0, 0, 0, 0, 0, 0), Cpu(1, 0, 0, 1, 0, 1))
    far = NumaNode(0, frozenset({0}), 1 << 30, {0: 10, 1: 40, 2: 20})
    bare = NumaNode(1, frozenset({1}), 0, {0: 40, 1: 10, 2: 15})
    memory = NumaNode(2, frozenset(), 1 << 30, {0: 20, 1: 15, 2: 10})
    topology = Topology("t", cpus, (far, bare, memory))
    assert topology.memory_near({0}) == (0,)
    assert topology.memory_near({1}) == (2,)
    assert topology.memory_near({0, 1}) == (0, 2)


def test_snc_counts_nodes_with_cpus_per_socket() -> None:
    assert simulated_topology("sim:2s8c2t").snc == 1
    assert simulated_topology("sim:2s8c2t-snc4-cxl8g").snc == 4


def test_a_topology_without_cpus_or_with_repeated_ones_cannot_be_built() -> None:
    with pytest.raises(TopologyError, match="no CPU that is online"):
        Topology("t", (), (NumaNode(0, frozenset()),))
    cpu = Cpu(0, 0, 0, 0, 0, 0)
    with pytest.raises(TopologyError, match="repeat"):
        Topology("t", (cpu, cpu), (NumaNode(0, frozenset({0})),))
    with pytest.raises(TopologyError, match="not described"):
        Topology("t", (cpu,), (NumaNode(1, frozenset()),))
