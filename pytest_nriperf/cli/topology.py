"""`nriperf topology`: sockets, NUMA nodes, cores, hyperthreads and memory of a node, drawn."""

from __future__ import annotations

import argparse
import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_nriperf.errors import UsageError
from pytest_nriperf.provision.kubernetes import kubernetes_provisioner
from pytest_nriperf.report.map import draw, draw_distances, draw_facts, machine_map
from pytest_nriperf.settings import settings_here
from pytest_nriperf.topology import Topology, allowed_cpus, read_topology, simulated_topology, write_snapshot
from pytest_nriperf.units import format_bytes, format_cpus


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--sysfs", type=Path, metavar="DIR|FILE", help="read this sysfs tree or snapshot, not /sys")
    where.add_argument(
        "--node", default="local", metavar="NODE", help="local, sim:2s64c2t-snc2, a profile or a Kubernetes node"
    )
    parser.add_argument(
        "--snapshot",
        type=Path,
        metavar="FILE",
        help="pack the files that tell the topology into FILE, for a bug report: no serial numbers, no host name",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(options: argparse.Namespace) -> int:
    """Print the topology, or pack it into a snapshot. Exit status 0."""
    if options.snapshot is not None:
        return _pack(options)
    node = find_node(options.node, options.sysfs)
    if options.json:
        print(json.dumps(_facts(node), indent=1))
        return 0
    print(draw(machine_map(node.topology, allowed=node.allowed, reserved=node.reserved)))
    print(f"\n{draw_facts(node.topology, node.allowed, node.reserved)}")
    if distances := draw_distances(node.topology):
        print(f"\n{distances}")
    return 0


def _facts(node: PlannedNode) -> dict[str, Any]:
    topology = node.topology
    return {
        "summary": topology.summary(),
        "snc": topology.snc,
        "threads_per_core": topology.threads_per_core,
        "allowed": format_cpus(node.allowed),
        "reserved": format_cpus(node.reserved),
        **topology.as_dict(),
    }


def _pack(options: argparse.Namespace) -> int:
    file, sysfs = options.snapshot, options.sysfs
    if sysfs is None and options.node != "local":
        raise UsageError(
            f"node {options.node!r} is not this machine, whose files are packed", "run it there, without --node"
        )
    count = write_snapshot(file, sysfs or Path("/sys"))
    summary = read_topology(file, name=str(file)).summary()
    size = file.stat().st_size
    if options.json:
        print(json.dumps({"file": str(file), "bytes": size, "files": count, "summary": summary}))
    else:
        print(f"{file}: {format_bytes(size)}, {count} files; {summary}")
    return 0


@dataclass(frozen=True)
class PlannedNode:
    """A node that can be planned for: its topology, the CPUs that may be given, those of them that are kept back."""

    topology: Topology
    allowed: frozenset[int]
    reserved: frozenset[int] = frozenset()


def find_node(node: str, sysfs: Path | None) -> PlannedNode:
    """This machine (reserved CPUs from the settings of the current folder), a simulated node, a tree or a snapshot."""
    if sysfs is not None:
        topology = read_topology(sysfs, name=str(sysfs))
        return PlannedNode(topology, topology.online)
    if node == "local":
        return PlannedNode(read_topology(), allowed_cpus(), settings_here().reserved)
    if node.startswith("sim:"):
        topology = simulated_topology(node)
        return PlannedNode(topology, topology.online)
    with contextlib.closing(kubernetes_provisioner(node, settings_here())) as far:
        description = far.describe()
        return PlannedNode(far.topology(), description.allowed, description.reserved)
