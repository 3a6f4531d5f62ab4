from __future__ import annotations

import fnmatch
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nriperf.errors import TopologyError
from pytest_nriperf.topology import FILES, Topology, allowed_cpus, read_topology, read_topology_from, simulated_topology
from tests.sysfs_tree import CPU, NODE, Files, reader, sysfs_files, write_tree


def tree(shape: str) -> Files:
    return sysfs_files(simulated_topology(shape))


def read(files: Files) -> Topology:
    return read_topology_from(reader(files), name="tree")


@settings(max_examples=40, deadline=None)
@given(
    sockets=st.integers(1, 3),
    cores=st.sampled_from([1, 2, 4, 8, 12]),
    threads=st.integers(1, 4),
    options=st.sampled_from(["", "-snc1", "-adjacent", "-cxl8g", "-l3x1"]),
)
def test_what_the_kernel_would_write_is_read_back(sockets: int, cores: int, threads: int, options: str) -> None:
    made = simulated_topology(f"sim:{sockets}s{cores}c{threads}t{options}")
    assert read(sysfs_files(made)) == replace(made, name="tree", simulated=False)


@pytest.mark.parametrize(
    ("shape", "snc", "threads"),
    [("sim:1s8c", 1, 1), ("sim:2s8c2t-snc2", 2, 2), ("sim:2s8c2t-snc4-adjacent", 4, 2), ("sim:1s16c2t-l3x4", 1, 2)],
)
def test_shapes_of_real_servers_are_told_apart(shape: str, snc: int, threads: int) -> None:
    topology = read(tree(shape))
    assert (topology.snc, topology.threads_per_core) == (snc, threads)


def test_a_folder_is_read_like_the_kernels_own(tmp_path: Path) -> None:
    made = simulated_topology("sim:2s4c2t-snc2")
    sysfs = write_tree(sysfs_files(made), tmp_path)
    assert read_topology(sysfs, name="x") == replace(made, name="x", simulated=False)


def test_no_file_is_asked_for_that_a_probe_would_not_carry() -> None:
    files = tree("sim:2s4c2t-snc2-cxl8g")
    asked = []

    def watch(path: str) -> bytes | None:
        asked.append(path)
        return files.get(path)

    read_topology_from(watch)
    unknown = [path for path in asked if not any(fnmatch.fnmatchcase(path, pattern) for pattern in FILES)]
    assert unknown == []


def test_core_ids_that_repeat_across_sockets_are_different_cores() -> None:
    files = {path: text for path, text in tree("sim:2s4c2t").items() if "_list" not in path or "shared" in path}
    topology = read(files)
    assert len(topology.cores()) == 8
    assert topology.siblings(0) == {0, 8}
    assert topology.siblings(4) == {4, 12}


def test_old_kernels_call_the_siblings_thread_siblings() -> None:
    files = {path: text for path, text in tree("sim:1s4c2t").items() if "core_cpus" not in path}
    assert read(files).siblings(1) == {1, 5}


def test_an_offline_sibling_does_not_count() -> None:
    files = tree("sim:1s4c2t")
    for path in [path for path in files if "/cpu5/" in path]:
        del files[path]
    files[f"{CPU}/online"] = b"0-4,6-7\n"
    files[f"{CPU}/offline"] = b"5\n"
    files[f"{CPU}/cpu1/topology/core_cpus_list"] = b"1\n"
    topology = read(files)
    assert topology.siblings(1) == {1}
    assert topology.siblings(2) == {2, 6}
    assert topology.offline == {5}
    assert topology.threads_per_core == 2


def test_cpus_that_could_be_plugged_in_are_not_offline() -> None:
    files = tree("sim:1s2c")
    files[f"{CPU}/present"] = b"0-1\n"
    files[f"{CPU}/offline"] = b"2-255\n"
    assert read(files).offline == frozenset()


def test_sparse_cpu_numbers_are_kept() -> None:
    files: Files = {f"{CPU}/online": b"0-2,511,1535,4095\n", f"{NODE}/online": b"0,2,7\n"}
    for node, cpus in ((0, "0-511"), (2, "1024-1535"), (7, "3584-4095")):
        files[f"{NODE}/node{node}/cpulist"] = cpus.encode()
    for cpu, socket in ((0, 0), (1, 0), (2, 0), (511, 0), (1535, 2), (4095, 7)):
        files[f"{CPU}/cpu{cpu}/topology/physical_package_id"] = str(socket).encode()
    topology = read(files)
    assert topology.online == {0, 1, 2, 511, 1535, 4095}
    assert topology.sockets == (0, 2, 7)
    assert topology.node_cpus(0) == {0, 1, 2, 511}
    assert [cpu.core for cpu in topology.cpus] == [0, 1, 2, 3, 4, 5]


