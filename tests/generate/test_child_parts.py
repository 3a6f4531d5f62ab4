"""The small parts of the worker: stamps, files, sampling, the reference load, the cache of converted models."""

from __future__ import annotations

import base64
import fcntl
import threading
from pathlib import Path
from typing import Any

import pytest

from pytest_nriperf.generate.archive import worker_archive
from pytest_nriperf.generate.child import files, model_files, reference
from pytest_nriperf.generate.child.caches import cache_parts, memory_left
from pytest_nriperf.generate.child.engine import Engine, EngineError
from pytest_nriperf.generate.child.protocol import Outbox, decode
from pytest_nriperf.generate.child.recorder import Recorder
from pytest_nriperf.units import parse_cpus
from tests.collect.trees import write_tree


def test_a_recorder_counts_rows_and_never_the_prompt() -> None:
    recorder = Recorder(rows=3, count=len)
    for value in ("prompt prompt", "abc", "abcdef"):
        recorder.put(value)
    stamps, tokens = recorder.events()
    assert tokens == [0, 1, 2]
    assert stamps == sorted(stamps)
    assert recorder.events(2) == (stamps[2:], [2])


def test_a_stamp_without_its_value_is_not_reported_yet() -> None:
    recorder = Recorder()
    recorder.put(1)
    recorder.stamps.append(5)
    assert recorder.events()[1] == [0]


