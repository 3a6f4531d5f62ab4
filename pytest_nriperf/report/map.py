"""The map of a node: sockets, NUMA nodes, cores and threads, and which replica has which CPU.

`machine_map` makes the values (plain, for JSON and HTML), `draw` the text of at most `WIDTH` columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from string import ascii_uppercase
from typing import Any

from pytest_nriperf.balloons import Placement
from pytest_nriperf.topology import NumaNode, Topology, describe_memory
from pytest_nriperf.units import format_cpus

WIDTH = 100
_GROUP = 8
_CORES_PER_LINE = 64

# State of a CPU -> (its character; a replica's CPUs are drawn as the replica's letter, what the legend says).
STATES: dict[str, tuple[str, str]] = {
    "visible": ("A", "a replica's CPU: allocated, visible to its workload"),
    "hidden": ("a", "a replica's CPU: allocated, hidden from its workload"),
    "free": (".", "free"),
    "reserved": ("#", "reserved"),
    "isolated": ("i", "isolated by the kernel: avoided"),
    "refused": ("-", "not allowed here"),
    "absent": (" ", ""),
}


@dataclass(frozen=True)
class Cell:
    """A hardware thread: its CPU, its state (a key of `STATES`), the replica that has it."""

    cpu: int | None
    state: str
    replica: int | None = None


@dataclass(frozen=True)
class CoreMap:
    """A core: its number, its L3 group, its threads in order."""

    core: int
    l3: int | None
    threads: tuple[Cell, ...]


@dataclass(frozen=True)
class NodeMap:
    """The cores of a NUMA node that lie in one socket."""

    node: int
    memory: str
    cpus: str
    dies: tuple[int, ...]
    cores: tuple[CoreMap, ...]


@dataclass(frozen=True)
class SocketMap:
    """A socket and its NUMA nodes."""

    socket: int
    nodes: tuple[NodeMap, ...]


@dataclass(frozen=True)
class MachineMap:
    """The whole node. `memory_only` are NUMA nodes without CPUs: number, memory, nearest node with CPUs."""

    name: str
    summary: str
    simulated: bool
    threads: int
    sockets: tuple[SocketMap, ...]
    memory_only: tuple[tuple[int, str, int | None], ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def letter(replica: int) -> str:
    """The character of a replica; from the 27th on they repeat.

    >>> letter(0), letter(25), letter(26)
    ('A', 'Z', 'A')
    """
    return ascii_uppercase[replica % len(ascii_uppercase)]


def machine_map(
    topology: Topology,
    placement: Placement | None = None,
    *,
    allowed: Iterable[int] | None = None,
    reserved: Iterable[int] = frozenset(),
) -> MachineMap:
    """The map of a topology, with the CPUs of a placement when one is given. `allowed` of None means all."""
    cells = _cells(topology, placement, topology.online if allowed is None else frozenset(allowed), frozenset(reserved))
    return MachineMap(
        name=topology.name,
        summary=topology.summary(),
        simulated=topology.simulated,
        threads=topology.threads_per_core,
        sockets=tuple(
            SocketMap(socket, tuple(_node_map(topology, socket, node, cells) for node in topology.socket_nodes(socket)))
            for socket in topology.sockets
        ),
        memory_only=tuple(
            (node.id, describe_memory(node), _nearest(topology, node)) for node in topology.nodes if not node.cpus
        ),
    )


def _cells(
    topology: Topology, placement: Placement | None, allowed: frozenset[int], reserved: frozenset[int]
) -> dict[int, Cell]:
    cells = {}
    for cpu in topology.online:
        if cpu not in allowed:
            state = "refused"
        elif cpu in reserved:
            state = "reserved"
        else:
            state = "isolated" if cpu in topology.isolated else "free"
        cells[cpu] = Cell(cpu, state)
    for number, replica in enumerate(placement.replicas if placement else ()):
        for cpu in replica.allocated:
            cells[cpu] = Cell(cpu, "visible" if cpu in replica.visible else "hidden", number)
    return cells


def _node_map(topology: Topology, socket: int, node: int, cells: dict[int, Cell]) -> NodeMap:
    cpus = topology.node_cpus(node) & topology.socket_cpus(socket)
    cores = []
    for core, members in topology.cores().items():
        here = [cpu for cpu in members if cpu in cpus]
        if here:
            absent = [Cell(None, "absent")] * (topology.threads_per_core - len(here))
            threads = (*(cells[cpu] for cpu in here), *absent)
            cores.append(CoreMap(core, topology.cpu(here[0]).l3, threads))
    dies = tuple(sorted({topology.cpu(cpu).die for cpu in cpus}))
    return NodeMap(node, describe_memory(topology.node(node)), format_cpus(cpus), dies, tuple(cores))


def _nearest(topology: Topology, node: NumaNode) -> int | None:
    known = [(node.distances[other], other) for other in topology.cpu_nodes if other in node.distances]
    return min(known)[1] if known else None


# --------------------------------------------------------------------------------------------------------- as text


def draw(machine: MachineMap) -> str:
    """The map as text: a row per hardware thread, a character per CPU, and the legend of what occurs."""
    lines = [f"{machine.name}: {machine.summary}" + ("  SIMULATED" if machine.simulated else "")]
    many_dies = any(node.dies != (0,) for socket in machine.sockets for node in socket.nodes)
    for socket in machine.sockets:
        lines += ["", f"socket {socket.socket}"]
        for node in socket.nodes:
            lines += _draw_node(node, machine.threads, many_dies)
    lines += _draw_memory_only(machine)
    return "\n".join([*lines, "", *_legend(machine)])


def _draw_node(node: NodeMap, threads: int, many_dies: bool) -> list[str]:
    die = f"  die {', '.join(map(str, node.dies))}" if many_dies else ""
    states = Counter(cell.state for core in node.cores for cell in core.threads if cell.replica is not None)
    used = f"  {states.total()} allocated / {states['visible']} visible" if states else ""
    head = _shorten(f"  NUMA node {node.node}{die}  {node.memory}  CPUs {node.cpus}", WIDTH - len(used))
    lines = [head + used]
    for start in range(0, len(node.cores), _CORES_PER_LINE):
        cores = node.cores[start : start + _CORES_PER_LINE]
        separators = _separators(cores)
        lines.append(("    CPU    " + _ruler(cores, separators)).rstrip())
        for thread in range(threads):
            cells = [core.threads[thread] for core in cores]
            if all(cell.cpu is None for cell in cells):
                continue
            row = "".join(mark + _character(cell) for mark, cell in zip(separators, cells, strict=True))
            label = f"    thread {thread} " if threads > 1 else "           "
            lines.append((label + row).rstrip())
    return lines


def _separators(cores: Sequence[CoreMap]) -> list[str]:
    """What stands before each core: nothing inside a group, a blank between groups, a bar between L3 caches."""
    marks = [""]
    since = 1
    for before, core in pairwise(cores):
        mark = "|" if core.l3 != before.l3 else " " if since == _GROUP else ""
        since = 1 if mark else since + 1
        marks.append(mark)
    return marks


def _ruler(cores: Sequence[CoreMap], separators: Sequence[str]) -> str:
    """The first CPU's number above every group that leaves room for it."""
    text = ""
    column = 0
    for mark, core in zip(separators, cores, strict=True):
        column += len(mark)
        if (mark or column == 0) and (column == 0 or len(text) < column):
            text = text.ljust(column) + str(core.threads[0].cpu)
        column += 1
    return text


