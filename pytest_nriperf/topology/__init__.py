"""What a node is made of: sockets, dies, NUMA nodes, cores, hyperthread siblings, caches, memory."""

from __future__ import annotations

from pytest_nriperf.topology.machine import Cpu, NumaNode, Topology, describe_memory
from pytest_nriperf.topology.simulated import simulated_topology
from pytest_nriperf.topology.sysfs import FILES, Read, allowed_cpus, read_topology, read_topology_from

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
]
