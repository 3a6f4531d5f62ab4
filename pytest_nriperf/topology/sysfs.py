"""A topology from the kernel's sysfs files, near (`read_topology`) or far (`read_topology_from`: any function that
returns a file's content, so that a probe can ship a few hundred small files)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from pytest_nriperf.errors import TopologyError, UsageError
from pytest_nriperf.topology.machine import Cpu, NumaNode, Topology
from pytest_nriperf.units import parse_cpus

Read = Callable[[str], "bytes | None"]

CPU_FOLDER = "/sys/devices/system/cpu"
NODE_FOLDER = "/sys/devices/system/node"

# Every file that `read_topology_from` may ask for, as glob patterns: what a probe or a snapshot has to carry.
FILES: tuple[str, ...] = (
    f"{CPU_FOLDER}/online",
    f"{CPU_FOLDER}/offline",
    f"{CPU_FOLDER}/present",
    f"{CPU_FOLDER}/isolated",
    f"{CPU_FOLDER}/cpu[0-9]*/topology/physical_package_id",
    f"{CPU_FOLDER}/cpu[0-9]*/topology/die_id",
    f"{CPU_FOLDER}/cpu[0-9]*/topology/core_id",
    f"{CPU_FOLDER}/cpu[0-9]*/topology/core_cpus_list",
    f"{CPU_FOLDER}/cpu[0-9]*/topology/thread_siblings_list",
    f"{CPU_FOLDER}/cpu[0-9]*/cache/index[0-9]*/level",
    f"{CPU_FOLDER}/cpu[0-9]*/cache/index[0-9]*/type",
    f"{CPU_FOLDER}/cpu[0-9]*/cache/index[0-9]*/id",
    f"{CPU_FOLDER}/cpu[0-9]*/cache/index[0-9]*/shared_cpu_list",
    f"{NODE_FOLDER}/online",
    f"{NODE_FOLDER}/node[0-9]*/cpulist",
    f"{NODE_FOLDER}/node[0-9]*/distance",
    f"{NODE_FOLDER}/node[0-9]*/meminfo",
)


def allowed_cpus() -> frozenset[int]:
    """The CPUs that the calling thread may run on: what its affinity and its cgroup leave."""
    return frozenset(os.sched_getaffinity(0))


def folder_reader(sysfs: Path) -> Read:
    """A reader of the files of a sysfs tree. Raises TopologyError when there is no such folder."""
    if not sysfs.is_dir():
        raise TopologyError(f"{sysfs} is no folder", "give the folder of a sysfs tree, for example /sys")

    def read(path: str) -> bytes | None:
        try:
            return (sysfs / path.removeprefix("/sys/")).read_bytes()
        except OSError:
            return None

    return read


def read_topology_from(read: Read, *, name: str = "local") -> Topology:
    """The topology told by a reader of the files in `FILES`: absolute path -> content, None where there is none."""
    present = _numbers(read, f"{CPU_FOLDER}/present") or frozenset()
    online = _numbers(read, f"{CPU_FOLDER}/online") or present
    if not online:
        raise TopologyError(f"{CPU_FOLDER}/online of node {name} cannot be read", "mount sysfs there")
    offline = (_numbers(read, f"{CPU_FOLDER}/offline") or frozenset()) & present if present else frozenset()
    nodes = _read_nodes(read, online)
    node_of = {cpu: number for number, cpus in ((node.id, node.cpus) for node in nodes) for cpu in cpus}
    places = {cpu: _read_place(read, cpu) for cpu in sorted(online)}
    cores = _read_cores(read, places)
    l2, l3 = _read_caches(read, sorted(online))
    cpus = tuple(
        Cpu(cpu, places[cpu][0], places[cpu][1], *cores[cpu], node_of[cpu], l2.get(cpu), l3.get(cpu))
        for cpu in sorted(online)
    )
    sockets_of: dict[int, set[int]] = {}
    for cpu in cpus:
        sockets_of.setdefault(cpu.node, set()).add(cpu.socket)
    return Topology(
        name=name,
        cpus=cpus,
        nodes=tuple(
            NumaNode(n.id, n.cpus, n.memory_bytes, n.distances, tuple(sorted(sockets_of.get(n.id, ())))) for n in nodes
        ),
        offline=offline - online,
        isolated=_numbers(read, f"{CPU_FOLDER}/isolated") or frozenset(),
    )


def _text(read: Read, path: str) -> str | None:
    content = read(path)
    return None if content is None else content.decode("ascii", "replace").strip()


def _numbers(read: Read, path: str) -> frozenset[int] | None:
    text = _text(read, path)
    if text is None:
        return None
    try:
        return parse_cpus(text)
    except UsageError as error:
        raise TopologyError(f"{path}: {error.fact}", "the kernel writes for example 0-3,8") from error


def _number(read: Read, path: str) -> int | None:
    """A number that counts: the kernel writes -1 (or 65535) where it has none."""
    text = _text(read, path)
    if text is None or text == "":
        return None
    if not re.fullmatch(r"-?\d+", text):
        raise TopologyError(f"{path}: {text!r} is no number", "the tree is damaged")
    return int(text) if int(text) >= 0 else None


def _read_place(read: Read, cpu: int) -> tuple[int, int, int | None]:
    """Socket, die within it, and the kernel's core_id, 0 and None where not told."""
    folder = f"{CPU_FOLDER}/cpu{cpu}/topology"
    socket = _number(read, f"{folder}/physical_package_id")
    die = _number(read, f"{folder}/die_id")
    return socket or 0, die or 0, _number(read, f"{folder}/core_id")


