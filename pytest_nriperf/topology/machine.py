"""The values: CPUs, NUMA nodes and the topology that holds them.

Numbers are the kernel's own wherever the kernel has one that is unique on the machine (CPU, socket, NUMA node,
cache). Cores are counted here, in the order of their lowest CPU, because the kernel's core_id repeats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pytest_nriperf.errors import TopologyError
from pytest_nriperf.units import format_bytes, format_cpus, parse_cpus

_COLUMNS = ("id", "socket", "die", "core", "thread", "node", "l2", "l3")


@dataclass(frozen=True)
class Cpu:
    """A logical CPU (hyperthread) that is online.

    `id`, `socket`, `die` (within its socket) and `node` are the kernel's numbers; `core` counts cores over the whole
    machine; `thread` is the index among the core's online siblings; `l2` and `l3` number the groups of CPUs that
    share that cache, None where the kernel does not tell.
    """

    id: int
    socket: int
    die: int
    core: int
    thread: int
    node: int
    l2: int | None = None
    l3: int | None = None


@dataclass(frozen=True)
class NumaNode:
    """A NUMA node. `cpus` are online ones and may be none (memory-only: HBM, CXL); `memory_bytes` is 0 where it has
    CPUs alone and None where nobody tells; `distances` maps node to the firmware's distance (10 = itself)."""

    id: int
    cpus: frozenset[int]
    memory_bytes: int | None = None
    distances: Mapping[int, int] = field(default_factory=dict, hash=False)
    sockets: tuple[int, ...] = ()


