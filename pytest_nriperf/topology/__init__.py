"""What a node is made of: sockets, dies, NUMA nodes, cores, hyperthread siblings, caches, memory."""

from __future__ import annotations

from pathlib import Path

from pytest_nriperf.topology.machine import Cpu, NumaNode, Topology, describe_memory
from pytest_nriperf.topology.simulated import simulated_topology
from pytest_nriperf.topology.snapshot import open_snapshot, write_snapshot
from pytest_nriperf.topology.sysfs import FILES, Read, allowed_cpus, folder_reader, read_topology_from

__all__ = [
    "FILES",
    "Cpu",
    "NumaNode",
    "Read",
    "Topology",
    "allowed_cpus",
    "describe_memory",
    "read_topology",
    "read_topology_from",
    "simulated_topology",
    "write_snapshot",
]


def read_topology(sysfs: Path = Path("/sys"), *, name: str = "local") -> Topology:
    """The topology that a sysfs tree or a snapshot of one describes.

    Raises TopologyError naming the file that is missing or odd.
    """
    return read_topology_from(open_snapshot(sysfs) if sysfs.is_file() else folder_reader(sysfs), name=name)
