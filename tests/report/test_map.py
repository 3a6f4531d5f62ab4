from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nriperf.balloons import BalloonSpec, place
from pytest_nriperf.report.map import WIDTH, draw, draw_distances, draw_facts, draw_replicas, machine_map
from pytest_nriperf.topology import Cpu, NumaNode, Topology, simulated_topology

DATA = Path(__file__).parents[1] / "data" / "map.txt"


def test_256_cpus_fit_the_page_and_show_every_replica() -> None:
    topology = simulated_topology("sim:2s64c2t-snc2")
    spec = BalloonSpec(cpus=16, hyperthreads="hidden", numa="single", replicas=4)
    placement = place(spec, topology, allowed=topology.online)
    text = draw(machine_map(topology, placement))
    assert text + "\n\n" + draw_replicas(placement, topology) + "\n" == DATA.read_text()


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["sim:2s64c2t", "sim:4s60c2t-snc4", "sim:1s96c2t-l3x8", "sim:2s7c", "sim:8s16c4t", "sim:1s1c"]),
    st.integers(1, 40),
)
def test_no_line_is_wider_than_the_page(node: str, replicas: int) -> None:
    topology = simulated_topology(node)
    size = max(1, len(topology.cores()) // replicas)
    spec = BalloonSpec(cpus=size, hyperthreads="spread", replicas=replicas)
    granted = place(spec, topology, allowed=topology.online) if replicas <= len(topology.online) // size else None
    text = draw(machine_map(topology, granted))
    assert max(map(len, text.splitlines()[1:])) <= WIDTH
    if granted:
        assert max(map(len, draw_replicas(granted, topology).splitlines())) <= WIDTH


@pytest.mark.parametrize("node", ["sim:2s64c2t-snc2", "sim:1s16c2t-l3x4", "sim:2s7c"])
def test_every_cpu_is_drawn_once(node: str) -> None:
    topology = simulated_topology(node)
    machine = machine_map(topology)
    cpus = [cell.cpu for socket in machine.sockets for n in socket.nodes for core in n.cores for cell in core.threads]
    assert sorted(cpu for cpu in cpus if cpu is not None) == sorted(topology.online)
    text = draw(machine).rsplit("\n\n", 1)[0]
    assert text.count(".") == len(topology.online)


def test_what_may_not_be_given_looks_different() -> None:
    base = simulated_topology("sim:1s4c")
    topology = Topology(base.name, base.cpus, base.nodes, isolated=frozenset({2}))
    text = draw(machine_map(topology, allowed={0, 1, 2}, reserved={0}))
    assert "#.i-" in text
    for words in ("reserved", "isolated by the kernel", "not allowed here"):
        assert words in text


def test_a_core_with_an_offline_sibling_leaves_a_gap() -> None:
    base = simulated_topology("sim:1s4c2t")
    cpus = tuple(cpu for cpu in base.cpus if cpu.id != 5)
    nodes = tuple(type(node)(node.id, node.cpus - {5}, node.memory_bytes, node.distances) for node in base.nodes)
    text = draw(machine_map(Topology("t", cpus, nodes)))
    assert "thread 1 . .." in text


def test_memory_only_nodes_and_distances_are_shown() -> None:
    topology = simulated_topology("sim:2s2c-cxl64g")
    assert "NUMA node 3  64 GiB  memory only, nearest to NUMA node 1" in draw(machine_map(topology))
    assert draw_distances(topology).splitlines()[1].split() == ["node", "0", "10", "21", "22", "31"]
    assert draw_distances(simulated_topology("sim:1s2c")) == ""


def test_siblings_caches_and_special_cpus_are_told() -> None:
    base = simulated_topology("sim:1s8c2t-l3x4")
    topology = Topology(base.name, base.cpus, base.nodes, offline=frozenset({16}), isolated=frozenset({2, 3}))
    assert draw_facts(topology, frozenset(range(10)), frozenset({0})).splitlines() == [
        "siblings   0+8, 1+9, 2+10, ...",
        "L2         8 x 1 core",
        "L3         2 x 4 cores",
        "offline    16",
        "isolated   2-3",
        "allowed    10 CPUs: 0-9",
        "reserved   0",
    ]


def test_unknown_caches_are_not_counted() -> None:
    topology = Topology("t", (Cpu(0, 0, 0, 0, 0, 0),), (NumaNode(0, frozenset({0})),))
    assert draw_facts(topology, topology.online, frozenset()).splitlines() == [
        "L2         unknown",
        "L3         unknown",
    ]


def test_dies_are_named_when_there_are_several() -> None:
    base = simulated_topology("sim:1s4c-snc2")
    cpus = tuple(Cpu(c.id, c.socket, c.node, c.core, c.thread, c.node, c.l2, c.l3) for c in base.cpus)
    assert "NUMA node 1  die 1" in draw(machine_map(Topology("t", cpus, base.nodes)))


def test_the_values_are_plain_for_json_and_html() -> None:
    topology = simulated_topology("sim:1s2c2t")
    placement = place(BalloonSpec(cpus=2, hyperthreads="hidden"), topology, allowed=topology.online)
    data = json.loads(json.dumps(machine_map(topology, placement).as_dict()))
    core = data["sockets"][0]["nodes"][0]["cores"][0]
    assert core["threads"] == [
        {"cpu": 0, "state": "visible", "replica": 0},
        {"cpu": 2, "state": "hidden", "replica": 0},
    ]
