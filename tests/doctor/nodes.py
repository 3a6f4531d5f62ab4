"""Nodes for the doctor: a quiet, well-set server, and what is changed on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_nriperf.doctor import Examined
from pytest_nriperf.topology import Topology, simulated_topology

CPU = "/sys/devices/system/cpu"
SHAPE = "sim:2s4c2t-snc2"


def _stat(ticks: str, cpus: int) -> str:
    return "".join(f"cpu{cpu} {ticks}\n" for cpu in range(cpus))


IDLE = _stat("100 0 50 100000 10 0 0 0 0 0", 16)


def good_files() -> dict[str, str]:
    """A server on which nothing spoils anything."""
    files = {
        "/proc/cpuinfo": "processor: 0\nflags\t\t: fpu avx512f\n",
        "/proc/stat": _stat("100 0 50 100200 10 0 0 0 0 0", 16),
        "/proc/loadavg": "0.05 0.10 0.20 1/300 4000\n",
        "/proc/self/cgroup": "0::/user.slice/user-0.slice/session-1.scope\n",
        "/proc/meminfo": "MemTotal: 8388608 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n",
        "/proc/sys/kernel/numa_balancing": "0\n",
        "/proc/sys/kernel/nmi_watchdog": "0\n",
        "/proc/sys/vm/zone_reclaim_mode": "0\n",
        "/sys/kernel/mm/ksm/run": "0\n",
        "/sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
        "/sys/kernel/mm/transparent_hugepage/defrag": "always defer defer+madvise [madvise] never\n",
        f"{CPU}/intel_pstate/no_turbo": "1\n",
        f"{CPU}/smt/control": "on\n",
        "/sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
        "/sys/devices/system/clocksource/clocksource0/available_clocksource": "tsc hpet acpi_pm\n",
    }
    for cpu in range(16):
        files |= {
            f"{CPU}/cpu{cpu}/cpufreq/scaling_governor": "performance\n",
            f"{CPU}/cpu{cpu}/cpufreq/scaling_driver": "intel_pstate\n",
            f"{CPU}/cpu{cpu}/cpufreq/energy_performance_preference": "performance\n",
            f"{CPU}/cpu{cpu}/cpufreq/scaling_max_freq": "3800000\n",
            f"{CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq": "3800000\n",
            f"{CPU}/cpu{cpu}/thermal_throttle/package_throttle_count": "0\n",
        }
    for node in range(4):
        files[f"/sys/devices/system/node/node{node}/meminfo"] = (
            f"Node {node} MemTotal: 2097152 kB\nNode {node} MemFree: 1900000 kB\n"
        )
    return files


def examined(changes: Mapping[str, str | None] | None = None, **more: Any) -> Examined:
    """The good node with files changed (None: absent) and other arguments of `Examined`."""
    files = good_files()
    for path, content in (changes or {}).items():
        if content is None:
            files.pop(path)
        else:
            files[path] = content
    topology: Topology = more.pop("topology", None) or simulated_topology(SHAPE)
    facts = {"numactl": "/usr/bin/numactl", "bind_memory": "", "cpuset": "cgroup v2 cpuset", "lock": ""}
    return Examined(
        read=lambda path: files[path].encode() if path in files else None,
        topology=topology,
        allowed=more.pop("allowed", topology.online),
        earlier=more.pop("earlier", {"/proc/stat": IDLE.encode()}),
        seconds=more.pop("seconds", 2.0),
        facts=more.pop("facts", facts),
    )
