"""Kills for lack of memory are told by counters of the kernel, in files of both versions of cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_nriperf.provision.out_of_memory import OutOfMemoryWatch, kill_first

MIB = 1 << 20


class Kernel:
    """Made-up /proc and cgroup folders: a group `inner`, in which the process is, inside `outer`."""

    def __init__(self, folder: Path, version: int) -> None:
        self.version = version
        self.mount = folder / "mount"
        self.outer, self.inner = self.mount / "outer", self.mount / "outer/inner"
        self.proc = folder / "proc"
        self.inner.mkdir(parents=True)
        (self.proc / "self").mkdir(parents=True)
        kind = "cgroup2 cgroup2 rw" if version == 2 else "cgroup cgroup rw,memory"
        controllers = "0::" if version == 2 else "4:memory:"
        (self.proc / "self/cgroup").write_text(f"9:cpuset:/elsewhere\n{controllers}/outer/inner\n")
        (self.proc / "self/mountinfo").write_text(f"30 20 0:26 / {self.mount} rw - {kind}\n")
        self.machine(0)
        self.group(self.outer, limit=64 * MIB)
        self.group(self.inner)

    def machine(self, kills: int) -> None:
        (self.proc / "vmstat").write_text(f"nr_free_pages 12\noom_kill {kills}\n")

    def group(self, folder: Path, limit: int | None = None, kills: int = 0, reached: int = 0) -> None:
        if self.version == 2:
            (folder / "memory.max").write_text(f"{limit or 'max'}\n")
            (folder / "memory.events").write_text(f"oom {reached}\noom_kill {kills}\n")
            (folder / "memory.events.local").write_text(f"oom {reached}\noom_kill {kills}\n")
        else:
            (folder / "memory.limit_in_bytes").write_text(f"{limit or 9223372036854771712}\n")
            (folder / "memory.oom_control").write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n")
            (folder / "memory.failcnt").write_text(f"{reached}\n")

    def watch(self) -> OutOfMemoryWatch:
        return OutOfMemoryWatch(proc=self.proc)


@pytest.fixture(params=[1, 2])
def kernel(request: pytest.FixtureRequest, tmp_path: Path) -> Kernel:
    return Kernel(tmp_path, request.param)


def test_the_limit_that_was_reached_is_named_also_when_it_is_of_a_group_above(kernel: Kernel) -> None:
    watch = kernel.watch()
    kernel.group(kernel.outer, limit=64 * MIB, reached=1, kills=1)
    kernel.group(kernel.inner, kills=1)
    assert watch.verdict() == (
        f"killed by the kernel: out of memory (the limit of 64 MiB of the cgroup {kernel.outer} was reached)"
    )


def test_without_a_limit_it_was_the_machine_or_its_numa_nodes(kernel: Kernel) -> None:
    watch = kernel.watch()
    kernel.group(kernel.inner, kills=1)
    assert "out of memory (no cgroup limit was reached: the machine, or the NUMA nodes" in watch.verdict()


def test_a_kill_in_another_group_is_not_taken_for_ours(kernel: Kernel) -> None:
    watch = kernel.watch()
    kernel.machine(1)
    kernel.group(kernel.outer, limit=64 * MIB, kills=1)
    assert watch.verdict().startswith("killed by SIGKILL, and the kernel counts no kill for lack of memory")


def test_kills_before_the_process_began_do_not_count(kernel: Kernel) -> None:
    kernel.group(kernel.inner, kills=3)
    assert "counts no kill" in kernel.watch().verdict()


def test_without_groups_the_count_of_the_machine_is_called_likely(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, 2)
    (kernel.proc / "self/cgroup").write_text("0::/\n")
    watch = kernel.watch()
    assert "counts no kill for lack of memory" in watch.verdict()
    kernel.machine(1)
    assert watch.verdict().startswith("killed by SIGKILL, most likely by the kernel")
    assert "out of memory" in watch.verdict()


def test_without_any_counter_nothing_is_said(tmp_path: Path) -> None:
    assert OutOfMemoryWatch(proc=tmp_path).verdict() == ""


def test_the_group_that_the_process_joins_is_looked_at_first(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, 2)
    own = kernel.mount / "own/replica"
    own.mkdir(parents=True)
    kernel.group(own.parent, limit=32 * MIB)
    watch = OutOfMemoryWatch(own, kernel.proc)
    kernel.group(own.parent, limit=32 * MIB, kills=1, reached=1)
    assert f"the limit of 32 MiB of the cgroup {own.parent}" in watch.verdict()


def test_a_process_that_goes_first_already_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "7/oom_score_adj"
    file.parent.mkdir()
    for before, after in ((0, 500), (-998, 500), (900, 900)):
        file.write_text(f"{before}\n")
        kill_first(7, tmp_path)
        assert int(file.read_text()) == after
