"""Writes a topology as the kernel would: the files of sysfs, lists and masks. The opposite of `read_topology_from`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from pytest_nriperf.topology import Cpu, Topology
from pytest_nriperf.units import format_cpus

CPU = "/sys/devices/system/cpu"
NODE = "/sys/devices/system/node"

Files = dict[str, bytes]


def reader(files: Mapping[str, bytes]) -> Callable[[str], bytes | None]:
    """A reader that has these files and no others."""
    return files.get


def write_tree(files: Mapping[str, bytes], root: Path) -> Path:
    """The files below `root`; returns what stands for /sys."""
    for path, content in files.items():
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return root / "sys"


def sysfs_files(topology: Topology) -> Files:
    """Every file of sysfs that tells the topology."""
    known = topology.online | topology.offline
    width = max(known) + 1
    files: dict[str, str] = {
        f"{CPU}/online": format_cpus(topology.online),
        f"{CPU}/offline": format_cpus(topology.offline),
        f"{CPU}/present": format_cpus(known),
        f"{CPU}/possible": format_cpus(known),
        f"{CPU}/isolated": format_cpus(topology.isolated),
        f"{NODE}/online": format_cpus(node.id for node in topology.nodes),
        f"{NODE}/possible": format_cpus(node.id for node in topology.nodes),
    }
    cores_before: dict[int, int] = {}
    for cpu in topology.cpus:
        first = cores_before.setdefault(cpu.socket, cpu.core)
        files |= _cpu_files(topology, cpu, cpu.core - first, width)
    for node in topology.nodes:
        folder = f"{NODE}/node{node.id}"
        files[f"{folder}/cpulist"] = format_cpus(node.cpus)
        files[f"{folder}/cpumap"] = mask(node.cpus, width)
        files[f"{folder}/distance"] = " ".join(str(node.distances[other.id]) for other in topology.nodes)
        if node.memory_bytes is not None:
            kib = node.memory_bytes // 1024
            files[f"{folder}/meminfo"] = f"Node {node.id} MemTotal:       {kib} kB\nNode {node.id} MemFree:        1 kB"
    return {path: f"{text}\n".encode() for path, text in files.items()}


def _cpu_files(topology: Topology, cpu: Cpu, core_id: int, width: int) -> dict[str, str]:
    folder = f"{CPU}/cpu{cpu.id}"
    siblings = topology.siblings(cpu.id)
    socket = topology.socket_cpus(cpu.socket)
    die = [other.id for other in topology.cpus if (other.socket, other.die) == (cpu.socket, cpu.die)]
    files = {
        f"{folder}/topology/physical_package_id": str(cpu.socket),
        f"{folder}/topology/die_id": str(cpu.die),
        f"{folder}/topology/core_id": str(core_id),
    }
    for name, cpus in (
        ("core_cpus", siblings),
        ("thread_siblings", siblings),
        ("package_cpus", socket),
        ("core_siblings", socket),
        ("die_cpus", die),
    ):
        files[f"{folder}/topology/{name}"] = mask(cpus, width)
        files[f"{folder}/topology/{name}_list"] = format_cpus(cpus)
    caches: list[tuple[int, str, int, Iterable[int]]] = [
        (1, "Data", cpu.core, siblings),
        (1, "Instruction", cpu.core, siblings),
    ]
    for level in (2, 3):
        number = getattr(cpu, f"l{level}")
        if number is not None:
            shared = [other.id for other in topology.cpus if getattr(other, f"l{level}") == number]
            caches.append((level, "Unified", number, shared))
    for index, (level, kind, number, together) in enumerate(caches):
        files |= {
            f"{folder}/cache/index{index}/level": str(level),
            f"{folder}/cache/index{index}/type": kind,
            f"{folder}/cache/index{index}/id": str(number),
            f"{folder}/cache/index{index}/size": "1024K",
            f"{folder}/cache/index{index}/shared_cpu_list": format_cpus(together),
            f"{folder}/cache/index{index}/shared_cpu_map": mask(together, width),
        }
    return files


def mask(cpus: Iterable[int], width: int) -> str:
    """The kernel's mask form: 32-bit groups in hexadecimal, highest first."""
    bits = sum(1 << cpu for cpu in cpus)
    groups = [f"{bits >> 32 * group & 0xFFFFFFFF:08x}" for group in range((width + 31) // 32)]
    return ",".join(reversed(groups))
