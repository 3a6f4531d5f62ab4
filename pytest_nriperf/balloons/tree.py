"""The CPU tree of the balloons policy: system, package, die, NUMA node, L2 cache, core, thread.

Sets of CPUs are integers with one bit a CPU. Bits are numbered in the order of the threads' names, so that the tie
break "smallest name" among threads is the lowest bit.

Names break ties. The policy compares them as text (`ties="upstream"`: cpu10 before cpu2); `ties="numeric"` compares the
numbers in them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pytest_nriperf.errors import UsageError
from pytest_nriperf.topology import Cpu, Topology

TIES = ("upstream", "numeric")


class Element:
    """A node of the tree: `mask` are the CPUs below it, `rank` its place among the names of its level."""

    __slots__ = ("children", "mask", "parent", "rank")

    def __init__(self, mask: int, rank: int, parent: Element | None) -> None:
        self.mask = mask
        self.rank = rank
        self.parent = parent
        self.children: list[Element] = []


@dataclass(frozen=True)
class Cluster:
    """CPUs that share a cache which is bigger than a core and smaller than its die (`die_mask`) and package."""

    mask: int
    die_mask: int


@dataclass(frozen=True)
class CpuTree:
    """All that the allocator needs of a topology, as bit sets.

    `root` is the whole tree, `areas` the same tree down to the NUMA nodes; `order` are the CPUs by bit; `cores` and
    `packages` are in the order of their numbers, `threads` by thread index, `clusters` by package.
    """

    root: Element
    areas: Element
    order: tuple[int, ...]
    position: dict[int, int]
    cores: tuple[int, ...]
    core_of: tuple[int, ...]
    threads: tuple[int, ...]
    nodes: dict[int, int]
    packages: tuple[int, ...]
    clusters: tuple[tuple[Cluster, ...], ...]

    def mask(self, cpus: Iterable[int]) -> int:
        """Bits of CPUs; those that are not in the tree are left out."""
        position = self.position
        bits = 0
        for cpu in cpus:
            if cpu in position:
                bits |= 1 << position[cpu]
        return bits

    def cpus(self, mask: int) -> frozenset[int]:
        """CPUs of bits."""
        order = self.order
        return frozenset(order[bit] for bit in bits_of(mask))


def bits_of(mask: int) -> Iterable[int]:
    """Positions of the bits, ascending.

    >>> list(bits_of(0b1010))
    [1, 3]
    """
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


@lru_cache(maxsize=32)
def cpu_tree(topology: Topology, ties: str = "upstream") -> CpuTree:
    """The tree of a topology, built once. `ties` is one of `TIES`."""
    if ties not in TIES:
        raise UsageError(f"ties={ties!r} is unknown", f"possible are {', '.join(TIES)}")
    lowest = {core: min(cpus) for core, cpus in topology.cores().items()}
    names = {cpu.id: _names(cpu, lowest[cpu.core], ties) for cpu in topology.cpus}
    order = tuple(sorted(names, key=lambda cpu: names[cpu][-1]))
    position = {cpu: bit for bit, cpu in enumerate(order)}

    def mask(cpus: Iterable[int]) -> int:
        return sum(1 << position[cpu] for cpu in cpus)

    cores = tuple(mask(cpus) for cpus in topology.cores().values())
    core_of = [0] * len(order)
    for core in cores:
        for bit in bits_of(core):
            core_of[bit] = core
    packages = tuple(mask(topology.socket_cpus(socket)) for socket in topology.sockets)
    return CpuTree(
        root=_grow(names, position),
        areas=_grow({cpu: path[:3] for cpu, path in names.items()}, position),
        order=order,
        position=position,
        cores=cores,
        core_of=tuple(core_of),
        threads=tuple(
            mask(cpu.id for cpu in topology.cpus if cpu.thread == thread) for thread in range(topology.threads_per_core)
        ),
        nodes={node: mask(topology.node_cpus(node)) for node in topology.cpu_nodes},
        packages=packages,
        clusters=_clusters(topology, position, packages),
    )


def _names(cpu: Cpu, first: int, ties: str) -> list[Any]:
    """The names of a CPU's tree elements below the system, root first."""
    cache = cpu.l2 if cpu.l2 is not None else first
    if ties == "numeric":
        numa = (cpu.socket, cpu.die, cpu.node)
        return [(cpu.socket,), (cpu.socket, cpu.die), numa, (*numa, cache), (*numa, first), (*numa, first, cpu.id)]
    package, die = f"p{cpu.socket}", f"p{cpu.socket}d{cpu.die}"
    node = f"{die}n{cpu.node}"
    core = f"{node}cpu{first}"
    return [package, die, node, f"{node}${cache}", core, f"{core}t{cpu.id}"]


def _grow(names: dict[int, list[Any]], position: dict[int, int]) -> Element:
    """The tree of name paths. A level that splits exactly as the next one does is left out: its elements have the
    same counts and the deeper one always wins, so no choice changes."""
    depth = len(next(iter(names.values())))
    paths = {cpu: [tuple(path[: i + 1]) for i in range(depth)] for cpu, path in names.items()}
    sizes = [len({path[i] for path in paths.values()}) for i in range(depth)]
    levels = [i for i in range(depth) if i == depth - 1 or sizes[i] != sizes[i + 1]]
    ranks = {i: {name: rank for rank, name in enumerate(sorted({path[i] for path in names.values()}))} for i in levels}
    root = Element(0, 0, None)
    elements: dict[tuple[Any, ...], Element] = {}
    for cpu in names:
        bit = 1 << position[cpu]
        root.mask |= bit
        parent = root
        for i in levels:
            key = paths[cpu][i]
            if key not in elements:
                elements[key] = Element(0, ranks[i][names[cpu][i]], parent)
                parent.children.append(elements[key])
            parent = elements[key]
            parent.mask |= bit
    return root


def _clusters(
    topology: Topology, position: dict[int, int], packages: tuple[int, ...]
) -> tuple[tuple[Cluster, ...], ...]:
    """Per package the groups of the highest cache level that lies between a core and a die; none without such."""
    dies: dict[tuple[int, int], int] = {}
    groups: dict[str, dict[tuple[int, int, int], int]] = {"l3": {}, "l2": {}}
    for cpu in topology.cpus:
        bit = 1 << position[cpu.id]
        die = (cpu.socket, cpu.die)
        dies[die] = dies.get(die, 0) | bit
        for level, members in groups.items():
            number = getattr(cpu, level)
            if number is not None:
                members[(*die, number)] = members.get((*die, number), 0) | bit
    for members in groups.values():
        inside = all(mask.bit_count() < dies[key[:2]].bit_count() for key, mask in members.items())
        if members and inside and max(mask.bit_count() for mask in members.values()) > topology.threads_per_core:
            return tuple(
                tuple(Cluster(mask, dies[key[:2]]) for key, mask in sorted(members.items()) if mask & package)
                for package in packages
            )
    return ()
