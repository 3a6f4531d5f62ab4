"""However a measurement ends, nothing of it is left: no process, cgroup, affinity or lock."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.errors import NodeBusyError
from pytest_nriperf.provision.cgroups import find_hierarchy, remove_leftovers
from pytest_nriperf.provision.local import LocalProvisioner
from pytest_nriperf.seams import Launch
from tests.machines.inside import kernel_view as kernel
from tests.machines.selection import ROOT, for_machines

_HOLDER = [sys.executable, "-m", "tests.machines.inside.holder"]


@contextlib.contextmanager
def holder() -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A measurement under way, and its workers."""
    process = subprocess.Popen(_HOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        workers = [int(word) for word in process.stdout.readline().split()]
        assert len(workers) == 2
        assert all(len(cpus) == 1 for worker in workers for cpus in kernel.allowed(worker))
        yield process, workers
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def gone(pids: list[int]) -> bool:
    """Whether processes end, given that a killed owner's workers have a moment to notice."""
    return soon(lambda: not any(kernel.alive(pid) for pid in pids))


def soon(holds: Callable[[], bool]) -> bool:
    """Whether something comes to hold."""
    deadline = time.monotonic() + kernel.PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_success_exception_and_signals_leave_nothing() -> None:
    before = os.sched_getaffinity(0)
    for ending in ("done\n", "fail\n", signal.SIGINT, signal.SIGTERM):
        with holder() as (process, workers):
            assert bool(kernel.groups_of_ours()) == kernel.is_root()
            if isinstance(ending, str):
                said, _ = process.communicate(ending)
            else:
                process.send_signal(ending)
                said, _ = process.communicate()
            assert said == "undone\n", ending
            assert not any(kernel.alive(worker) for worker in workers), ending
            assert not kernel.groups_of_ours(), ending
            with LocalProvisioner().session([]):
                pass
    assert os.sched_getaffinity(0) == before


def test_what_kill_9_leaves_ends_by_itself_or_with_the_next_start() -> None:
    with holder() as (process, workers):
        process.kill()
        process.wait()
        assert gone(workers)
        assert bool(kernel.groups_of_ours()) == kernel.is_root()
        with LocalProvisioner().session([]):
            assert not kernel.groups_of_ours()


@for_machines(ROOT)
def test_a_worker_that_outlives_its_killed_owner_is_ended_by_the_next_start() -> None:
    with holder() as (process, workers):
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        # A signal takes effect when its process is next on a CPU; until then it may read the end of its input.
        assert soon(lambda: all(kernel.state(worker) == "T" for worker in workers))
        process.kill()
        process.wait()
        assert all(kernel.alive(worker) for worker in workers)
        hierarchy = find_hierarchy()
        assert hierarchy is not None
        assert len(remove_leftovers(hierarchy)) == 2
        assert gone(workers)
        assert not kernel.groups_of_ours()


def test_the_machine_is_held_by_one_measurement_whoever_runs_it() -> None:
    with holder() as (process, _):
        with pytest.raises(NodeBusyError, match=f"process {process.pid} "), LocalProvisioner().session([]):
            pass
        process.kill()
        process.wait()
        with LocalProvisioner().session([]):
            pass


@for_machines(ROOT)
def test_another_users_lock_is_respected_and_left_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NRIPERF_LOCK_DIR", "/tmp")
    with LocalProvisioner().session([]):
        pass
    other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *_HOLDER]
    process = subprocess.Popen(other, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() != ""
        with pytest.raises(NodeBusyError), LocalProvisioner().session([]):
            pass
    finally:
        said, _ = process.communicate("done\n")
    assert said == "undone\n"


@for_machines(ROOT)
def test_a_delegated_group_of_an_ordinary_user_confines_too() -> None:
    group = Path("/sys/fs/cgroup/delegated")
    group.mkdir()
    try:
        Path("/sys/fs/cgroup/cgroup.subtree_control").write_text("+cpuset")
        for file in (group, group / "cgroup.procs", group / "cgroup.subtree_control"):
            os.chown(file, 65534, 65534)
        join = ["/bin/sh", "-c", 'echo 0 > "$0" && exec "$@"', str(group / "cgroup.procs")]
        user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        environment = {**os.environ, "NRIPERF_LOCK_DIR": "/tmp"}
        process = subprocess.Popen(
            [*join, *user, *_HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert process.stdout is not None
        workers = [int(word) for word in process.stdout.readline().split()]
        assert len(workers) == 2
        for worker in workers:
            assert kernel.cgroup_folder(worker).parent == group
            assert [kernel.cgroup_cpus(worker)] * len(kernel.allowed(worker)) == kernel.allowed(worker)
        assert kernel.cgroup_folder(process.pid).parent == group
        said, _ = process.communicate("done\n")
        assert said == "undone\n"
        assert [path.name for path in group.iterdir() if path.is_dir()] == []
    finally:
        group.rmdir()
        Path("/sys/fs/cgroup/cgroup.subtree_control").write_text("-cpuset")


def test_a_balloon_outside_a_session_is_bound_by_affinity_alone() -> None:
    with LocalProvisioner().provision(BalloonSpec(cpus=1, hyperthreads="spread")) as grant:
        stream = grant.start_worker(0, Launch(b"echo ready; read line", python="/bin/sh"))
        assert stream.receive(kernel.PATIENCE_S) == b"ready\n"
        assert grant.mechanism == "affinity"
        assert stream.pid is not None
        assert kernel.allowed(stream.pid) == [grant.placement.replicas[0].visible]
