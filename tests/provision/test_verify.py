"""What the kernel says of a worker is compared with what was granted, task by task and page by page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_nriperf.errors import NotHonouredError, WorkerError
from pytest_nriperf.provision.verify import anonymous_bytes_by_node, descendants, task_cpus, verify_tasks

THREADED = (
    "import os, sys, threading\n"
    "go = threading.Event()\n"
    "def work():\n"
    "    if sys.argv[1:]: os.sched_setaffinity(0, {int(sys.argv[1])})\n"
    "    go.set(); threading.Event().wait()\n"
    "threading.Thread(target=work, daemon=True).start(); go.wait(); print('ready', flush=True); sys.stdin.read()"
)


@pytest.fixture
def worker(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    arguments = getattr(request, "param", [])
    process = subprocess.Popen(
        [sys.executable, "-c", THREADED, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.communicate()


def test_every_task_is_looked_at(worker: subprocess.Popen[bytes]) -> None:
    allowed = frozenset(os.sched_getaffinity(0))
    facts = verify_tasks(worker.pid, replica=0, cpus=allowed, memory_nodes=None)
    assert facts["tasks"] == 2
    assert set(task_cpus(worker.pid).values()) == {allowed}
    assert sum(facts["anonymous_bytes_by_node"].values()) > 1 << 20


@pytest.mark.parametrize("worker", [[min(os.sched_getaffinity(0))]], indirect=True)
def test_one_thread_that_pins_itself_elsewhere_is_named(worker: subprocess.Popen[bytes]) -> None:
    allowed = frozenset(os.sched_getaffinity(0))
    if len(allowed) < 2:
        pytest.skip("needs two CPUs")
    with pytest.raises(NotHonouredError, match=r"replica 3: task \d+ of process \d+ may run on CPUs \d+, granted"):
        verify_tasks(worker.pid, replica=3, cpus=allowed, memory_nodes=None)


def test_memory_on_another_node_is_named_with_its_size(worker: subprocess.Popen[bytes]) -> None:
    pages = Path(f"/proc/{worker.pid}/numa_maps").read_text()
    used = sorted(set(map(int, re.findall(r" N(\d+)=", pages))))
    other = used[-1] + 1
    said = rf"MiB on NUMA node ({'|'.join(map(str, used))})\b.*, bound to {other}"
    with pytest.raises(NotHonouredError, match=said):
        verify_tasks(worker.pid, replica=0, cpus=frozenset(os.sched_getaffinity(0)), memory_nodes=frozenset({other}))


def test_a_process_that_is_gone_is_said_to_be_gone(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="gone before it could be verified"):
        verify_tasks(1, replica=0, cpus=frozenset({0}), memory_nodes=None, proc=tmp_path)


def test_children_are_found() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '60'])"], stdin=subprocess.PIPE
    )
    try:
        while len(descendants(process.pid)) < 2 and process.poll() is None:
            pass
        assert len(descendants(process.pid)) == 2
    finally:
        for pid in reversed(descendants(process.pid)):
            os.kill(pid, 9)
        process.communicate()


def test_file_pages_and_huge_pages_are_counted_as_they_are() -> None:
    text = """\
7f0000000000 default anon=16384 dirty=16384 active=0 N0=16384 kernelpagesize_kB=4
7f0010000000 default file=/a/b.bin mapped=10 mapmax=2 N1=10 kernelpagesize_kB=4
7f0020000000 bind:1 huge anon=3 dirty=3 N1=3 kernelpagesize_kB=2048
7f0030000000 default file=/a\\040b.so anon=2 dirty=2 N0=2 kernelpagesize_kB=4
7f0040000000 default stack
"""
    assert anonymous_bytes_by_node(text) == {0: 16384 * 4096 + 2 * 4096, 1: 3 * 2 * 2**20}