def _character(cell: Cell) -> str:
    if cell.replica is None:
        return STATES[cell.state][0]
    return letter(cell.replica) if cell.state == "visible" else letter(cell.replica).lower()


def _draw_memory_only(machine: MachineMap) -> list[str]:
    lines = [""] if machine.memory_only else []
    for node, memory, nearest in machine.memory_only:
        near = "" if nearest is None else f", nearest to NUMA node {nearest}"
        lines.append(f"  NUMA node {node}  {memory}  memory only{near}")
    return lines


def _legend(machine: MachineMap) -> list[str]:
    nodes = [node for socket in machine.sockets for node in socket.nodes]
    seen = {cell.state for node in nodes for core in node.cores for cell in core.threads}
    lines = [f"  {mark}  {text}" for state, (mark, text) in STATES.items() if state in seen and text]
    if any("|" in _separators(node.cores) for node in nodes):
        lines.append("  |  between L3 caches")
    return lines


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


# Of the columns of `draw_replicas`: together with their blanks as wide as the page.
_REPLICA_CAPS = (2, 7, 12, 28, 28, 11)


def draw_replicas(placement: Placement, topology: Topology) -> str:
    """One line a replica: its letter, NUMA nodes, allocated and visible CPUs, memory."""
    rows = [("", "replica", "NUMA", "allocated", "visible", "memory")]
    for number, replica in enumerate(placement.replicas):
        rows.append(
            (
                letter(number),
                str(number),
                format_cpus(topology.nodes_of(replica.allocated)),
                format_cpus(replica.allocated),
                format_cpus(replica.visible),
                format_cpus(replica.memory_nodes) or "unbound",
            )
        )
    widths = [min(cap, max(len(row[i]) for row in rows)) for i, cap in enumerate(_REPLICA_CAPS)]
    lines = [
        "  " + "  ".join(_shorten(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def draw_facts(topology: Topology, allowed: frozenset[int], reserved: frozenset[int]) -> str:
    """What the map cannot show: how siblings are numbered, who shares a cache, which CPUs are special."""
    pairs = [cpus for cpus in topology.cores().values() if len(cpus) > 1]
    facts = [
        ("siblings", ", ".join("+".join(map(str, cpus)) for cpus in pairs[:3]) + (", ..." if len(pairs) > 3 else "")),
        ("L2", _caches(topology, "l2")),
        ("L3", _caches(topology, "l3")),
        ("offline", format_cpus(topology.offline)),
        ("isolated", format_cpus(topology.isolated & topology.online)),
        ("allowed", "" if allowed >= topology.online else f"{len(allowed)} CPUs: {format_cpus(allowed)}"),
        ("reserved", format_cpus(reserved & topology.online)),
    ]
    return "\n".join(_shorten(f"{name:<9}  {text}", WIDTH) for name, text in facts if text)


def _caches(topology: Topology, level: str) -> str:
    groups: dict[int | None, set[int]] = {}
    for cpu in topology.cpus:
        groups.setdefault(getattr(cpu, level), set()).add(cpu.core)
    if None in groups:
        return "unknown"
    sizes = sorted({len(cores) for cores in groups.values()})
    cores = f"{sizes[0]} core{'s' if sizes[0] > 1 else ''}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} cores"
    return f"{len(groups)} x {cores}"


def draw_distances(topology: Topology) -> str:
    """The table of distances between NUMA nodes as the firmware states them; empty for one node."""
    nodes = [node for node in topology.nodes if node.distances]
    if len(nodes) < 2 or len(nodes) > 16:
        return ""
    width = max(4, *(len(str(node.id)) + 1 for node in nodes))
    lines = ["distances  " + "".join(str(node.id).rjust(width) for node in nodes)]
    for node in nodes:
        row = "".join(str(node.distances.get(other.id, "-")).rjust(width) for other in nodes)
        lines.append(f"  {f'node {node.id}':<9}{row}")
    return "\n".join(lines)
