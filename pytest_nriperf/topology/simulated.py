"""Simulated machines: `sim:2s64c2t-snc2`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_nriperf.errors import UsageError
from pytest_nriperf.topology.machine import Cpu, NumaNode, Topology
from pytest_nriperf.units import parse_bytes

SHAPE_HELP = (
    "write sim:SOCKETSsCORESc[THREADSt] with cores per socket, then options: -sncN (NUMA nodes per socket), "
    "-SIZEg (memory per NUMA node), -l3xN (cores per L3, else one L3 per socket), -adjacent (siblings numbered "
    "2c, 2c+1 instead of c, c+N), -cxlSIZEg (a memory-only node per socket); for example sim:2s64c2t-snc2"
)
_GIB = 1 << 30
_MEMORY_PER_CORE = 4 * _GIB


@dataclass(frozen=True)
class _Shape:
    sockets: int
    cores: int
    threads: int
    snc: int = 1
    memory_bytes: int = 0
    cores_per_l3: int = 0
    adjacent: bool = False
    cxl_bytes: int = 0


def simulated_topology(text: str) -> Topology:
    """A made-up machine: `sim:2s64c2t-snc2` is 2 sockets x 64 cores PER SOCKET x 2 threads, SNC-2.

    Siblings are numbered c and c + (number of cores), as on Xeons; the default memory is 4 GiB for each core of a NUMA
    node; distances are 10, 12 within a socket, 21 across. Raises UsageError that teaches the form.

    >>> sorted(simulated_topology("sim:1s4c2t-snc2-8g").node_cpus(1))
    [2, 3, 6, 7]
    """
    shape = _parse_shape(text)
    total = shape.sockets * shape.cores
    cpus = []
    for core in range(total):
        socket, within = divmod(core, shape.cores)
        node = socket * shape.snc + within // (shape.cores // shape.snc)
        l3 = core // shape.cores_per_l3 if shape.cores_per_l3 else socket
        for thread in range(shape.threads):
            number = core * shape.threads + thread if shape.adjacent else core + thread * total
            cpus.append(Cpu(number, socket, 0, core, thread, node, core, l3))
    return Topology(
        name=text,
        cpus=tuple(sorted(cpus, key=lambda cpu: cpu.id)),
        nodes=tuple(_simulated_nodes(shape, cpus)),
        simulated=True,
    )


def _simulated_nodes(shape: _Shape, cpus: list[Cpu]) -> Iterable[NumaNode]:
    with_cpus = shape.sockets * shape.snc
    socket_of = {n: n // shape.snc for n in range(with_cpus)}
    if shape.cxl_bytes:
        socket_of |= {with_cpus + socket: socket for socket in range(shape.sockets)}
    for number, socket in socket_of.items():
        has_cpus = number < with_cpus
        distances = {other: _distance(number, other, socket_of, with_cpus) for other in socket_of}
        yield NumaNode(
            number,
            frozenset(cpu.id for cpu in cpus if cpu.node == number),
            (shape.memory_bytes or shape.cores // shape.snc * _MEMORY_PER_CORE) if has_cpus else shape.cxl_bytes,
            distances,
            (socket,) if has_cpus else (),
        )


def _distance(one: int, other: int, socket_of: Mapping[int, int], with_cpus: int) -> int:
    if one == other:
        return 10
    far = 0 if one < with_cpus and other < with_cpus else 10
    return far + (12 if socket_of[one] == socket_of[other] else 21)


def _parse_shape(text: str) -> _Shape:
    match = re.fullmatch(r"sim:(\d+)s(\d+)c(?:(\d+)t)?((?:-[a-z0-9]+)*)", text)
    if match is None:
        raise UsageError(f"{text!r} is no simulated machine", SHAPE_HELP)
    sockets, cores, threads = int(match[1]), int(match[2]), int(match[3] or 1)
    if min(sockets, cores, threads) < 1 or sockets * cores * threads > 8192:
        raise UsageError(f"{text!r} has {sockets * cores * threads} CPUs, possible are 1 to 8192", SHAPE_HELP)
    options: dict[str, Any] = {}
    for option in filter(None, match[4].split("-")):
        options |= _parse_option(text, option)
    shape = _Shape(sockets, cores, threads, **options)
    for word, parts in (("snc", shape.snc), ("l3x", shape.cores_per_l3 or 1)):
        if parts < 1 or cores % parts:
            raise UsageError(f"{text!r}: {cores} cores per socket do not divide by {word}{parts}", SHAPE_HELP)
    return shape


def _parse_option(text: str, option: str) -> dict[str, Any]:
    if option == "adjacent":
        return {"adjacent": True}
    if match := re.fullmatch(r"snc(\d+)", option):
        return {"snc": int(match[1])}
    if match := re.fullmatch(r"l3x(\d+)", option):
        return {"cores_per_l3": int(match[1])}
    if match := re.fullmatch(r"(cxl)?(\d+)([mgt])", option):
        size = parse_bytes(f"{match[2]}{match[3]}i")
        return {"cxl_bytes" if match[1] else "memory_bytes": size}
    raise UsageError(f"{text!r}: unknown option -{option}", SHAPE_HELP)
