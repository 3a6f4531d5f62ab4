"""hwloc is the oracle: what it finds in the same files is what we find. `docs/topology.md` explains the differences."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pytest_nriperf.topology import Topology, read_topology, simulated_topology
from tests.sysfs_tree import sysfs_files, write_tree
from tests.tools import needs

SNAPSHOTS = sorted((Path(__file__).parents[1] / "data" / "topologies").glob("*.tar.gz"))
SHAPES = [
    "sim:1s4c",
    "sim:2s4c2t",
    "sim:2s4c2t-adjacent",
    "sim:2s8c2t-snc2",
    "sim:2s8c2t-snc4",
    "sim:1s16c2t-l3x4",
    "sim:2s12c2t-snc2-l3x3",
    "sim:2s4c2t-cxl8g",
    "sim:2s24c2t-snc2",
    "sim:4s2c4t",
]

Objects = dict[str, list[tuple[int, frozenset[int]]]]


def environment(root: Path | None) -> dict[str, str]:
    """What makes hwloc read this machine, or the tree below `root`."""
    chosen = {} if root is None else {"HWLOC_FSROOT": str(root)}
    return {**os.environ, "HWLOC_COMPONENTS": "linux,stop", **chosen}


def lstopo(root: Path | None) -> Objects:
    """hwloc's objects by type: the system's number and the CPUs, of this machine or of a tree below `root`."""
    needs("lstopo-no-graphics", package="hwloc-nox")
    done = subprocess.run(
        ["lstopo-no-graphics", "--of", "xml", "--disallowed"], capture_output=True, check=True, env=environment(root)
    )
    objects: Objects = {}
    for element in ElementTree.fromstring(done.stdout).iter("object"):
        if element.get("cpuset") is not None:
            number = int(element.get("os_index", -1))
            objects.setdefault(element.attrib["type"], []).append((number, cpus_of(element.attrib["cpuset"])))
    return objects


def cpus_of(text: str) -> frozenset[int]:
    """CPUs of hwloc's mask: 32-bit groups, highest first, empty ones left out."""
    groups = [int(group, 16) if group else 0 for group in text.split(",")]
    bits = sum(group << 32 * place for place, group in enumerate(reversed(groups)))
    return frozenset(cpu for cpu in range(bits.bit_length()) if bits >> cpu & 1)


def sets(objects: Objects, kind: str) -> Counter[frozenset[int]]:
    return Counter(cpus for _, cpus in objects.get(kind, []))


def grouped(pairs: Iterable[tuple[int | None, int]]) -> Counter[frozenset[int]]:
    groups: dict[int, set[int]] = {}
    for group, cpu in pairs:
        if group is not None:
            groups.setdefault(group, set()).add(cpu)
    return Counter(frozenset(cpus) for cpus in groups.values())


def check(topology: Topology, objects: Objects) -> None:
    assert {number for number, _ in objects["PU"]} == topology.online
    assert dict(objects["Package"]) == {socket: topology.socket_cpus(socket) for socket in topology.sockets}
    assert sets(objects, "Core") == Counter(frozenset(cpus) for cpus in topology.cores().values())
    nodes = {node.id: node.cpus for node in topology.nodes if node.cpus}
    assert {number: cpus for number, cpus in objects["NUMANode"] if number in nodes} == nodes
    assert {number for number, _ in objects["NUMANode"]} == {node.id for node in topology.nodes}
    assert sets(objects, "L2Cache") == grouped((cpu.l2, cpu.id) for cpu in topology.cpus)
    assert sets(objects, "L3Cache") == grouped((cpu.l3, cpu.id) for cpu in topology.cpus)


def check_counts(topology: Topology, root: Path | None) -> None:
    """hwloc-calc's numbers of packages, NUMA nodes, cores and CPUs."""
    counts = {
        "package": len(topology.sockets),
        "numanode": len(topology.nodes),
        "core": len(topology.cores()),
        "pu": len(topology.online),
    }
    assert {word: calculated(root, "--number-of", word) for word in counts} == counts


def calculated(root: Path | None, *words: str) -> int:
    needs("hwloc-calc", package="hwloc-nox")
    done = subprocess.run(
        ["hwloc-calc", "--disallowed", *words, "all"], capture_output=True, check=True, text=True, env=environment(root)
    )
    return int(done.stdout)


def test_hwloc_sees_this_machine_as_we_do() -> None:
    check(read_topology(), lstopo(None))
    check_counts(read_topology(), None)


@pytest.mark.parametrize("shape", SHAPES)
def test_hwloc_sees_the_trees_of_simulated_machines_as_we_do(shape: str, tmp_path: Path) -> None:
    made = simulated_topology(shape)
    write_tree(sysfs_files(made), tmp_path)
    objects = lstopo(tmp_path)
    check(made, objects)
    check(read_topology(tmp_path / "sys"), objects)


@pytest.mark.parametrize("snapshot", SNAPSHOTS, ids=lambda file: file.name.removesuffix(".tar.gz"))
def test_hwloc_sees_the_snapshots_of_real_machines_as_we_do(snapshot: Path, tmp_path: Path) -> None:
    with tarfile.open(snapshot) as archive:
        archive.extractall(tmp_path, filter="data")
    topology = read_topology(snapshot)
    check(topology, lstopo(tmp_path))
    check_counts(topology, tmp_path)


def test_hwloc_sees_an_offline_sibling_as_we_do(tmp_path: Path) -> None:
    files = sysfs_files(simulated_topology("sim:1s4c2t"))
    cpu = "/sys/devices/system/cpu"
    files = {path: text for path, text in files.items() if "/cpu5/" not in path}
    files |= {
        f"{cpu}/online": b"0-4,6-7\n",
        f"{cpu}/offline": b"5\n",
        f"{cpu}/cpu5/online": b"0\n",
        f"{cpu}/cpu1/topology/core_cpus": b"00000002\n",
        f"{cpu}/cpu1/topology/core_cpus_list": b"1\n",
    }
    for path, text in files.items():
        if "shared_cpu" in path or "/package_cpus" in path or "/core_siblings" in path or "/die_cpus" in path:
            files[path] = text.replace(b"0-7", b"0-4,6-7").replace(b"1,5", b"1").replace(b"000000ff", b"000000df")
            files[path] = files[path].replace(b"00000022", b"00000002")
    write_tree(files, tmp_path)
    check(read_topology(tmp_path / "sys"), lstopo(tmp_path))
