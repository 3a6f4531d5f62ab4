"""The `proc` collector: what every Linux kernel counts, whatever the hardware."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from pytest_nriperf.collect.machine import MachineWatch
from pytest_nriperf.collect.reading import Files
from pytest_nriperf.collect.tasks import Clock, TaskWatch, page_placement
from pytest_nriperf.seams import Availability, CounterRow, Target

# File or folder -> what cannot be told without it.
NEEDED = {
    "/proc/self/schedstat": "run-queue wait",
    "/proc/self/numa_maps": "place of pages",
    "/proc/pressure": "pressure",
    "/sys/devices/system/cpu/cpu0/cpufreq": "CPU frequency",
    "/sys/devices/system/cpu/cpu0/thermal_throttle": "thermal throttling",
}


class ProcCollector:
    """Run-queue wait, switches, migrations, faults, place of pages, throttling, steal, pressure, NUMA counts."""

    name = "proc"

    def __init__(self, root: str = "", clock: Clock = time.perf_counter_ns) -> None:
        self.notes: list[str] = []
        self._files = Files(root)
        self._clock = clock
        self._target = Target(())
        self._tasks: list[TaskWatch] = []
        self._machine: MachineWatch | None = None

    def probe(self) -> Availability:
        """Whether /proc is there; what this kernel leaves out."""
        if not self._files.exists("/proc/stat"):
            return Availability(False, missing=("/proc/stat does not exist",))
        missing = tuple(
            f"{what} (no {Path(path).name})" for path, what in NEEDED.items() if not self._files.exists(path)
        )
        return Availability(True, gives=("scheduling", "faults", "throttling", "steal", "NUMA counts"), missing=missing)

    def start(self, target: Target) -> Iterable[CounterRow]:
        """Open everything for the target; the first sample, and where the pages lie before the run."""
        self.notes = []
        self._target = target
        self._tasks = [
            TaskWatch(self._files, each, self._clock, self.notes) for each in target.replicas if each.pid is not None
        ]
        self._machine = MachineWatch(self._files, target, self._clock, self.notes)
        return [*self._around(), *self.sample(), *self._each_task()]

    def sample(self) -> Iterable[CounterRow]:
        """One reading of everything that is cheap."""
        rows = [row for watch in self._tasks for row in watch.sample()]
        if self._machine is not None:
            rows.extend(self._machine.sample())
        return rows

    def stop(self) -> Iterable[CounterRow]:
        """The last sample, where the pages lie after the run; closes every file."""
        if self._machine is None:
            return []
        try:
            return [*self.sample(), *self._each_task(), *self._around()]
        finally:
            self._machine = None
            self._tasks = []
            self._files.close()

    def _each_task(self) -> Iterable[CounterRow]:
        return [row for watch in self._tasks for row in watch.each_task()]

    def _around(self) -> Iterable[CounterRow]:
        """What is read before and after a run only."""
        rows = list(self._machine.throttles()) if self._machine is not None else []
        nodes = self._target.node_of_cpu
        for each in self._target.replicas:
            if each.pid is not None:
                home = frozenset(nodes[cpu] for cpu in each.visible if cpu in nodes)
                rows.extend(page_placement(self._files, each, home, self._clock, self.notes))
        return rows
