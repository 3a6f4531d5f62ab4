from __future__ import annotations

import io
import json
import platform
import socket
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_nriperf.cli import main
from pytest_nriperf.errors import TopologyError
from pytest_nriperf.topology import read_topology, simulated_topology, write_snapshot
from tests.sysfs_tree import sysfs_files, write_tree

SNAPSHOTS = Path(__file__).parents[1] / "data" / "topologies"
SUMMARIES = json.loads((SNAPSHOTS / "summaries.json").read_text())


def test_a_snapshot_reads_like_the_tree_it_was_made_of(tmp_path: Path) -> None:
    made = simulated_topology("sim:2s4c2t-snc2-cxl8g")
    sysfs = write_tree(sysfs_files(made), tmp_path)
    write_snapshot(tmp_path / "node.tar.gz", sysfs)
    assert read_topology(tmp_path / "node.tar.gz", name=made.name) == replace(made, simulated=False)


def test_this_machines_snapshot_is_the_same_twice_and_reads_like_the_machine(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    write_snapshot(first)
    write_snapshot(second)
    topology = read_topology()
    again = read_topology(first)
    assert again.cpus == topology.cpus
    assert [node.cpus for node in again.nodes] == [node.cpus for node in topology.nodes]
    if [node.memory_bytes for node in again.nodes] == [node.memory_bytes for node in read_topology(second).nodes]:
        assert first.read_bytes() == second.read_bytes()
    assert set(tmp_path.iterdir()) == {first, second}


def test_a_snapshot_tells_nothing_but_numbers_of_the_machine(tmp_path: Path) -> None:
    file = tmp_path / "node.tar.gz"
    write_snapshot(file)
    with tarfile.open(file) as archive:
        names = archive.getnames()
        assert {member.mtime for member in archive} == {0}
        text = "\n".join(stream.read().decode() for name in names if (stream := archive.extractfile(name)) is not None)
    assert all(name.startswith(("sys/devices/system/", "sys/devices/cpu_")) for name in names)
    assert names == sorted(names)
    for secret in {socket.gethostname(), platform.node()} - {""}:
        assert secret not in text or secret.isdigit()
    assert "MemFree" not in text


@pytest.mark.parametrize(
    "content",
    [b"", b"not an archive", b"\x1f\x8b\x08\x00truncated"],
    ids=["empty", "text", "half a gzip"],
)
def test_what_is_no_snapshot_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.tar.gz"
    file.write_bytes(content)
    with pytest.raises(TopologyError, match=r"x\.tar\.gz is no snapshot") as caught:
        read_topology(file)
    assert "\n" not in str(caught.value)


def test_every_truncation_of_a_snapshot_is_refused_by_name(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    write_snapshot(whole, write_tree(sysfs_files(simulated_topology("sim:1s2c")), tmp_path))
    data = whole.read_bytes()
    for length in range(0, len(data) - 1, max(1, len(data) // 50)):
        cut = tmp_path / "cut"
        cut.write_bytes(data[:length])
        with pytest.raises(TopologyError, match="cut"):
            read_topology(cut)


def test_a_file_larger_than_any_the_kernel_writes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "big.tar"
    with tarfile.open(file, "w") as archive:
        member = tarfile.TarInfo("sys/devices/system/cpu/online")
        member.size = 1 << 20
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(TopologyError, match="larger than any topology file"):
        read_topology(file)


def test_a_tree_without_topology_makes_no_snapshot(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="holds no topology"):
        write_snapshot(tmp_path / "x", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="cannot be written"):
        write_snapshot(tmp_path / "no" / "x")


def test_the_command_packs_and_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "node.tar.gz"
    assert main(["topology", "--snapshot", str(file)]) == 0
    assert read_topology().summary() in capsys.readouterr().out
    assert main(["topology", "--sysfs", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cpus"]["id"] == sorted(read_topology().online)
    assert main(["topology", "--node", "sim:1s1c", "--snapshot", str(file)]) == 2


def test_every_snapshot_in_the_data_folder_has_its_summary() -> None:
    assert {file.name for file in SNAPSHOTS.glob("*.tar.gz")} == set(SUMMARIES)


@pytest.mark.parametrize("name", sorted(SUMMARIES))
def test_snapshots_of_real_machines_are_read_right(name: str) -> None:
    assert read_topology(SNAPSHOTS / name).summary() == SUMMARIES[name]
