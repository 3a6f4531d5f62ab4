"""A node's topology is kept for its boot, by those who read the same files, and never believed when it is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_nriperf.provision import node_files
from pytest_nriperf.provision.node_files import TopologyCache

FILES = {"/sys/devices/system/cpu/online": "0-3\n", "/sys/x": "\xe9"}


def node(boot: str = "one", uid: str = "u") -> dict[str, object]:
    return {"metadata": {"uid": uid, "name": "x"}, "status": {"nodeInfo": {"bootID": boot} if boot else {}}}


def test_what_was_read_in_a_boot_is_found_in_it_and_in_no_other(tmp_path: Path) -> None:
    cache = TopologyCache(tmp_path)
    cache.store(node(), FILES)
    assert cache.find(node()) == FILES
    assert cache.find(node("two")) is None
    assert cache.find(node(uid="v")) is None


def test_one_file_is_kept_for_a_node(tmp_path: Path) -> None:
    cache = TopologyCache(tmp_path)
    for boot in ("one", "two"):
        cache.store(node(boot), FILES)
        cache.store(node(boot, uid="v"), FILES)
    assert sorted(path.name[:5] for path in tmp_path.iterdir()) == ["u-two", "v-two"]


def test_a_node_that_does_not_tell_its_boot_is_read_each_time(tmp_path: Path) -> None:
    cache = TopologyCache(tmp_path)
    cache.store(node(""), FILES)
    assert cache.find(node("")) is None


@pytest.mark.parametrize("damage", [b"", b"\x1f\x8b", b"no gzip at all", b"cut", b"flipped"])
def test_a_damaged_file_is_no_topology(tmp_path: Path, damage: bytes) -> None:
    cache = TopologyCache(tmp_path)
    cache.store(node(), FILES)
    whole = cache.path(node()).read_bytes()
    changed = {b"cut": whole[:-9], b"flipped": whole[:12] + bytes([whole[12] ^ 0xFF]) + whole[13:]}
    cache.path(node()).write_bytes(changed.get(damage, damage))
    assert cache.find(node()) is None


def test_a_version_that_reads_other_files_does_not_take_these(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = TopologyCache(tmp_path)
    cache.store(node(), FILES)
    monkeypatch.setattr(node_files, "FILES", ("/sys/another",))
    assert cache.find(node()) is None


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = TopologyCache(tmp_path / "file")
    cache.store(node(), FILES)
    assert cache.find(node()) is None
