"""`nriperf topology`: sockets, NUMA nodes, cores, hyperthreads and memory of a node, drawn."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pytest_nriperf.errors import UsageError
from pytest_nriperf.report.map import draw, draw_distances, machine_map
from pytest_nriperf.topology import Topology, allowed_cpus, read_topology, simulated_topology, write_snapshot
from pytest_nriperf.units import format_bytes


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--sysfs", type=Path, metavar="DIR|FILE", help="read this sysfs tree or snapshot, not /sys")
    where.add_argument("--node", default="local", metavar="NODE", help="local, or a simulated one: sim:2s64c2t-snc2")
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
    topology, allowed = find_node(options.node, options.sysfs)
    if options.json:
        facts = {"summary": topology.summary(), "snc": topology.snc, "allowed": sorted(allowed), **topology.as_dict()}
        print(json.dumps(facts, indent=1))
        return 0
    print(draw(machine_map(topology, allowed=allowed)))
    if distances := draw_distances(topology):
        print(f"\n{distances}")
    return 0


def _pack(options: argparse.Namespace) -> int:
    file, sysfs = options.snapshot, options.sysfs
    if sysfs is None and options.node != "local":
        raise UsageError(f"node {options.node!r} is simulated and has no files", "leave out --node")
    count = write_snapshot(file, sysfs or Path("/sys"))
    summary = read_topology(file, name=str(file)).summary()
    size = file.stat().st_size
    if options.json:
        print(json.dumps({"file": str(file), "bytes": size, "files": count, "summary": summary}))
    else:
        print(f"{file}: {format_bytes(size)}, {count} files; {summary}")
    return 0


def find_node(node: str, sysfs: Path | None) -> tuple[Topology, frozenset[int]]:
    """A node's topology and the CPUs that may be used there."""
    if sysfs is not None:
        topology = read_topology(sysfs, name=str(sysfs))
        return topology, topology.online
    if node == "local":
        return read_topology(), allowed_cpus()
    topology = simulated_topology(node)
    return topology, topology.online