def _read_cores(read: Read, places: Mapping[int, tuple[int, int, int | None]]) -> dict[int, tuple[int, int]]:
    """CPU -> (core counted by lowest CPU, thread index). Siblings that are not online do not count."""
    members: dict[int, list[int]] = {}
    seen: dict[int, int] = {}
    by_core_id: dict[tuple[int, int, int], int] = {}
    for cpu, (socket, die, core_id) in places.items():
        if cpu not in seen:
            folder = f"{CPU_FOLDER}/cpu{cpu}/topology"
            siblings = _numbers(read, f"{folder}/core_cpus_list") or _numbers(read, f"{folder}/thread_siblings_list")
            if siblings and cpu in siblings:
                seen.update(dict.fromkeys(siblings, cpu))
            elif core_id is not None:
                seen[cpu] = by_core_id.setdefault((socket, die, core_id), cpu)
            else:
                seen[cpu] = cpu
        members.setdefault(seen[cpu], []).append(cpu)
    return {
        cpu: (core, thread)
        for core, first in enumerate(sorted(members))
        for thread, cpu in enumerate(sorted(members[first]))
    }


def _read_caches(read: Read, cpus: list[int]) -> tuple[dict[int, int], dict[int, int]]:
    """CPU -> number of its L2 group, and of its L3 group. A group is read once, from its first CPU."""
    groups: dict[int, dict[frozenset[int], int | None]] = {2: {}, 3: {}}
    known: dict[int, set[int]] = {2: set(), 3: set()}
    for cpu in cpus:
        if cpu in known[2] and cpu in known[3]:
            continue
        for index in range(16):
            folder = f"{CPU_FOLDER}/cpu{cpu}/cache/index{index}"
            level = _number(read, f"{folder}/level")
            if level is None:
                break
            if level not in groups or cpu in known[level] or _text(read, f"{folder}/type") == "Instruction":
                continue
            shared = _numbers(read, f"{folder}/shared_cpu_list") or frozenset({cpu})
            groups[level][shared] = _number(read, f"{folder}/id")
            known[level] |= shared
    return _number_groups(groups[2]), _number_groups(groups[3])


def _number_groups(groups: Mapping[frozenset[int], int | None]) -> dict[int, int]:
    """The kernel's cache ids where every group has one of its own, else the group's lowest CPU."""
    ids = list(groups.values())
    unique = None not in ids and len(set(ids)) == len(ids)
    numbered: dict[int, int] = {}
    for shared, number in groups.items():
        numbered.update({cpu: number if unique and number is not None else min(shared) for cpu in shared})
    return numbered


def _read_nodes(read: Read, online: frozenset[int]) -> list[NumaNode]:
    """NUMA nodes with their online CPUs; one node 0 where the kernel has no NUMA. CPUs that no node names are put
    into node 0, as the balloons policy does."""
    numbers = sorted(_numbers(read, f"{NODE_FOLDER}/online") or ())
    nodes = []
    for number in numbers:
        folder = f"{NODE_FOLDER}/node{number}"
        cpus = _numbers(read, f"{folder}/cpulist")
        if cpus is None:
            continue
        row = (_text(read, f"{folder}/distance") or "").split()
        distances = dict(zip(numbers, map(int, row), strict=False)) if len(row) == len(numbers) else {}
        nodes.append(NumaNode(number, cpus & online, _read_memory(read, folder), distances))
    homeless = online.difference(*(node.cpus for node in nodes))
    if homeless:
        first = next((node for node in nodes if node.id == 0), NumaNode(0, frozenset(), None, {0: 10}))
        nodes = [node for node in nodes if node.id != 0]
        nodes.insert(0, NumaNode(0, first.cpus | homeless, first.memory_bytes, first.distances))
    return nodes


def _read_memory(read: Read, folder: str) -> int | None:
    match = re.search(r"MemTotal:\s*(\d+) kB", _text(read, f"{folder}/meminfo") or "")
    return int(match[1]) * 1024 if match else None
