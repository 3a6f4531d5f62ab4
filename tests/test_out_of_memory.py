"""The kernel ends an engine for lack of memory: the session says so, keeps what was finished, leaves nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_nriperf.provision.out_of_memory import OutOfMemoryWatch
from pytest_nriperf.recording import finished_runs, open_recording
from tests.memory_group import MemoryGroup, memory_group

MIB = 1 << 20
# Pytest with the plugin takes about 120 MiB, and more when a run is read again.
LIMIT = 320 * MIB
SUITE = """
import pytest

@pytest.mark.llm(model="sim:itl=1ms,ttft=1ms,fail=fill,fail_at=2")
@pytest.mark.balloon(cpus=1, hyperthreads="spread")
def test_that_fills_memory(llm):
    llm.measure("one two", max_new_tokens=4, requests=3, warmup=1)

@pytest.mark.llm(model="sim:itl=1ms,ttft=1ms,fail=kill,fail_at=2")
@pytest.mark.balloon(cpus=1, hyperthreads="spread")
def test_that_is_killed(llm):
    llm.measure("one two", max_new_tokens=4, requests=3, warmup=1)

@pytest.mark.llm(model="sim:itl=20ms,ttft=20ms,memory=400Mi")
@pytest.mark.balloon(cpus=1, hyperthreads="spread")
def test_that_fits_at_first(llm):
    llm.measure("one two", max_new_tokens=10, requests=2, warmup=1)

@pytest.mark.llm(model="sim:itl=1ms,ttft=1ms")
@pytest.mark.balloon(cpus=1, hyperthreads="spread")
def test_that_comes_after(llm):
    llm.measure("one two", max_new_tokens=4, requests=2, warmup=1)
"""
ARGUMENTS = ["-q", "-p", "pytest_nriperf.plugin", "-p", "no:cacheprovider", "--nri-collect=none", "--tb=short"]


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    with memory_group(LIMIT) as made:
        yield made


def session(group: MemoryGroup, folder: Path, test: str, runs: int) -> subprocess.Popen[str]:
    """A pytest run in the group."""
    folder.mkdir(exist_ok=True)
    (folder / "test_memory.py").write_text(SUITE)
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [*group.command_prefix(), sys.executable, "-m", "pytest", *ARGUMENTS, f"--nri-runs={runs}", "-k", test]
    environment = {**os.environ, "NRIPERF_LOCK_DIR": str(folder), "TMPDIR": str(folder), "CI": "", "COLUMNS": "200"}
    # Only the plugin that is tested, from this checkout, also in a machine where nothing is installed.
    environment |= {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment)


def check_ended(group: MemoryGroup, folder: Path, pid: int, words: str) -> None:
    """The message, and that nothing is left of the session."""
    limit = re.escape(f"(the limit of 320 MiB of the cgroup {group.folder} was reached)")
    assert re.search(rf"killed by the kernel: out of memory {limit}", words), words
    assert "raise the limit, use a smaller model or dtype" in words
    assert "Traceback" not in words
    assert group.processes() == []
    assert not list(folder.glob("nriperf-*"))
    assert not list(Path("/sys/fs/cgroup").glob(f"**/nriperf-*-{pid}-*"))


def recordings(folder: Path) -> dict[str, Path]:
    """Folders of recordings by the name of their test."""
    return {
        re.sub(r".*(test_that\w+).*", r"\1", path.parent.name.partition(".")[0]): path.parent
        for path in folder.glob(".nriperf/*/*/recording.json")
    }


def test_an_engine_that_the_kernel_ends_while_it_generates_is_told_and_the_next_test_runs(
    group: MemoryGroup, tmp_path: Path
) -> None:
    with session(group, tmp_path, "fills or killed or after", runs=1) as process:
        words, _ = process.communicate()
    assert process.returncode == 1, words
    check_ended(group, tmp_path, process.pid, words)
    assert re.search(r"the worker of replica 0 ended while measuring: .*\(run 1 of 1\)", words)
    assert "2 failed, 1 passed" in words
    assert "killed by SIGKILL, and the kernel counts no kill for lack of memory: somebody sent it" in words
    finished = {name: len(finished_runs(folder)) for name, folder in recordings(tmp_path).items()}
    assert finished == {"test_that_fills_memory": 0, "test_that_is_killed": 0, "test_that_comes_after": 1}


def test_runs_that_were_finished_before_the_limit_was_reached_are_kept(group: MemoryGroup, tmp_path: Path) -> None:
    group.limit(2048 * MIB)
    most = 30
    with session(group, tmp_path, "first", runs=most) as process:
        while not any(map(finished_runs, recordings(tmp_path).values())) and process.poll() is None:
            time.sleep(0.01)
        # Between two engines, so that the next one is ended while it loads.
        while not group.limit(LIMIT) and process.poll() is None:
            time.sleep(0.001)
        words, _ = process.communicate()
    assert process.returncode == 1, words
    check_ended(group, tmp_path, process.pid, words)
    (folder,) = recordings(tmp_path).values()
    runs = finished_runs(folder)
    assert 1 <= len(runs) < most
    kept = "the finished run is kept" if len(runs) == 1 else f"the {len(runs)} finished runs are kept"
    assert f"(run {len(runs) + 1} of {most}; {kept} in {folder})" in words
    rows = open_recording(folder).requests().to_pylist()
    assert sum(row["phase"] == "measure" for row in rows) == 2 * len(runs)


def test_a_kill_that_the_kernel_did_not_do_is_not_called_lack_of_memory() -> None:
    watch = OutOfMemoryWatch()
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process.kill()
    process.communicate()
    assert watch.verdict().startswith("killed by SIGKILL, and the kernel counts no kill for lack of memory")
