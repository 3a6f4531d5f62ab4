"""What the kernel counts per task of the measured processes: waiting, switches, migrations, faults; where pages lie.

Sums over a replica's tasks are readings of every sample; a task that ends keeps its last value in the sum, so the
sum never falls. Each task's own waiting time is read before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pytest_nriperf.collect.procfs import (
    parse_numa_maps,
    parse_sched,
    parse_schedstat,
    parse_stat,
    parse_switches,
)
from pytest_nriperf.collect.reading import Files, why
from pytest_nriperf.errors import CollectorError
from pytest_nriperf.seams import CounterRow, TargetReplica

SOURCE = "proc"
Clock = Callable[[], int]

SWITCHES = (("voluntary_switches", ""), ("involuntary_switches", ""))
# File of a task -> its parser, and the name and unit of each number that the parser gives. `status` takes twice as long
# to read as `sched`, and is for kernels without it.
GROUPS: dict[str, tuple[Callable[[bytes], tuple[int, ...]], tuple[tuple[str, str], ...]]] = {
    "schedstat": (parse_schedstat, (("on_cpu_time", "ns"), ("run_queue_wait", "ns"), ("time_slices", ""))),
    "sched": (parse_sched, (*SWITCHES, ("migrations", ""))),
    "status": (parse_switches, SWITCHES),
}


class TaskWatch:
    """All tasks of one replica's process, new ones included. `notes` receives what could not be read."""

    def __init__(self, files: Files, replica: TargetReplica, clock: Clock, notes: list[str]) -> None:
        self._files = files
        self._replica = replica
        self._clock = clock
        self._notes = notes
        self._process = f"/proc/{replica.pid}"
        self._seen: dict[str, dict[str, tuple[int, ...]]] = {name: {} for name in self._groups()}
        self._alive: list[str] = []
        self._gone = False
        self._began = self._start_ticks()
        if self._began is None:
            self._end("is not there")

    def sample(self) -> Iterator[CounterRow]:
        """Sums over the tasks, and the process's faults; nothing once the process has ended."""
        if self._gone:
            return
        if self._start_ticks() != self._began:
            self._end("ended during the run")
            return
        names = self._files.names(f"{self._process}/task")
        for name in set(self._alive).difference(names):
            for group in GROUPS:
                self._files.forget(f"{self._process}/task/{name}/{group}")
        self._alive = names
        for group in list(self._seen):
            for name in names:
                self._read(group, name)
        now = self._clock()
        for group, tasks in self._seen.items():
            sums = [sum(column) for column in zip(*tasks.values())]  # noqa: B905 - Python 3.9
            for (metric, unit), value in zip(GROUPS[group][1], sums):  # noqa: B905 - Python 3.9
                yield self._row(now, metric, value, unit)
        yield from self._faults()

    def each_task(self) -> Iterator[CounterRow]:
        """The times of each living task as of the last sample; `pid` is the task's number."""
        now = self._clock()
        for name in self._alive:
            times = self._seen.get("schedstat", {}).get(name)
            if times is not None:
                yield self._row(now, "task_on_cpu_time", times[0], "ns", int(name))
                yield self._row(now, "task_run_queue_wait", times[1], "ns", int(name))

    def _read(self, group: str, name: str) -> None:
        """One file of one task; a file that this kernel or container does not show is noted and left out."""
        if group not in self._seen:
            return
        path = f"{self._process}/task/{name}/{group}"
        try:
            self._seen[group][name] = GROUPS[group][0](self._files.read(path))
        except (OSError, CollectorError) as error:
            if not isinstance(error, ProcessLookupError) and self._files.exists(f"{self._process}/task/{name}/stat"):
                del self._seen[group]
                self._notes.append(f"no {', '.join(metric for metric, _ in GROUPS[group][1])} ({why(error)})")

    def _groups(self) -> tuple[str, str]:
        """The files that this kernel has for each task."""
        try:
            parse_sched(self._files.read_once(f"{self._process}/sched"))
        except (OSError, CollectorError) as error:
            if not isinstance(error, ProcessLookupError) and self._files.exists(f"{self._process}/stat"):
                self._notes.append(f"no migrations ({why(error)})")
            return "schedstat", "status"
        return "schedstat", "sched"

    def _faults(self) -> Iterator[CounterRow]:
        now = self._clock()
        try:
            stat = parse_stat(self._files.read(f"{self._process}/stat"))
        except (OSError, CollectorError):
            return
        yield self._row(now, "minor_faults", stat.minor_faults, "")
        yield self._row(now, "major_faults", stat.major_faults, "")

    def _start_ticks(self) -> int | None:
        try:
            return parse_stat(self._files.read(f"{self._process}/stat")).start_ticks
        except (OSError, CollectorError):
            return None

    def _end(self, how: str) -> None:
        self._gone = True
        self._notes.append(f"replica {self._replica.replica}: process {self._replica.pid} {how}")

    def _row(self, now: int, name: str, value: int, unit: str, task: int | None = None) -> CounterRow:
        pid = self._replica.pid if task is None else task
        return CounterRow(now, now, SOURCE, name, "cumulative", value, unit, replica=self._replica.replica, pid=pid)


def page_placement(
    files: Files, replica: TargetReplica, home: frozenset[int], clock: Clock, notes: list[str]
) -> Iterator[CounterRow]:
    """Where the process's pages lie: bytes per NUMA node, and what of the data is local and remote to `home`.

    Walks the page tables, about 10 ms a GiB of small pages, and holds the process's mmap lock meanwhile: only
    before and after a run. `t_ns` and `read_ns` are the walk's begin and end.
    """
    begin = clock()
    try:
        nodes = parse_numa_maps(files.read_once(f"/proc/{replica.pid}/numa_maps"))
    except (OSError, CollectorError) as error:
        notes.append(f"no place of pages ({why(error)})")
        return
    end = clock()

    def row(name: str, value: int, node: int | None = None) -> CounterRow:
        where = {"replica": replica.replica, "pid": replica.pid, "node": node}
        return CounterRow(begin, end, SOURCE, name, "gauge", value, "B", **where)

    sizes = {node: memory.data for node, memory in nodes.items()}
    for node, memory in sorted(nodes.items()):
        yield row("anonymous_memory", memory.anonymous, node)
        yield row("file_memory", memory.file, node)
        yield row("code_memory", memory.code, node)
    if home:
        yield row("local_memory", sum(size for node, size in sizes.items() if node in home))
        yield row("remote_memory", sum(size for node, size in sizes.items() if node not in home))
