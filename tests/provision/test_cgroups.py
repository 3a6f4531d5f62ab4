"""Cpuset cgroups: found where there are any, and walls that hold; nothing is left, also not by the killed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.errors import NotHonouredError
from pytest_nriperf.provision.cgroups import Hierarchy, cpuset_group, find_hierarchy, prepared, remove_leftovers
from pytest_nriperf.provision.local import LocalProvisioner
from pytest_nriperf.seams import Launch
from tests.tools import missing


@pytest.fixture
def hierarchy() -> Iterator[Hierarchy]:
    found = find_hierarchy()
    if found is None:
        missing("this process may not make cpuset cgroups: run as root, or in a delegated group")
    with prepared(found):
        yield found


def two_cpus() -> tuple[int, int]:
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        pytest.skip("needs two CPUs")
    return allowed[0], allowed[1]


def run_in(prefix: list[str], code: str) -> str:
    return subprocess.run([*prefix, sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout


def test_a_process_in_a_group_cannot_take_other_cpus(hierarchy: Hierarchy) -> None:
    one, other = two_cpus()
    with cpuset_group(hierarchy, frozenset({one}), frozenset({0})) as group:
        assert group.effective_cpus() == {one}
        code = (
            "import json, os\nbefore = sorted(os.sched_getaffinity(0))\n"
            f"try:\n    os.sched_setaffinity(0, [{other}])\n    refused = False\n"
            "except OSError:\n    refused = True\n"
            "print(json.dumps([before, refused, sorted(os.sched_getaffinity(0))]))"
        )
        assert json.loads(run_in(group.command_prefix(), code)) == [[one], True, [one]]


def test_the_group_and_all_that_is_in_it_end_together(hierarchy: Hierarchy) -> None:
    one, _ = two_cpus()
    with cpuset_group(hierarchy, frozenset({one}), frozenset({0})) as group:
        # A process that leaves its session and its parent is still in the group.
        code = (
            "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], "
            "start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"
        )
        strayed = int(run_in(group.command_prefix(), code))
        assert group.processes() == {strayed}
    assert not group.folder.exists()
    status = Path(f"/proc/{strayed}/status")
    assert not status.exists() or "State:\tZ" in status.read_text()


def test_what_a_killed_owner_left_is_removed_and_what_a_living_one_has_is_not(hierarchy: Hierarchy) -> None:
    one, _ = two_cpus()
    code = (
        "import sys, subprocess\n"
        "from pathlib import Path\n"
        "from pytest_nriperf.provision.cgroups import Hierarchy, cpuset_group\n"
        f"place = Hierarchy({hierarchy.version}, Path({str(hierarchy.parent)!r}), Path({str(hierarchy.ours)!r}))\n"
        f"with cpuset_group(place, frozenset([{one}]), frozenset([0])) as group:\n"
        "    command = [*group.command_prefix(), 'sh', '-c', 'echo joined; exec sleep 600']\n"
        "    worker = subprocess.Popen(command, stdout=subprocess.PIPE)\n"
        "    worker.stdout.readline()\n"
        "    print(group.folder, worker.pid, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdin is not None
    name, worker = owner.stdout.readline().split()
    folder = Path(name)
    assert folder.name not in remove_leftovers(hierarchy)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    owner.stdin.close()
    assert folder.exists()
    assert folder.name in remove_leftovers(hierarchy)
    assert not folder.exists()
    status = Path(f"/proc/{worker}/status")
    assert not status.exists() or "State:\tZ" in status.read_text()


def test_a_session_confines_its_replicas_and_says_so(hierarchy: Hierarchy) -> None:
    node = LocalProvisioner()
    with node.session([]), node.provision(BalloonSpec(cpus=1, hyperthreads="spread")) as grant:
        assert grant.mechanism == f"cgroup v{hierarchy.version} cpuset"
        stream = grant.start_worker(0, Launch(b"echo ready; read line", python="/bin/sh"))
        assert stream.receive(10.0) == b"ready\n"
        assert grant.verify(0, stream)["mechanism"] == grant.mechanism
    with LocalProvisioner(confine=False).session([]), LocalProvisioner().provision(BalloonSpec()) as grant:
        assert grant.mechanism == "affinity"


def test_a_group_that_was_changed_by_somebody_is_named(hierarchy: Hierarchy) -> None:
    one, other = two_cpus()
    node = LocalProvisioner(allowed=frozenset({one, other}))
    with node.session([]), node.provision(BalloonSpec()) as grant:
        stream = grant.start_worker(0, Launch(b"echo ready; read line", python="/bin/sh"))
        stream.receive(10.0)
        (folder,) = hierarchy.parent.glob(f"nriperf-*-{os.getpid()}-*")
        (folder / "cpuset.cpus").write_text(str(one))
        with pytest.raises(NotHonouredError, match=f"its cgroup may use CPUs {one}, granted were {one}-{other}"):
            grant.verify(0, stream)


# ------------------------------------------------------------------------------------------------- where groups can be


class Tree:
    """A made-up /proc and /sys/fs/cgroup of version 2."""

    def __init__(self, folder: Path, ours: str, *, root: str = "/") -> None:
        self.proc, self.mount = folder / "proc", folder / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "self/mountinfo").write_text(f"32 31 0:29 {root} {self.mount} rw - cgroup2 cgroup2 rw\n")
        (self.proc / "self/cgroup").write_text(f"0::{ours}\n")

    def group(self, name: str, *, root: bool = False, processes: str = "", **files: str) -> Path:
        folder = self.mount / name.strip("/")
        folder.mkdir(parents=True, exist_ok=True)
        files = {"cgroup_controllers": "cpuset cpu memory", "cgroup_subtree_control": "", **files}
        files |= {"cgroup_procs": processes} | ({} if root else {"cgroup_type": "domain"})
        for file, content in files.items():
            (folder / file.replace("_", ".", 1)).write_text(content + "\n")
        return folder

    def parent(self) -> Path | None:
        found = find_hierarchy(self.proc)
        return None if found is None else found.parent


def test_at_the_top_of_version_2_groups_are_made_there(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "/")
    assert tree.parent() is None
    assert tree.group("", root=True) == tree.parent()


def test_a_delegated_group_is_used_when_nobody_else_is_in_it(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "/user/scope")
    tree.group("", root=True, cgroup_controllers="cpu")
    tree.group("user", cgroup_controllers="cpu")
    ours = tree.group("user/scope", processes=str(os.getpid()))
    assert tree.parent() == ours
    tree.group("user/scope", processes=f"{os.getpid()}\n{2**22 + 1}")
    assert tree.parent() is None


def test_otherwise_the_nearest_group_above_that_hands_cpuset_down_is_used(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "/system/session")
    top = tree.group("", root=True)
    tree.group("system", cgroup_controllers="cpu")
    tree.group("system/session", cgroup_controllers="cpu")
    assert tree.parent() == top
    above = tree.group("system", cgroup_subtree_control="cpuset memory")
    assert tree.parent() == above


def test_a_limit_of_ours_is_never_left(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "/system/session")
    tree.group("", root=True)
    tree.group("system", cgroup_controllers="cpu")
    tree.group("system/session", cgroup_controllers="cpu", cpu_max="200000 100000")
    assert tree.parent() is None


def test_a_mount_that_shows_part_of_a_hierarchy_is_understood(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "/docker/box", root="/docker/box")
    assert tree.group("", root=True) == tree.parent()


def test_a_group_that_is_in_use_for_a_moment_more_is_removed_when_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "group").mkdir()
    rmdir, busy = Path.rmdir, [True, True]

    def slow(folder: Path) -> None:
        if busy and folder.name.endswith("self"):
            busy.pop()
            raise OSError(errno.EBUSY, "Device or resource busy")
        rmdir(folder)

    monkeypatch.setattr(Path, "rmdir", slow)
    ours = Hierarchy(2, tmp_path / "group", tmp_path / "group")
    (ours.parent / "cgroup.type").write_text("domain")
    with prepared(ours):
        assert len(list(ours.parent.glob("nriperf-*self"))) == 1
    assert not busy
    assert not list(ours.parent.glob("nriperf-*self"))
