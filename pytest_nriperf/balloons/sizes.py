"""From portable sizes ("numa", "socket", "all", "25%", replicas="numa") to numbers on one node.

Sizes are fractions of what the node can allocate, rounded down to whole cores, and to equal parts of NUMA nodes where
`numa` asks for them. With `paired` and `hidden` only cores count of which every thread is free to give; with `spread`
a core counts once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_nriperf.errors import PlacementError, SpecError
from pytest_nriperf.topology import Topology
from pytest_nriperf.units import format_cpus

if TYPE_CHECKING:
    from pytest_nriperf.balloons.spec import BalloonSpec


@dataclass(frozen=True)
class Sizes:
    """A request in numbers. `usable` are the CPUs that may be given in this hyperthread mode; `unit` divides `cpus`;
    `as_is` takes every CPU of `usable` without a promise about cores."""

    cpus: int
    replicas: int
    usable: frozenset[int]
    unit: int
    as_is: bool = False


def resolve_sizes(spec: BalloonSpec, topology: Topology, allowed: frozenset[int], reserved: frozenset[int]) -> Sizes:
    """Numbers for `cpus` and `replicas`. Raises SpecError for sizes that do not divide, PlacementError where the node
    has nothing to give."""
    available = (allowed & topology.online) - reserved
    if not available:
        raise PlacementError(
            f"node {topology.name} has no CPU to give: {len(allowed & topology.online)} of {len(topology.cpus)} may be "
            f"used, {len(reserved & allowed)} of them are reserved",
            "allow more CPUs or reserve fewer",
        )
    everything = spec.cpus is None and spec.hyperthreads == "paired" and spec.replicas == 1 and spec.numa == "any"
    if everything:
        return Sizes(len(available), 1, available, 1, as_is=True)
    if spec.hyperthreads == "hidden" and topology.threads_per_core == 1:
        raise PlacementError(
            f"node {topology.name} has one thread per core: hyperthreads='hidden' has nothing to hide",
            "use hyperthreads='paired' there, or switch hyperthreads on",
        )
    usable = available if spec.hyperthreads == "spread" else whole_cores(topology, available)
    per_node = [n for n in _counts(spec, topology, usable, [topology.node_cpus(n) for n in topology.cpu_nodes]) if n]
    replicas = len(per_node) if spec.replicas == "numa" else int(spec.replicas)
    unit = _unit(spec, topology)
    if isinstance(spec.cpus, int):
        _check_divides(spec, spec.cpus, unit, topology)
        return Sizes(spec.cpus, max(1, replicas), usable, unit)
    cpus = _portable(spec, topology, available, usable, replicas) // unit * unit
    if cpus < unit:
        raise PlacementError(
            f"node {topology.name}: cpus={spec.cpus or _size_left_out(spec)!r} of its {len(available)} CPUs to give "
            f"({format_cpus(available)}) is less than {_unit_text(spec)}",
            "ask for more, or allow more CPUs",
        )
    return Sizes(cpus, replicas, usable, unit)


def whole_cores(topology: Topology, cpus: frozenset[int]) -> frozenset[int]:
    """Those of the CPUs whose core is complete: every thread online and among them."""
    full = topology.threads_per_core
    whole: set[int] = set()
    for members in topology.cores().values():
        if len(members) == full and cpus.issuperset(members):
            whole.update(members)
    return frozenset(whole)


def _counts(
    spec: BalloonSpec, topology: Topology, usable: frozenset[int], groups: Iterable[frozenset[int]]
) -> list[int]:
    """How many CPUs one replica could get from each group of CPUs."""
    if spec.hyperthreads == "spread":
        return [len({topology.cpu(cpu).core for cpu in group & usable}) for group in groups]
    return [len(group & usable) for group in groups]


def _nodes_per_socket(topology: Topology) -> int:
    return max(len(topology.socket_nodes(socket)) for socket in topology.sockets)


def _unit(spec: BalloonSpec, topology: Topology) -> int:
    core = 1 if spec.hyperthreads == "spread" else topology.threads_per_core
    parts = {"socket": _nodes_per_socket(topology), "all": len(topology.cpu_nodes)}.get(spec.numa, 1)
    return core * parts


def _unit_text(spec: BalloonSpec) -> str:
    core = "a CPU" if spec.hyperthreads == "spread" else "a core"
    return f"{core} in every NUMA node" if spec.numa in ("socket", "all") else core


def _check_divides(spec: BalloonSpec, cpus: int, unit: int, topology: Topology) -> None:
    if cpus % unit == 0:
        return
    below, above = cpus // unit * unit, (cpus // unit + 1) * unit
    why = []
    if spec.hyperthreads != "spread" and topology.threads_per_core > 1:
        why.append(f"whole cores of {topology.threads_per_core} threads (hyperthreads={spec.hyperthreads!r})")
    if spec.numa in ("socket", "all"):
        nodes = _nodes_per_socket(topology) if spec.numa == "socket" else len(topology.cpu_nodes)
        why.append(f"equal parts of {nodes} NUMA nodes (numa={spec.numa!r})")
    raise SpecError(
        f"balloon: cpus={cpus} does not make {' and '.join(why)} on node {topology.name}",
        f"the nearest sizes are {below} and {above}" if below else f"the nearest size is {above}",
    )


def _portable(
    spec: BalloonSpec, topology: Topology, available: frozenset[int], usable: frozenset[int], replicas: int
) -> int:
    """The number that a portable size stands for, not yet rounded.

    "numa" and "socket" are the largest size that every one of the replicas gets in a NUMA node or socket of its own.
    """
    size = spec.cpus or _size_left_out(spec)
    nodes = _counts(spec, topology, usable, [topology.node_cpus(n) for n in topology.cpu_nodes])
    sockets = _counts(spec, topology, usable, [topology.socket_cpus(s) for s in topology.sockets])
    if size == "numa":
        cpus = _nth_largest(nodes, replicas)
    elif size == "socket":
        cpus = _nth_largest(sockets, replicas)
    elif size == "all":
        cpus = sum(_counts(spec, topology, usable, [usable]))
    else:
        return int(len(available) * float(str(size).rstrip("%")) / 100 + 1e-9)
    if spec.numa == "all":
        return min(cpus, len(nodes) * min(nodes))
    if spec.numa == "socket" and cpus <= _nth_largest(sockets, replicas):
        return min(cpus, _nth_largest(_equal_parts(spec, topology, usable), replicas))
    return cpus


def _size_left_out(spec: BalloonSpec) -> str:
    """What a request without `cpus` means: all that its NUMA rule leaves to one replica."""
    if spec.numa == "single" or spec.replicas == "numa":
        return "numa"
    return "socket" if spec.numa == "socket" else "all"


def _equal_parts(spec: BalloonSpec, topology: Topology, usable: frozenset[int]) -> list[int]:
    """Per socket, how many CPUs its NUMA nodes give in equal parts of whole cores."""
    core = 1 if spec.hyperthreads == "spread" else topology.threads_per_core
    parts = []
    for socket in topology.sockets:
        cpus = topology.socket_cpus(socket)
        nodes = _counts(spec, topology, usable, [topology.node_cpus(n) & cpus for n in topology.socket_nodes(socket)])
        parts.append(len(nodes) * (min(nodes) // core * core))
    return parts


def _nth_largest(values: list[int], n: int) -> int:
    positive = sorted((value for value in values if value), reverse=True)
    return positive[min(n, len(positive)) - 1] if positive else 0