def test_a_kernel_without_numa_has_one_node_with_unknown_memory() -> None:
    files = {path: text for path, text in tree("sim:2s4c").items() if not path.startswith(NODE)}
    topology = read(files)
    assert topology.cpu_nodes == (0,)
    assert topology.node_cpus(0) == topology.online
    assert topology.node(0).memory_bytes is None
    assert topology.node(0).sockets == (0, 1)


def test_cpus_that_no_node_names_belong_to_node_0() -> None:
    files = tree("sim:2s2c")
    files[f"{NODE}/node1/cpulist"] = b"3\n"
    assert read(files).node_cpus(0) == {0, 1, 2}


def test_a_container_that_sees_part_of_the_machine_gets_that_part() -> None:
    files = tree("sim:2s8c2t-snc2")
    files[f"{CPU}/online"] = b"2-3,18-19\n"
    topology = read(files)
    assert topology.online == {2, 3, 18, 19}
    assert topology.node_cpus(0) == {2, 3, 18, 19}
    assert topology.siblings(2) == {2, 18}
    assert topology.cpu_nodes == (0,)


def test_nodes_whose_files_are_hidden_are_left_out() -> None:
    files = {path: text for path, text in tree("sim:2s2c").items() if not path.startswith(f"{NODE}/node1")}
    topology = read(files)
    assert [node.id for node in topology.nodes] == [0]
    assert topology.node_cpus(0) == {0, 1, 2, 3}


def test_numbers_that_the_kernel_does_not_have_count_as_0() -> None:
    files: Files = {f"{CPU}/online": b"0-1\n"}
    for cpu in (0, 1):
        files[f"{CPU}/cpu{cpu}/topology/physical_package_id"] = b"-1\n"
        files[f"{CPU}/cpu{cpu}/topology/die_id"] = b"-1\n"
    topology = read(files)
    assert topology.sockets == (0,)
    assert topology.cpu(1).die == 0


def test_without_a_topology_folder_every_cpu_is_a_core() -> None:
    topology = read({f"{CPU}/online": b"0-3\n"})
    assert len(topology.cores()) == 4
    assert topology.cpu(0).l2 is None


def test_cache_ids_are_the_kernels_when_unique_and_the_lowest_cpu_otherwise() -> None:
    files = tree("sim:2s2c-l3x1")
    for cpu in range(4):
        files[f"{CPU}/cpu{cpu}/cache/index2/id"] = str(cpu * 4).encode()
        files[f"{CPU}/cpu{cpu}/cache/index3/id"] = b"0\n"
    topology = read(files)
    assert [cpu.l2 for cpu in topology.cpus] == [0, 4, 8, 12]
    assert [cpu.l3 for cpu in topology.cpus] == [0, 1, 2, 3]


def test_isolated_cpus_are_known() -> None:
    files = tree("sim:1s4c")
    files[f"{CPU}/isolated"] = b"2-3\n"
    assert read(files).isolated == {2, 3}


@pytest.mark.parametrize(
    ("path", "content", "says"),
    [
        (f"{CPU}/online", b"0-x\n", "online"),
        (f"{CPU}/cpu1/topology/physical_package_id", b"zero\n", "'zero' is no number"),
        (f"{NODE}/node0/cpulist", b"\xff\n", "node0/cpulist"),
    ],
)
def test_a_damaged_file_is_named(path: str, content: bytes, says: str) -> None:
    files = tree("sim:1s4c")
    files[path] = content
    with pytest.raises(TopologyError, match=says):
        read(files)


def test_a_tree_without_cpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="cpu/online of node local cannot be read"):
        read_topology(tmp_path)
    with pytest.raises(TopologyError, match="is no folder"):
        read_topology(tmp_path / "nowhere")


def test_this_machine_can_be_read_and_we_may_use_part_of_it() -> None:
    topology = read_topology()
    assert allowed_cpus() <= topology.online
    assert topology.cpu_nodes
