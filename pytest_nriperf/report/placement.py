"""Where the replicas lie: sockets, NUMA nodes and cores drawn as a map, one square a core, one half a thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_nriperf.report.tables import escaped
from pytest_nriperf.topology import Topology
from pytest_nriperf.units import format_cpus

CORE = 22
GAP = 3
ACROSS = 16
HEAD = 18


def placement_map(topology: Topology, replicas: Sequence[Mapping[str, Any]], name: str) -> str:
    """An SVG: threads that a replica sees are filled and numbered, hidden siblings are hatched, others empty."""
    owner = {cpu: index for index, replica in enumerate(replicas) for cpu in replica.get("allocated", ())}
    visible = {cpu for replica in replicas for cpu in replica.get("visible", ())}
    sockets = []
    left = 0.0
    height = 0.0
    for socket in topology.sockets:
        body, wide, tall = _socket(topology, socket, owner, visible)
        sockets.append(f'<g transform="translate({left:.0f} 0)">{body}</g>')
        left += wide + 16
        height = max(height, tall)
    words = "; ".join(_in_words(index, replica) for index, replica in enumerate(replicas))
    return (
        f'<figure class="map"><figcaption>{escaped(name)}</figcaption>'
        f'<svg viewBox="0 0 {left:.0f} {height:.0f}" width="{left:.0f}" role="img" aria-label="{escaped(words)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(sockets)}</svg>'
        f'<details><summary>in numbers</summary><p class="small">{escaped(words)}</p></details></figure>'
    )


def _in_words(index: int, replica: Mapping[str, Any]) -> str:
    allocated, seen = replica.get("allocated", ()), replica.get("visible", ())
    words = f"replica {index}: {len(allocated)} allocated / {len(seen)} visible, CPUs {format_cpus(seen)}"
    memory = replica.get("memory_nodes")
    return words + (f", memory of NUMA node {format_cpus(memory)}" if memory else "")


def _socket(topology: Topology, socket: int, owner: Mapping[int, int], visible: set[int]) -> tuple[str, float, float]:
    parts = [f'<text x="0" y="13" class="head">socket {socket}</text>']
    top = HEAD + 2.0
    wide = ACROSS * (CORE + GAP) + 16.0
    for node in topology.socket_nodes(socket):
        cores = [cpus for cpus in topology.cores().values() if topology.cpu(cpus[0]).node == node]
        lines = -(-len(cores) // ACROSS)
        tall = HEAD + lines * (CORE + GAP) + 8
        parts.append(f'<rect x="0" y="{top:.0f}" width="{wide:.0f}" height="{tall}" class="node" rx="4"/>')
        parts.append(f'<text x="8" y="{top + 14:.0f}">NUMA node {node}</text>')
        for index, cpus in enumerate(cores):
            x = 8 + index % ACROSS * (CORE + GAP)
            y = top + HEAD + 2 + index // ACROSS * (CORE + GAP)
            parts.append(_core(cpus, x, y, owner, visible))
        top += tall + 6
    return "".join(parts), wide, top


def _core(cpus: Sequence[int], x: float, y: float, owner: Mapping[int, int], visible: set[int]) -> str:
    """A core: its threads side by side; the number of the replica stands on each thread that it sees."""
    wide = CORE / len(cpus)
    parts = []
    for place, cpu in enumerate(cpus):
        left = x + place * wide
        replica = owner.get(cpu)
        kind = "free" if replica is None else f"fill{replica % 8}" if cpu in visible else f"hatch fill{replica % 8}"
        state = "free" if replica is None else f"replica {replica}" + ("" if cpu in visible else ", hidden")
        box = f'x="{left:.1f}" y="{y:.0f}" width="{wide:.1f}" height="{CORE}"'
        parts.append(f'<rect {box} class="{kind}"><title>CPU {cpu}: {state}</title></rect>')
        if replica is not None and cpu in visible:
            middle = f'x="{left + wide / 2:.1f}" y="{y + CORE / 2 + 3:.1f}"'
            parts.append(f'<text {middle} class="on" text-anchor="middle">{replica}</text>')
    return "".join(parts)