def test_a_file_is_read_in_pieces(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(bytes(range(256)) * 1500)
    first = files.read_piece(str(file), 0)
    second = files.read_piece(str(file), files.PIECE)
    assert (first["end"], second["end"]) == (False, True)
    assert base64.b64decode(first["data"]) + base64.b64decode(second["data"]) == file.read_bytes()


@pytest.mark.parametrize("path", ["/nowhere/x", "relative", "/proc", "/proc/self/mem"])
def test_what_cannot_be_read_says_why(path: str) -> None:
    assert files.read_piece(path, 0)["missing"]


def test_sampling_sends_readings_and_tells_what_is_missing_once(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("7\n")
    sent: list[dict[str, Any]] = []
    twice = threading.Event()

    def write(line: bytes) -> None:
        sent.append(decode(line))
        if len([message for message in sent if message["type"] == "samples"]) >= 2:
            twice.set()

    sampling = files.Sampling([str(counter), "/nowhere/counter"], 100.0, Outbox(write))
    assert twice.wait(10)
    sampling.stop()
    assert [message["path"] for message in sent if message["type"] == "sample_missing"] == ["/nowhere/counter"]
    readings = [message["readings"] for message in sent if message["type"] == "samples"]
    assert [[path, text] for path, _, text in readings[0]] == [[str(counter), "7\n"]]
    assert readings[0][0][1] < readings[1][0][1]


def test_the_reference_load_reads_memory_and_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr(reference, "BUDGET_NS", 20_000_000_000)
    monkeypatch.setattr(reference, "READ_NS", 1_000_000_000)
    before = os.sched_getaffinity(0)
    found = reference.reference_load(sorted(before), Engine().multiply)
    assert found["memory_bandwidth"] > 1e8
    assert found["matrix_product"] > 1e5
    assert "python float64" in found["matrix"]
    assert os.sched_getaffinity(0) == before


def test_a_reference_load_without_time_gives_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "BUDGET_NS", 0)
    found = reference.reference_load([0, 1], Engine().multiply)
    assert (found["memory_bandwidth"], found["matrix_product"]) == (None, None)
    assert found["missing"].startswith("no time to read buffers of ")


def caches(root: Path, sizes: dict[str, tuple[str, str]]) -> str:
    """CPUs -> the last-level cache that those share (size, what shares it), each with an L2 of its own below it."""
    for cpus, (size, shared) in sizes.items():
        for cpu in parse_cpus(cpus):
            for index, (level, bytes_, list_) in enumerate((("2", "2048K", str(cpu)), ("3", size, shared))):
                folder = root / f"cpu{cpu}/cache/index{index}"
                folder.mkdir(parents=True)
                for name, text in (("level", level), ("size", bytes_), ("shared_cpu_list", list_)):
                    (folder / name).write_text(f"{text}\n")
    return str(root)


def test_a_cpu_alone_on_a_large_cache_has_all_of_it_to_leave(tmp_path: Path) -> None:
    root = caches(tmp_path, {"0-3": ("107520K", "0-3")})
    assert cache_parts([1], folder=root) == {1: 105 << 20}
    assert cache_parts([0, 1, 2, 3], folder=root) == dict.fromkeys(range(4), (105 << 20) // 4)
    alone = reference.buffers_for(cache_parts([1], folder=root), memory=64 << 30)[1]
    assert alone.size == 210 << 20
    assert alone.enough > 105 << 20


def test_replicas_that_read_at_the_same_time_share_a_cache(tmp_path: Path) -> None:
    root = caches(tmp_path, {"0-1": ("491520K", "0-1"), "8-9": ("491520K", "8-9")})
    assert cache_parts([0], frozenset({1, 8}), folder=root) == {0: 240 << 20}
    assert all(each.size < each.enough for each in reference.buffers_for({0: 480 << 20}, memory=64 << 30).values())
    shared = reference.buffers_for({0: 240 << 20}, memory=64 << 30, beside=1)[0]
    assert shared.size >= shared.enough
    assert reference.buffers_for({0: 240 << 20}, memory=2 << 30, beside=1)[0].size == 256 << 20


def test_cpus_on_caches_of_their_own_have_one_each(tmp_path: Path) -> None:
    root = caches(tmp_path, {f"{8 * ccx}": ("32768K", f"{8 * ccx}-{8 * ccx + 7}") for ccx in range(8)})
    cpus = list(range(0, 64, 8))
    assert cache_parts(cpus, folder=root) == dict.fromkeys(cpus, 32 << 20)
    assert cache_parts([90, 91], folder=root) == {90: 16 << 20, 91: 16 << 20}


def test_where_a_buffer_that_leaves_the_caches_has_no_room_there_is_a_reason_and_no_figure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert all(each.size < each.enough for each in reference.buffers_for({0: 504 << 20}, memory=64 << 30).values())
    monkeypatch.setattr(reference, "memory_left", lambda: 32 << 20)
    monkeypatch.setattr(reference, "cache_parts", lambda cpus, beside: dict.fromkeys(cpus, 16 << 20))
    found = reference.reference_load([0], Engine().multiply)
    assert found["memory_bandwidth"] is None
    assert found["missing"] == "buffers of 8 MiB, all that there is room for, would stay in the caches"


def test_the_memory_that_is_left_is_that_of_the_tightest_cgroup_above_us(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "MemTotal: 9999 kB\nMemAvailable: 1024 kB\n",
        "proc/self/cgroup": "0::/pod/box\n",
        "sys/fs/cgroup/pod/memory.max": "300000\n",
        "sys/fs/cgroup/pod/memory.current": "250000\n",
        "sys/fs/cgroup/pod/memory.stat": "anon 1\ninactive_file 20000\nactive_file 3000\n",
        "sys/fs/cgroup/pod/box/memory.max": "max\n",
        "sys/fs/cgroup/pod/box/memory.current": "250000\n",
    }
    root = write_tree(tmp_path, {f"/{name}": text for name, text in files.items()})
    assert memory_left(root) == 73_000
    write_tree(tmp_path, {"/proc/self/cgroup": "4:memory:/a\n"})
    assert memory_left(root) == 1 << 20
    write_tree(tmp_path, {"/sys/fs/cgroup/memory/memory.limit_in_bytes": "9000"})
    write_tree(tmp_path, {"/sys/fs/cgroup/memory/memory.usage_in_bytes": "2000"})
    assert memory_left(root) == 7000


def test_memory_that_one_thread_could_not_touch_in_time_is_not_read() -> None:
    assert reference._rate([[(10, 4), (20, 4)], []]) is None
    assert reference._rate([[(10, 4), (20, 4), (30, 4)], [(10, 4), (30, 4)]]) == 12 / 20 * 1e9


def test_a_model_is_converted_once_and_others_wait_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "model.gguf"
    source.write_bytes(b"weights")
    conversions: list[str] = []
    said: list[str] = []

    def convert(target: Path) -> None:
        conversions.append(target.name)
        target.mkdir()
        (target / "model.safetensors").write_bytes(source.read_bytes())

    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(model_files.converted(source, convert, said.append, "float32")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(conversions) == 1
    assert len(set(found)) == 1
    assert (found[0] / "model.safetensors").read_bytes() == b"weights"
    assert found[0].is_relative_to(tmp_path / "cache/nriperf/models")
    assert [file.name for file in found[0].parent.iterdir() if file.name.startswith(".converting")] == []


def test_a_conversion_that_fails_leaves_nothing_and_frees_the_lock(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "model.gguf"
    source.write_bytes(b"weights")

    def convert(target: Path) -> None:
        target.mkdir()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        model_files.converted(source, convert, lambda _: None, "float32")
    kept = list((tmp_path / "nriperf/models").iterdir())
    assert [file.suffix for file in kept] == [".lock"]
    with kept[0].open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_cache_that_cannot_be_made_names_the_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with pytest.raises(EngineError) as caught:
        model_files.converted(blocked, lambda _: None, lambda _: None, "float32")
    assert "XDG_CACHE_HOME" in caught.value.next_step


def test_a_models_identity_changes_with_its_content(tmp_path: Path) -> None:
    for name, text in (("config.json", "{}"), ("model.safetensors", "a" * 100)):
        (tmp_path / name).write_text(text)
    before = model_files.identity(tmp_path)
    assert model_files.identity(tmp_path) == before
    (tmp_path / "model.safetensors").write_text("b" * 100)
    assert model_files.identity(tmp_path) != before


def test_the_archive_is_small_and_always_the_same() -> None:
    archive = worker_archive()
    worker_archive.cache_clear()
    assert worker_archive() == archive
    assert len(archive) < 1 << 20
