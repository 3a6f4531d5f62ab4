"""Where the replicas lie: sockets, NUMA nodes and cores drawn as a map, one square a core, one part of it a thread."""

from __future__ import annotations

from pytest_nriperf.balloons import Placement
from pytest_nriperf.report.map import STATES, Cell, CoreMap, SocketMap, draw_replicas, machine_map
from pytest_nriperf.report.tables import escaped
from pytest_nriperf.topology import Topology

CORE = 22
GAP = 3
ACROSS = 16
HEAD = 18


def placement_drawing(topology: Topology, placement: Placement, caption: str = "") -> str:
    """An SVG: threads that a replica sees are filled and numbered, hidden siblings hatched, all others empty."""
    sockets = []
    left = 0
    height = 0
    for socket in machine_map(topology, placement).sockets:
        body, wide, tall = _socket(socket)
        sockets.append(f'<g transform="translate({left} 0)">{body}</g>')
        left += wide + 16
        height = max(height, tall)
    if caption:
        height += HEAD
        sockets.append(f'<text x="0" y="{height - 5}">{escaped(caption)}</text>')
    words = escaped(placement_words(placement))
    return (
        f'<svg viewBox="0 0 {left} {height}" width="{left}" role="img" aria-label="{words}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(sockets)}</svg>'
    )


def placement_map(topology: Topology, placement: Placement, name: str) -> str:
    """The drawing with its name, and the same in numbers."""
    words = escaped(placement_words(placement))
    return (
        f'<figure class="map"><figcaption>{escaped(name)} <span class="small">{words}</span></figcaption>'
        f"{placement_drawing(topology, placement)}"
        f"<details><summary>in numbers</summary><pre>{_in_numbers(topology, placement)}</pre></details></figure>"
    )


def placement_words(placement: Placement) -> str:
    """How many replicas of which size."""
    count = len(placement.replicas)
    return f"{count} replica{'' if count == 1 else 's'}, each {placement.sizes_text}"


def _in_numbers(topology: Topology, placement: Placement) -> str:
    return "\n".join(escaped(line) for line in draw_replicas(placement, topology).splitlines())


def _socket(socket: SocketMap) -> tuple[str, int, int]:
    parts = [f'<text x="0" y="13" class="head">socket {socket.socket}</text>']
    top = HEAD + 2
    across = min(ACROSS, max(len(node.cores) for node in socket.nodes))
    wide = max(110, across * (CORE + GAP) + 13)
    for node in socket.nodes:
        tall = HEAD + -(-len(node.cores) // across) * (CORE + GAP) + 8
        parts.append(f'<rect x="1" y="{top}" width="{wide - 2}" height="{tall}" class="node" rx="4"/>')
        parts.append(f'<text x="8" y="{top + 14}">NUMA node {node.node}</text>')
        for index, core in enumerate(node.cores):
            x, y = 8 + index % across * (CORE + GAP), top + HEAD + 2 + index // across * (CORE + GAP)
            parts.append(_core(core, x, y))
        top += tall + 6
    return "".join(parts), wide, top


def _core(core: CoreMap, x: int, y: int) -> str:
    """A core: its threads side by side; the number of the replica stands on each thread that it sees."""
    wide = CORE / len(core.threads)
    return "".join(_thread(cell, x + place * wide, y, wide) for place, cell in enumerate(core.threads))


def _thread(cell: Cell, x: float, y: int, wide: float) -> str:
    if cell.cpu is None:
        return ""
    kind = cell.state if cell.replica is None else f"fill{cell.replica % 8}"
    words = STATES[cell.state][1] if cell.replica is None else f"replica {cell.replica}"
    hidden = cell.state == "hidden"
    box = f'x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{CORE}"'
    title = f"CPU {cell.cpu}: {words}{', hidden from the workload' if hidden else ''}"
    drawn = f'<rect {box} class="{kind}{" hatch" if hidden else ""}"><title>{escaped(title)}</title></rect>'
    if cell.replica is not None and not hidden:
        middle = f'x="{x + wide / 2:.1f}" y="{y + CORE / 2 + 3:.1f}"'
        drawn += f'<text {middle} class="on" text-anchor="middle">{cell.replica}</text>'
    return drawn
