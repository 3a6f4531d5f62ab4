"""What the kernel counts for the whole machine, its CPUs, NUMA nodes and cgroups."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

from pytest_nriperf.collect.cgroups import limits_of
from pytest_nriperf.collect.procfs import (
    ALL,
    parse_cpu_ticks,
    parse_numbers,
    parse_pressure,
)
from pytest_nriperf.collect.reading import Files, why
from pytest_nriperf.errors import CollectorError
from pytest_nriperf.seams import CounterRow, Target

SOURCE = "proc"
Clock = Callable[[], int]
Reading = Callable[[], Iterator[CounterRow]]

NODES = "/sys/devices/system/node"
# What of /proc/vmstat tells of pages that moved, were missing or were scarce during a run.
VMSTAT = frozenset(
    (
        "pgmajfault",
        "pgmigrate_success",
        "numa_pte_updates",
        "numa_hint_faults",
        "numa_hint_faults_local",
        "numa_pages_migrated",
        "thp_fault_alloc",
        "thp_fault_fallback",
        "thp_collapse_alloc",
        "compact_stall",
        "pswpin",
        "pswpout",
        "pgscan_direct",
    )
)
NUMASTAT = frozenset(("numa_hit", "numa_miss", "numa_foreign", "local_node", "other_node"))
# cpu.stat key (v2 in microseconds, v1 in nanoseconds) -> our name, unit, factor.
CPU_STAT = {
    "nr_periods": ("throttle_periods", "", 1),
    "nr_throttled": ("throttled_periods", "", 1),
    "throttled_usec": ("throttled_time", "ns", 1000),
    "throttled_time": ("throttled_time", "ns", 1),
}
# A frequency that takes longer to read than this, so many times in a row, asks the CPU itself, and disturbs it. Once is
# chance: the thread that reads was held up.
SLOW_FREQUENCY_NS = 500_000
SLOW_FREQUENCIES = 3


class MachineWatch:
    """The readings that this machine offers, each dropped with a note when it fails."""

    def __init__(self, files: Files, target: Target, clock: Clock, notes: list[str]) -> None:
        self._files = files
        self._target = target
        self._clock = clock
        self._notes = notes
        self._nodes = [int(name[4:]) for name in files.names(NODES) if re.fullmatch(r"node\d+", name)]
        self._tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        self._replica_of = {cpu: each.replica for each in target.replicas for cpu in each.allocated}
        self._visible = sorted(cpu for each in target.replicas for cpu in each.visible)
        self._throttles = self._throttle_files()
        self._slow_frequencies = 0
        self._readings: dict[str, Reading] = {
            "busy and stolen CPU time": self._cpu_times,
            "virtual memory counts": self._vmstat,
            "NUMA allocation counts": self._numastat,
            "CPU pressure": lambda: self._pressure("cpu"),
            "memory pressure": lambda: self._pressure("memory"),
            "I/O pressure": lambda: self._pressure("io"),
            "CPU frequency": self._frequency,
        }
        for replica, groups in self._limits().items():
            self._readings[f"throttling of {', '.join(groups)}"] = self._throttling(groups, replica)

    def sample(self) -> Iterator[CounterRow]:
        """Every reading once. What the machine does not have is left out in silence: `probe` has said so."""
        for what, reading in list(self._readings.items()):
            try:
                yield from list(reading())
            except FileNotFoundError:
                del self._readings[what]
            except (OSError, CollectorError) as error:
                del self._readings[what]
                self._notes.append(f"no {what} ({why(error)})")

    def throttles(self) -> Iterator[CounterRow]:
        """Thermal throttle counts since boot: cores of the visible CPUs, and each package once."""
        now = self._clock()
        for path, (name, cpu, socket) in self._throttles.items():
            text = self._files.text(path)
            if text.isdigit():
                yield CounterRow(now, now, SOURCE, name, "cumulative", int(text), "", cpu=cpu, socket=socket)

    def _row(self, now: int, name: str, value: int, unit: str, kind: str = "cumulative") -> CounterRow:
        return CounterRow(now, now, SOURCE, name, kind, value, unit)

    def _cpu_times(self) -> Iterator[CounterRow]:
        ticks = parse_cpu_ticks(self._files.read("/proc/stat"))
        now = self._clock()
        whole = ticks[ALL]
        for name, count in (("busy", whole.busy), ("steal", whole.steal), ("idle", whole.idle)):
            yield self._row(now, f"machine_{name}_time", count * self._tick_ns, "ns")
        for cpu, replica in self._replica_of.items():
            if cpu in ticks:
                for name, count in (("busy", ticks[cpu].busy), ("steal", ticks[cpu].steal)):
                    row = self._row(now, f"cpu_{name}_time", count * self._tick_ns, "ns")
                    yield row._replace(cpu=cpu, replica=replica, socket=self._target.socket_of_cpu.get(cpu))

    def _vmstat(self) -> Iterator[CounterRow]:
        numbers = parse_numbers(self._files.read("/proc/vmstat"), "vmstat", VMSTAT)
        now = self._clock()
        for name, number in numbers.items():
            yield self._row(now, name, number, "")

    def _numastat(self) -> Iterator[CounterRow]:
        if not self._nodes:
            raise CollectorError(f"{NODES} has no nodes")
        for node in self._nodes:
            numbers = parse_numbers(self._files.read(f"{NODES}/node{node}/numastat"), "numastat", NUMASTAT)
            now = self._clock()
            for name, number in numbers.items():
                yield self._row(now, name, number, "")._replace(node=node)

    def _pressure(self, what: str) -> Iterator[CounterRow]:
        stalled = parse_pressure(self._files.read(f"/proc/pressure/{what}"))
        now = self._clock()
        yield self._row(now, f"{what}_pressure", stalled["some"] * 1000, "ns")

    def _frequency(self) -> Iterator[CounterRow]:
        """The kernel's recent average clock of each visible CPU."""
        for cpu in self._visible:
            begin = self._clock()
            text = self._files.read(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq").strip()
            now = self._clock()
            took = now - begin
            self._slow_frequencies = self._slow_frequencies + 1 if took > SLOW_FREQUENCY_NS else 0
            if self._slow_frequencies >= SLOW_FREQUENCIES:
                many = f"{SLOW_FREQUENCIES} readings in a row took long, the last one {took / 1e6:.1f} ms"
                raise CollectorError(f"{many}: that disturbs the CPUs")
            if text.isdigit():
                row = self._row(now, "cpu_frequency", int(text) * 1000, "Hz", "gauge")
                yield row._replace(cpu=cpu, replica=self._replica_of.get(cpu))

    def _throttle_files(self) -> dict[str, tuple[str, int | None, int | None]]:
        """Counter file -> name, CPU (of a core's counter), socket (of a package's, once a package)."""
        result: dict[str, tuple[str, int | None, int | None]] = {}
        packages = set()
        for cpu in self._visible:
            folder = f"/sys/devices/system/cpu/cpu{cpu}/thermal_throttle"
            if not self._files.exists(folder):
                continue
            result[f"{folder}/core_throttle_count"] = ("core_throttles", cpu, None)
            socket = self._target.socket_of_cpu.get(cpu, 0)
            if socket not in packages:
                packages.add(socket)
                result[f"{folder}/package_throttle_count"] = ("package_throttles", None, socket)
        return result

    def _limits(self) -> dict[int | None, list[str]]:
        """Replica -> the cgroups that hold it back, None for those that several replicas share."""
        holds: dict[str, int | None] = {}
        for each in self._target.replicas:
            groups = limits_of(self._files, each.pid)
            for group in groups:
                holds[group] = None if group in holds else each.replica
            if not groups and ":/.." in self._files.text(f"/proc/{each.pid}/cgroup"):
                text = f"replica {each.replica}: no throttling counts (its container's cgroup may not be seen)"
                self._notes.append(text)
        return {owner: [group for group in holds if holds[group] == owner] for owner in set(holds.values())}

    def _throttling(self, groups: list[str], replica: int | None) -> Reading:
        """Sums over the groups: each counts what its own quota refused."""

        def reading() -> Iterator[CounterRow]:
            sums: dict[tuple[str, str], int] = {}
            for group in groups:
                numbers = parse_numbers(self._files.read(f"{group}/cpu.stat"), "cpu.stat")
                for key, (name, unit, factor) in CPU_STAT.items():
                    if key in numbers:
                        sums[name, unit] = sums.get((name, unit), 0) + numbers[key] * factor
            now = self._clock()
            for (name, unit), total in sums.items():
                yield self._row(now, name, total, unit)._replace(replica=replica)

        return reading