@dataclass(frozen=True)
class Topology:
    """A node's CPUs and memory. `cpus` are the online ones, ascending; `nodes` ascending.

    >>> from pytest_nriperf.topology import simulated_topology
    >>> machine = simulated_topology("sim:1s4c2t")
    >>> machine.summary(), sorted(machine.siblings(1)), machine.cpu(5).thread
    ('1 socket x 4 cores x 2 threads = 8 CPUs, 1 NUMA node', [1, 5], 1)
    """

    name: str
    cpus: tuple[Cpu, ...]
    nodes: tuple[NumaNode, ...]
    offline: frozenset[int] = frozenset()
    isolated: frozenset[int] = frozenset()
    simulated: bool = False

    def __post_init__(self) -> None:
        if not self.cpus:
            raise TopologyError(f"node {self.name} has no CPU that is online", "check its sysfs tree")
        numbers = [cpu.id for cpu in self.cpus]
        if numbers != sorted(set(numbers)):
            raise TopologyError(f"node {self.name}: CPU numbers repeat or are out of order", "check its description")
        missing = {cpu.node for cpu in self.cpus} - {node.id for node in self.nodes}
        if missing:
            raise TopologyError(
                f"node {self.name}: CPUs name NUMA nodes {format_cpus(missing)}, which are not described",
                "check its description",
            )

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.name, self.cpus, tuple(node.id for node in self.nodes)))

    @cached_property
    def _by_id(self) -> dict[int, Cpu]:
        return {cpu.id: cpu for cpu in self.cpus}

    @cached_property
    def _node_by_id(self) -> dict[int, NumaNode]:
        return {node.id: node for node in self.nodes}

    @cached_property
    def _cores(self) -> dict[int, tuple[int, ...]]:
        cores: dict[int, list[int]] = {}
        for cpu in self.cpus:
            cores.setdefault(cpu.core, []).append(cpu.id)
        return {core: tuple(cores[core]) for core in sorted(cores)}

    @cached_property
    def online(self) -> frozenset[int]:
        """The CPUs that are online."""
        return frozenset(self._by_id)

    @cached_property
    def sockets(self) -> tuple[int, ...]:
        """Numbers of the sockets that have a CPU online, ascending."""
        return tuple(sorted({cpu.socket for cpu in self.cpus}))

    @cached_property
    def cpu_nodes(self) -> tuple[int, ...]:
        """Numbers of the NUMA nodes that have a CPU online, ascending."""
        return tuple(node.id for node in self.nodes if node.cpus)

    def cpu(self, number: int) -> Cpu:
        """The online CPU of that number. Raises TopologyError when there is none."""
        try:
            return self._by_id[number]
        except KeyError:
            state = "offline" if number in self.offline else "not there"
            raise TopologyError(
                f"CPU {number} of node {self.name} is {state}", f"its CPUs are {format_cpus(self.online)}"
            ) from None

    def node(self, number: int) -> NumaNode:
        """The NUMA node of that number. Raises TopologyError when there is none."""
        try:
            return self._node_by_id[number]
        except KeyError:
            raise TopologyError(
                f"node {self.name} has no NUMA node {number}", f"it has {format_cpus(self._node_by_id)}"
            ) from None

    def siblings(self, cpu: int) -> frozenset[int]:
        """All online CPUs of the CPU's core, itself included."""
        return frozenset(self._cores[self.cpu(cpu).core])

    def cores(self) -> Mapping[int, tuple[int, ...]]:
        """Core -> its online CPUs, both ascending."""
        return self._cores

    def node_cpus(self, number: int) -> frozenset[int]:
        """The online CPUs of a NUMA node."""
        return self.node(number).cpus

    def socket_cpus(self, number: int) -> frozenset[int]:
        """The online CPUs of a socket."""
        return frozenset(cpu.id for cpu in self.cpus if cpu.socket == number)

    def socket_nodes(self, number: int) -> tuple[int, ...]:
        """The NUMA nodes that have a CPU in a socket, ascending."""
        return tuple(sorted({cpu.node for cpu in self.cpus if cpu.socket == number}))

    def nodes_of(self, cpus: Iterable[int]) -> tuple[int, ...]:
        """The NUMA nodes of CPUs, ascending."""
        return tuple(sorted({self.cpu(cpu).node for cpu in cpus}))

    def memory_near(self, cpus: Iterable[int]) -> tuple[int, ...]:
        """The NUMA nodes whose memory is local to CPUs, ascending: their own, or the nearest with memory."""
        return tuple(sorted({self._memory_of[node] for node in self.nodes_of(cpus)}))

    @cached_property
    def _memory_of(self) -> dict[int, int]:
        with_memory = [node.id for node in self.nodes if node.memory_bytes != 0]
        return {node.id: _nearest(node, with_memory) for node in self.nodes}

    @cached_property
    def threads_per_core(self) -> int:
        """The most siblings that a core has online: 1 without hyperthreads."""
        return max(len(cpus) for cpus in self._cores.values())

    @cached_property
    def snc(self) -> int:
        """NUMA nodes with CPUs per socket: 1 when sub-NUMA clustering is off."""
        return max(len(self.socket_nodes(socket)) for socket in self.sockets)

    def summary(self) -> str:
        """One line for people.

        >>> from pytest_nriperf.topology import simulated_topology
        >>> simulated_topology("sim:2s64c2t-snc2").summary()
        '2 sockets x 64 cores x 2 threads = 256 CPUs, 4 NUMA nodes (SNC-2)'
        """
        nodes = _count(len(self.cpu_nodes), "NUMA node") + (f" (SNC-{self.snc})" if self.snc > 1 else "")
        parts = [self._shape(), nodes]
        if memory_only := len(self.nodes) - len(self.cpu_nodes):
            parts.append(f"{memory_only} memory-only")
        parts += [f"{len(group)} {word}" for group, word in self._special() if group]
        return ", ".join(parts)

    def _special(self) -> tuple[tuple[frozenset[int], str], ...]:
        return (self.offline, "offline"), (self.isolated & self.online, "isolated")

    def _shape(self) -> str:
        cores_of = Counter(self.cpu(cpus[0]).socket for cpus in self._cores.values())
        even = len(set(cores_of.values())) == 1 and len({len(cpus) for cpus in self._cores.values()}) == 1
        if not even:
            return f"{_count(len(self.sockets), 'socket')}, {_count(len(self._cores), 'core')}, {len(self.cpus)} CPUs"
        cores = _count(len(self._cores) // len(self.sockets), "core")
        threads = _count(self.threads_per_core, "thread")
        return f"{_count(len(self.sockets), 'socket')} x {cores} x {threads} = {_count(len(self.cpus), 'CPU')}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; CPUs by column, so that a table library reads them at once."""
        return {
            "name": self.name,
            "simulated": self.simulated,
            "cpus": {column: [getattr(cpu, column) for cpu in self.cpus] for column in _COLUMNS},
            "nodes": [
                {
                    "id": node.id,
                    "cpus": format_cpus(node.cpus),
                    "memory_bytes": node.memory_bytes,
                    "distances": {str(other): distance for other, distance in node.distances.items()},
                    "sockets": list(node.sockets),
                }
                for node in self.nodes
            ],
            "offline": format_cpus(self.offline),
            "isolated": format_cpus(self.isolated),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Topology:
        """The inverse of `as_dict`; unknown keys are ignored. Raises TopologyError when something is missing."""
        try:
            columns = data["cpus"]
            rows = zip(*(columns[name] for name in _COLUMNS), strict=True)
            return cls(
                name=str(data["name"]),
                cpus=tuple(Cpu(*row) for row in rows),
                nodes=tuple(
                    NumaNode(
                        node["id"],
                        parse_cpus(node["cpus"]),
                        node["memory_bytes"],
                        {int(other): distance for other, distance in node["distances"].items()},
                        tuple(node["sockets"]),
                    )
                    for node in data["nodes"]
                ),
                offline=parse_cpus(data["offline"]),
                isolated=parse_cpus(data["isolated"]),
                simulated=bool(data["simulated"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TopologyError(
                f"this is no description of a topology: {type(error).__name__}: {error}",
                "write it with Topology.as_dict",
            ) from error


def _nearest(node: NumaNode, candidates: list[int]) -> int:
    """The candidate at the least distance, the node itself when it is one or when there is none."""
    if node.id in candidates or not candidates:
        return node.id
    return min(candidates, key=lambda other: (node.distances.get(other, 255), other))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def describe_memory(node: NumaNode) -> str:
    """A NUMA node's memory for people; `?` where nobody tells."""
    return "?" if node.memory_bytes is None else format_bytes(node.memory_bytes)
