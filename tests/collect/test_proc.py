"""The proc collector: sums that never fall, processes that end, pages on the wrong node, files that are missing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pytest_nriperf.collect.proc import ProcCollector
from pytest_nriperf.collect.reading import Files
from pytest_nriperf.collect.select import choose
from pytest_nriperf.errors import CollectorError, UsageError
from pytest_nriperf.seams import CounterRow, Target, TargetReplica
from tests.collect.trees import write_tree

DATA = Path(__file__).parents[1] / "data" / "proc"
TARGET = Target(
    (TargetReplica(0, 7, frozenset({0, 1}), frozenset({0})), TargetReplica(1, 9, frozenset({2}), frozenset({2}))),
    {0: 0, 1: 0, 2: 1},
    {0: 0, 1: 0, 2: 1},
)
STAT = "7 (worker) R 1 7 7 0 -1 0 {minor} 0 {major} 0 5 5 0 0 20 0 1 0 {start} 0 0\n"
SCHED = """worker (7, #threads: 2)
se.nr_migrations                             :                    1
nr_switches                                  :                    6
nr_voluntary_switches                        :                    4
nr_involuntary_switches                      :                    2
"""


def task(pid: int, number: int, on_cpu: int, wait: int) -> dict[str, str]:
    folder = f"/proc/{pid}/task/{number}"
    return {
        f"{folder}/schedstat": f"{on_cpu} {wait} 3\n",
        f"{folder}/status": "Name:\tworker\nvoluntary_ctxt_switches:\t4\nnonvoluntary_ctxt_switches:\t2\n",
        f"{folder}/sched": SCHED,
        f"{folder}/stat": "",
    }


def process(pid: int, tasks: Iterable[dict[str, str]], start: int = 50, minor: int = 10) -> dict[str, str]:
    files = {
        f"/proc/{pid}/stat": STAT.format(minor=minor, major=1, start=start),
        f"/proc/{pid}/cgroup": "0::/pod\n",
        f"/proc/{pid}/sched": SCHED,
    }
    for each in tasks:
        files |= each
    return files


def machine() -> dict[str, str]:
    files = {
        "/proc/stat": (DATA / "cpu_stat").read_text(),
        "/proc/vmstat": "pgfault 9\nnuma_pages_migrated 4\nthp_fault_alloc 2\n",
        "/proc/self/mountinfo": "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "/sys/fs/cgroup/pod/cpu.stat": "usage_usec 9\nnr_periods 8\nnr_throttled 3\nthrottled_usec 120\n",
    }
    for node in range(2):
        files[f"/sys/devices/system/node/node{node}/numastat"] = f"numa_hit {node}\nnuma_miss 7\nother_node 5\n"
    for what in ("cpu", "memory", "io"):
        files[f"/proc/pressure/{what}"] = "some avg10=0.00 avg60=0.00 avg300=0.00 total=38\n"
    for cpu in (0, 1, 2):
        folder = f"/sys/devices/system/cpu/cpu{cpu}"
        files[f"{folder}/cpufreq/scaling_cur_freq"] = "2600000\n"
        files[f"{folder}/thermal_throttle/core_throttle_count"] = f"{cpu}\n"
        files[f"{folder}/thermal_throttle/package_throttle_count"] = "11\n"
    return files


@pytest.fixture
def root(tmp_path: Path) -> str:
    files = machine() | process(7, [task(7, 7, 100, 10), task(7, 8, 200, 20)]) | process(9, [task(9, 9, 1, 2)])
    files["/proc/7/numa_maps"] = (DATA / "numa_maps").read_text()
    return write_tree(tmp_path, files)


@pytest.fixture
def collector(root: str) -> Iterator[ProcCollector]:
    collector = ProcCollector(root)
    yield collector
    collector.stop()


def named(rows: Iterable[CounterRow], name: str) -> list[CounterRow]:
    return [row for row in rows if row.name == name]


def values(rows: Iterable[CounterRow], name: str, replica: int | None = 0) -> list[float]:
    return [row.value for row in named(rows, name) if row.replica == replica]


def test_a_replicas_tasks_are_summed_and_each_is_read_before_and_after(collector: ProcCollector) -> None:
    rows = list(collector.start(TARGET))
    assert values(rows, "on_cpu_time") == [300]
    assert values(rows, "run_queue_wait") == [30]
    assert values(rows, "involuntary_switches") == [4]
    assert values(rows, "migrations") == [2]
    assert values(rows, "major_faults", replica=1) == [1]
    assert [(row.pid, row.value) for row in named(rows, "task_run_queue_wait")] == [(7, 10), (8, 20), (9, 2)]
    assert named(collector.sample(), "task_run_queue_wait") == []


def test_a_task_that_ends_stays_in_the_sum_and_a_new_one_joins_it(collector: ProcCollector, root: str) -> None:
    collector.start(TARGET)
    for file in Path(f"{root}/proc/7/task/8").iterdir():
        file.unlink()
    Path(f"{root}/proc/7/task/8").rmdir()
    write_tree(Path(root), task(7, 11, 1000, 1))
    assert values(collector.sample(), "on_cpu_time") == [1300]


@pytest.mark.parametrize("start", [51, None])
def test_a_process_that_ended_or_whose_number_is_used_again_gives_no_more_readings(
    collector: ProcCollector, root: str, start: int | None
) -> None:
    collector.start(TARGET)
    write_tree(Path(root), process(7, [], start or 0) if start else {"/proc/7/stat": ""})
    rows = list(collector.sample())
    assert values(rows, "on_cpu_time") == []
    assert values(rows, "on_cpu_time", replica=1) == [1]
    assert "replica 0: process 7 ended during the run" in collector.notes


def test_pages_are_local_to_the_nodes_of_the_visible_cpus(collector: ProcCollector) -> None:
    rows = list(collector.start(TARGET))
    where = {(row.name, row.node): row.value for row in rows if row.replica == 0 and row.name.endswith("memory")}
    assert where["anonymous_memory", 1] == 8 * 4096 + 1024**3
    assert where["remote_memory", None] == 8 * 4096 + 1024**3 + 56 * 4096
    assert where["local_memory", None] == where["anonymous_memory", 0] + where["file_memory", 0]
    assert all(row.read_ns >= row.t_ns for row in rows)
    assert named(collector.sample(), "remote_memory") == []
    assert len(named(collector.stop(), "remote_memory")) == 1


def test_pages_that_may_not_be_seen_are_said(collector: ProcCollector) -> None:
    collector.start(TARGET)
    assert [note for note in collector.notes if note.startswith("no place of pages (")] == collector.notes
    assert "/proc/9/numa_maps: No such file" in collector.notes[0]


def test_the_cgroup_of_another_container_is_read_where_its_own_process_has_it(
    collector: ProcCollector, root: str
) -> None:
    own = "/proc/9/root/sys/fs/cgroup/cpu.stat"
    write_tree(Path(root), {f"/proc/{pid}/cgroup": f"0::/../pod{pid}\n" for pid in (7, 9)})
    write_tree(Path(root), {own: "nr_periods 8\nnr_throttled 3\nthrottled_usec 7\n"})
    rows = list(collector.start(TARGET))
    assert [(row.value, row.replica) for row in named(rows, "throttled_time")] == [(7_000, 1)]
    assert "replica 0: no throttling counts (its container's cgroup may not be seen)" in collector.notes


def test_allocated_cpus_have_busy_and_stolen_time_with_their_replica(collector: ProcCollector) -> None:
    rows = list(collector.start(TARGET))
    busy = named(rows, "cpu_busy_time")
    assert [(row.cpu, row.replica) for row in busy] == [(0, 0), (1, 0)]
    tick = 10**9 // os.sysconf("SC_CLK_TCK")
    assert busy[1].value == (60000 + 10 + 2350 + 4) * tick
    assert named(rows, "machine_steal_time")[0].value == 790 * tick


def test_throttling_pressure_nodes_frequency_and_heat_are_read(collector: ProcCollector) -> None:
    rows = list(collector.start(TARGET))
    assert [(row.value, row.unit, row.replica) for row in named(rows, "throttled_time")] == [(120_000, "ns", None)]
    assert named(rows, "cpu_pressure")[0].value == 38_000
    assert [(row.node, row.value) for row in named(rows, "numa_hit")] == [(0, 0), (1, 1)]
    assert [(row.cpu, row.value, row.kind) for row in named(rows, "cpu_frequency")] == [
        (0, 2_600_000_000, "gauge"),
        (2, 2_600_000_000, "gauge"),
    ]
    assert [(row.cpu, row.value) for row in named(rows, "core_throttles")] == [(0, 0), (2, 2)]
    assert [row.socket for row in named(rows, "package_throttles")] == [0, 1]


def test_version_1_throttling_is_in_nanoseconds_and_beats_a_v2_tree_without_controller(root: str) -> None:
    write_tree(
        Path(root),
        {
            "/proc/self/mountinfo": "32 1 0:2 / /cg/cpu rw - cgroup cgroup rw,cpu\n41 1 0:3 / /cg/u rw - cgroup2 c r\n",
            "/proc/7/cgroup": "1:cpu:/a\n0::/\n",
            "/proc/9/cgroup": "1:cpu:/b\n0::/\n",
            "/cg/cpu/a/cpu.stat": "nr_periods 1\nnr_throttled 2\nthrottled_time 77\n",
            "/cg/u/cpu.stat": "usage_usec 5\n",
        },
    )
    collector = ProcCollector(root)
    rows = list(collector.start(TARGET))
    collector.stop()
    assert [(row.value, row.replica) for row in named(rows, "throttled_time")] == [(77, 0)]


def test_a_limit_counts_in_the_group_that_has_it_whoever_is_below(root: str) -> None:
    """As of `systemd-run --scope -p Delegate=yes -p CPUQuota=150%`, with a cpuset group of ours in the scope."""
    cgroup, counts = "/sys/fs/cgroup", "nr_periods 9\nnr_throttled 2\nthrottled_usec {}\n"
    files = {
        "/proc/7/cgroup": "0::/user.slice/run.scope/replica\n",
        "/proc/9/cgroup": "0::/user.slice/other\n",
        f"{cgroup}/cpu.stat": "usage_usec 99\n",
        f"{cgroup}/user.slice/cpu.max": "max 100000\n",
        f"{cgroup}/user.slice/cpu.stat": counts.format(0),
        f"{cgroup}/user.slice/other/cpu.stat": counts.format(5),
        f"{cgroup}/user.slice/run.scope/cpu.max": "150000 100000\n",
        f"{cgroup}/user.slice/run.scope/cpu.stat": counts.format(70),
        f"{cgroup}/user.slice/run.scope/replica/cpu.stat": "usage_usec 5\n",
    }
    write_tree(Path(root), files)
    collector = ProcCollector(root)
    own = {row.replica: row.value for row in named(collector.start(TARGET), "throttled_time")}
    assert own == {0: 70_000, 1: 5_000}
    collector.stop()
    write_tree(Path(root), {f"{cgroup}/user.slice/cpu.max": "200000 100000\n"})
    write_tree(Path(root), {f"{cgroup}/user.slice/cpu.stat": counts.format(30)})
    shared = {row.replica: row.value for row in named(collector.start(TARGET), "throttled_time")}
    assert shared == {0: 70_000, None: 30_000}
    collector.stop()


def test_limits_one_inside_the_other_are_one_sum_and_not_two_readings_of_one_series(root: str) -> None:
    cgroup = "/sys/fs/cgroup"
    files = {"/proc/7/cgroup": "0::/pod/box\n", "/proc/9/cgroup": "0::/\n"}
    for group, microseconds in (("pod", 100), ("pod/box", 11)):
        files[f"{cgroup}/{group}/cpu.max"] = "50000 100000\n"
        files[f"{cgroup}/{group}/cpu.stat"] = f"nr_periods 4\nnr_throttled 1\nthrottled_usec {microseconds}\n"
    collector = ProcCollector(write_tree(Path(root), files))
    rows = list(collector.start(TARGET))
    collector.stop()
    assert values(rows, "throttled_time") == [111_000]
    assert values(rows, "throttled_periods") == [2]


class HeldUp:
    """A clock that stands, but for the readings of a frequency that are held up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 10**9
        self.held = 0
        read = Files.read

        def held_up(files: Files, path: str) -> bytes:
            if self.held and path.endswith("scaling_cur_freq"):
                self.held -= 1
                self.now_ns += 600_000
            return read(files, path)

        monkeypatch.setattr(Files, "read", held_up)

    def __call__(self) -> int:
        return self.now_ns


def test_a_frequency_that_was_read_slowly_once_is_chance_and_three_times_in_a_row_is_not(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = HeldUp(monkeypatch)
    collector = ProcCollector(root, clock)
    collector.start(TARGET)
    for held in (1, 2, 0, 2):
        clock.held = held
        assert len(named(collector.sample(), "cpu_frequency")) == 2
    assert not [note for note in collector.notes if note.startswith("no CPU frequency")]
    clock.held = 1
    assert named(collector.sample(), "cpu_frequency") == []
    assert "no CPU frequency (3 readings in a row took long, the last one 0.6 ms: that disturbs the CPUs)" in (
        collector.notes
    )
    collector.stop()


def test_what_breaks_during_a_run_is_said_once_and_the_rest_goes_on(collector: ProcCollector, root: str) -> None:
    collector.start(TARGET)
    write_tree(Path(root), {"/proc/vmstat": "\x00 nonsense", "/proc/7/task/7/sched": "no migrations here"})
    for _ in range(2):
        rows = list(collector.sample())
    assert values(rows, "on_cpu_time") == [300]
    assert named(rows, "thp_fault_alloc") == []
    assert values(rows, "migrations") == []
    told = [note.split(" (")[0] for note in collector.notes]
    assert told.count("no virtual memory counts") == 1
    assert told.count("no voluntary_switches, involuntary_switches, migrations") == 1


def test_a_kernel_without_sched_files_still_tells_of_switches(collector: ProcCollector, root: str) -> None:
    for file in Path(f"{root}/proc").rglob("sched"):
        file.unlink()
    rows = list(collector.start(TARGET))
    assert values(rows, "involuntary_switches") == [4]
    assert values(rows, "migrations") == []
    assert sum("no migrations (" in note for note in collector.notes) == 2


def test_the_probe_names_what_this_kernel_leaves_out(root: str, tmp_path: Path) -> None:
    missing = ("run-queue wait (no schedstat)", "place of pages (no numa_maps)")
    assert ProcCollector(root).probe().missing == missing
    assert not ProcCollector(str(tmp_path / "none")).probe().available


def test_a_busy_loop_on_the_same_cpu_shows_as_run_queue_wait() -> None:
    """Two real processes bound to one CPU: each waits for the other."""
    cpu = min(os.sched_getaffinity(0))
    program = f"import os; os.sched_setaffinity(0, {{{cpu}}}); print(flush=True)\nwhile True: pass"
    loops = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for loop in loops:
            assert loop.stdout is not None
            loop.stdout.readline()
        collector = ProcCollector()
        target = Target((TargetReplica(0, loops[0].pid, frozenset({cpu}), frozenset({cpu})),))
        wait, on_cpu = values(collector.start(target), "run_queue_wait")[0], 0.0
        begin = values(collector.sample(), "on_cpu_time")[0]
        while on_cpu < 50_000_000:
            on_cpu = values(collector.sample(), "on_cpu_time")[0] - begin
        assert values(collector.stop(), "run_queue_wait")[0] - wait > 10_000_000
    finally:
        for loop in loops:
            loop.kill()
            loop.communicate()


def test_every_descriptor_is_closed_at_the_end() -> None:
    before = set(os.listdir("/proc/self/fd"))
    collector = ProcCollector()
    collector.start(Target((TargetReplica(0, os.getpid(), frozenset({0}), frozenset({0})),)))
    assert set(os.listdir("/proc/self/fd")) != before
    collector.stop()
    assert collector.stop() == []
    assert set(os.listdir("/proc/self/fd")) == before


def test_no_more_than_the_given_number_of_files_stays_open(tmp_path: Path) -> None:
    files = Files(write_tree(tmp_path, {"/a": "1", "/b": "2"}), kept=1)
    before = len(os.listdir("/proc/self/fd"))
    assert (files.read("/a"), files.read("/b"), files.read("/a")) == (b"1", b"2", b"1")
    assert len(os.listdir("/proc/self/fd")) == before + 1
    files.close()


def test_automatic_choice_takes_what_there_is_and_says_what_is_missing() -> None:
    collectors, line = choose("auto")
    assert "proc" in [collector.name for collector in collectors]
    assert line.startswith("counters: proc")
    assert "\n" not in line
    assert choose("none") == ([], "counters: none, as asked")


def test_a_collector_that_was_named_and_is_not_there_is_an_error() -> None:
    with pytest.raises(CollectorError, match="collector pcm: nothing listens on http://127"):
        choose("proc,pcm", pcm_url="http://127.0.0.1:1")
    with pytest.raises(UsageError, match="did you mean 'proc'"):
        choose(["prok"])


def test_of_another_node_only_a_pcm_server_can_be_read() -> None:
    assert choose("auto", here=False)[0] == []
    with pytest.raises(CollectorError, match="the node is not this machine"):
        choose("proc", here=False)
