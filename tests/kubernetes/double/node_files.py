"""A node's /proc as files, for topologies that this machine does not have."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_nriperf.units import format_cpus

_SHARED = (
    *("uptime", "stat", "meminfo", "version", "vmstat", "cpuinfo", "cmdline", "loadavg", "sys/vm/swappiness"),
    *(f"sys/kernel/{name}" for name in ("osrelease", "version", "numa_balancing", "nmi_watchdog", "random/boot_id")),
)


def write_proc(root: Path, pids: list[int], cpus: frozenset[int], memory: tuple[int, ...]) -> None:
    """`root`/PID/... of real processes as they would look inside the container: its CPUs and memory nodes."""
    shown = {"Cpus_allowed_list:": format_cpus(cpus), "Mems_allowed_list:": format_cpus(memory)}
    for pid in pids:
        for task in _tasks(pid):
            folder = root / str(pid) / "task" / str(task)
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("status", "children"):
                _copy(Path(f"/proc/{pid}/task/{task}/{name}"), folder / name, shown)
        for name in ("status", "timens_offsets", "stat"):
            _copy(Path(f"/proc/{pid}/{name}"), root / str(pid) / name, shown)
    for name in _SHARED:
        _copy(Path("/proc") / name, root / name, {})
    # What a process of the container sees of itself.
    folder = root / "self/task" / str(pids[0])
    folder.mkdir(parents=True, exist_ok=True)
    _copy(Path(f"/proc/{pids[0]}/status"), folder / "status", shown)


def _tasks(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def _copy(source: Path, target: Path, shown: dict[str, str]) -> None:
    try:
        text = source.read_text(errors="replace")
    except OSError:
        return
    lines = [
        f"{word}\t{shown[word]}" if (word := line.partition("\t")[0]) in shown else line for line in text.splitlines()
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(lines) + "\n")
