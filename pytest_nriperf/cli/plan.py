"""`nriperf plan`: which CPUs a balloon would get, drawn per socket, NUMA node and core."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections import Counter
from pathlib import Path
from textwrap import fill

from pytest_nriperf.balloons import BalloonSpec, Placement, most_replicas, place
from pytest_nriperf.balloons.tree import TIES
from pytest_nriperf.cli.topology import find_node
from pytest_nriperf.errors import UsageError
from pytest_nriperf.generate.archive import worker_archive
from pytest_nriperf.provision.kubernetes import kubernetes_provisioner
from pytest_nriperf.provision.manifests import to_yaml
from pytest_nriperf.report.map import draw, draw_replicas, machine_map
from pytest_nriperf.settings import settings_here
from pytest_nriperf.topology import Topology
from pytest_nriperf.topology.simulated import SHAPE_HELP
from pytest_nriperf.units import parse_cpus

EXAMPLE = "cpus=16,hyperthreads=hidden,numa=single,replicas=4"
TEACHING = """balloon arguments, NAME=VALUE separated by commas, the default first:
  cpus          allocated CPUs per replica: a number, numa, socket, all, or a share such as 25%
  hyperthreads  paired   both threads of cpus/2 cores, all visible
                spread   one thread of cpus cores; siblings are free for others
                hidden   both threads of cpus/2 cores, one of each visible: pay 2, take 1
  numa          any      wherever it fits
                single   inside one NUMA node
                socket   equal parts of the NUMA nodes of one socket
                all      equal parts of all NUMA nodes
  memory        local (bound to the CPUs' NUMA nodes), any (unbound), interleave
  replicas      1, a number, or numa: one inside each NUMA node
  placement     balance (sockets and NUMA nodes in turn), pack (as few as possible)
  snc           the sub-NUMA mode that the node must be booted in: 1 (off), 2, 3, 4

simulated nodes: """


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"{TEACHING}{fill(SHAPE_HELP, 96)}\n\n{parser.epilog}"
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--node",
        default="local",
        metavar="NODE",
        help="local, sim:2s64c2t-snc2, a profile or Kubernetes node: prints the manifests",
    )
    where.add_argument("--sysfs", type=Path, metavar="DIR|FILE", help="the node of a sysfs tree or snapshot")
    parser.add_argument(
        "--balloon",
        type=str,
        default="",
        metavar="SPEC",
        help=f"the balloon mark's arguments, for example {EXAMPLE}; left out: one replica on all CPUs",
    )
    parser.add_argument("--allowed", metavar="CPUS", help="CPUs that may be given, else all that we may use")
    parser.add_argument("--reserved", metavar="CPUS", help="CPUs to keep for the system, else those of the settings")
    parser.add_argument("--ties", choices=TIES, default="upstream", help="order of equal choices (%(default)s)")
    parser.add_argument(
        "--manage", action="store_true", help="on a Kubernetes node: with the policy that we would write"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(options: argparse.Namespace) -> int:
    """Place the balloon and print it. Exit status 0; a balloon that does not fit raises PlacementError."""
    spec = BalloonSpec.parse(options.balloon)
    if options.sysfs is None and options.node != "local" and not options.node.startswith("sim:"):
        return _far(options, spec)
    node = find_node(options.node, options.sysfs)
    topology = node.topology
    allowed = node.allowed if options.allowed is None else parse_cpus(options.allowed)
    reserved = node.reserved if options.reserved is None else parse_cpus(options.reserved)
    placement = place(spec, topology, allowed=allowed, reserved=reserved, ties=options.ties)
    most = most_replicas(spec, topology, allowed=allowed, reserved=reserved, ties=options.ties)
    machine = machine_map(topology, placement, allowed=allowed, reserved=reserved)
    if options.json:
        facts = {**placement.as_dict(), "sizes": placement.sizes_text, "most_replicas": most, "map": machine.as_dict()}
        print(json.dumps(facts, indent=1))
        return 0
    print(draw(machine))
    print(f"\n{describe(placement, topology)}\nroom for {most} such replica{'s' if most > 1 else ''}\n")
    print(draw_replicas(placement, topology))
    return 0


def _far(options: argparse.Namespace, spec: BalloonSpec) -> int:
    """On a Kubernetes node: the manifests, with what is drawn elsewhere as comments before them."""
    if options.allowed is not None or options.reserved is not None or options.ties != TIES[0]:
        raise UsageError(
            f"--allowed, --reserved and --ties do not reach node {options.node}: its balloons policy decides",
            "leave them out, or plan for --node=sim:SHAPE",
        )
    settings = settings_here().with_values({"manage": options.manage or None})
    with contextlib.closing(kubernetes_provisioner(options.node, settings, worker_archive)) as node:
        topology, description = node.topology(), node.describe()
        placement = place(spec, topology, allowed=description.allowed, reserved=description.reserved)
        documents = node.documents(spec)
    if options.json:
        print(json.dumps({**placement.as_dict(), "sizes": placement.sizes_text, "manifests": documents}, indent=1))
        return 0
    told = f"{describe(placement, topology)}\n{draw_replicas(placement, topology)}\nCPU numbers are a prediction."
    print("\n".join(f"# {line}".rstrip() for line in told.splitlines()))
    for document in documents:
        print(f"---\n{to_yaml(document)}")
    return 0


def describe(placement: Placement, topology: Topology) -> str:
    """What was asked for and what it costs."""
    count = len(placement.replicas)
    total = f"{len(placement.allocated)} allocated / {len(placement.visible)} visible of {len(topology.cpus)} CPUs"
    each = "" if count == 1 else f"{count} replicas x ({placement.sizes_text}) = "
    shared = _shared_cores(placement, topology)
    note = f"\n{shared} cores are shared by replicas: one thread each" if shared else ""
    return f"balloon {placement.spec.canonical()}\n{each}{total}{note}"


def _shared_cores(placement: Placement, topology: Topology) -> int:
    """On how many cores different replicas have a thread."""
    users = Counter(
        core for replica in placement.replicas for core in {topology.cpu(cpu).core for cpu in replica.allocated}
    )
    return sum(1 for count in users.values() if count > 1)
