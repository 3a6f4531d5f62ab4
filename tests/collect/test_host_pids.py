"""A process that knows its number in a container is found by the number that the node has for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pytest_nriperf.collect.host_pids import on_the_node
from pytest_nriperf.collect.reading import Files
from pytest_nriperf.seams import Target, TargetReplica
from tests.collect.trees import write_tree
from tests.tools import missing, needs


def status(numbers: str, cpus: str) -> str:
    return (
        f"Name:\tpython3\nNStgid:\t1\nNSpid:\t{numbers}\nThreads:\t2\nCpus_allowed:\tff\nCpus_allowed_list:\t{cpus}\n"
    )


def target(*replicas: tuple[int | None, set[int]]) -> Target:
    views = [TargetReplica(n, pid, frozenset(cpus), frozenset(cpus)) for n, (pid, cpus) in enumerate(replicas)]
    return Target(tuple(views), {0: 0}, {0: 1})


def pids(found: Target) -> list[int | None]:
    return [each.pid for each in found.replicas]


def test_replicas_with_one_number_are_told_apart_by_their_cpus(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path,
        {
            "/proc/1/status": status("1", "0-63"),
            "/proc/7/status": status("7", "0-63"),
            "/proc/4711/status": status("4711\t7", "2-3"),
            "/proc/4712/status": status("4712\t9\t7", "4-5"),
            "/proc/4713/status": status("4713\t8", "2-3"),
            "/proc/9/status": "Name:\tkthreadd\n",
            "/proc/version": "Linux",
        },
    )
    notes: list[str] = []
    found = on_the_node(target((7, {2, 3}), (7, {4, 5})), notes, Files(root))
    assert pids(found) == [4711, 4712]
    assert notes == []
    assert (found.socket_of_cpu, found.node_of_cpu) == ({0: 0}, {0: 1})
    assert found.replicas[1].visible == {4, 5}


def test_what_is_not_found_or_found_twice_is_said_and_not_watched(tmp_path: Path) -> None:
    files = {f"/proc/{pid}/status": status(f"{pid}\t7", "2") for pid in (21, 22)}
    notes: list[str] = []
    found = on_the_node(target((7, {2}), (8, {3}), (None, {4})), notes, Files(write_tree(tmp_path, files)))
    assert pids(found) == [None, None, None]
    assert notes == [
        "replica 0: no counters of its tasks (2 processes of the node look like it)",
        "replica 1: no counters of its tasks (the node shows no such process)",
    ]


def test_a_process_in_a_namespace_of_its_own_is_found() -> None:
    """The kernel's own view: the inner process prints the number that it has for itself."""
    program = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"
    unshare = [needs("unshare", package="util-linux"), "--user", "--map-root-user", "--pid", "--fork"]
    inside = subprocess.Popen(
        [*unshare, sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert inside.stdout is not None
        line = inside.stdout.readline()
        if not line:
            missing("this machine makes no PID namespace")
        notes: list[str] = []
        found = on_the_node(target((int(line), set(os.sched_getaffinity(0)))), notes)
        assert notes == []
        (pid,) = pids(found)
        assert pid not in (None, int(line))
        assert program in Path(f"/proc/{pid}/cmdline").read_text()
    finally:
        inside.communicate("")
