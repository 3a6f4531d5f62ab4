"""The guest is the machine that was asked for, as its kernel tells it and as we read it."""

from __future__ import annotations

from pathlib import Path

from pytest_nriperf.provision.local import LocalProvisioner
from pytest_nriperf.topology import read_topology
from pytest_nriperf.units import parse_cpus
from tests.machines.shapes import Shape
from tests.topology.test_hwloc import check, check_counts, lstopo

_CPU = Path("/sys/devices/system/cpu")
_NODE = Path("/sys/devices/system/node")


def test_the_kernel_and_we_see_the_shape_that_was_asked_for(shape: Shape) -> None:
    topology = read_topology()
    assert len(topology.cpus) == shape.cpus
    assert len(topology.sockets) == shape.sockets
    assert topology.threads_per_core == shape.threads
    assert topology.snc == shape.snc
    assert len(topology.nodes) == shape.nodes
    assert len(topology.cpu_nodes) == shape.cpu_nodes
    for node in topology.nodes:
        assert node.cpus == parse_cpus((_NODE / f"node{node.id}/cpulist").read_text())
        assert dict(node.distances) == {other: shape.distance(node.id, other) for other in range(shape.nodes)}
    for cpu in topology.cpus:
        folder = _CPU / f"cpu{cpu.id}/topology"
        assert topology.siblings(cpu.id) == parse_cpus((folder / "thread_siblings_list").read_text())
        assert cpu.socket == int((folder / "physical_package_id").read_text())


def test_isolated_cpus_are_seen_and_not_ours_to_give(shape: Shape) -> None:
    assert read_topology().isolated == parse_cpus(shape.isolated)
    assert not LocalProvisioner().describe().allowed & parse_cpus(shape.isolated)


def test_hwloc_sees_the_same_machine() -> None:
    check(read_topology(), lstopo(None))
    check_counts(read_topology(), None)
