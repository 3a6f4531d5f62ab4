"""A node's files as a pod of it reads them: what never changes within a boot is kept, the rest read once a session."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytest_nriperf.atomic import replaced
from pytest_nriperf.errors import ProvisionError
from pytest_nriperf.topology import FILES, Topology, read_topology_from

Json = dict[str, Any]
Files = dict[str, str]

ONLINE = "/sys/devices/system/cpu/online"
# What describes the node's treatment and state: read anew for each session.
FRESH_SYS = (
    ONLINE.removeprefix("/sys/"),
    "class/dmi/id/bios_version",
    "class/dmi/id/bios_date",
    "class/dmi/id/product_name",
    "devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor",
    "devices/system/cpu/cpu[0-9]*/cpufreq/scaling_driver",
    "devices/system/cpu/cpu[0-9]*/cpufreq/scaling_m[ai][xn]_freq",
    "devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq",
    "devices/system/cpu/cpu[0-9]*/cpufreq/base_frequency",
    "devices/system/cpu/cpu[0-9]*/cpufreq/energy_performance_preference",
    "devices/system/cpu/intel_pstate/*",
    "devices/system/cpu/cpufreq/boost",
    "devices/system/cpu/smt/*",
    "devices/system/cpu/vulnerabilities/*",
    "devices/system/cpu/cpuidle/*",
    "devices/system/cpu/cpu0/cpuidle/state[0-9]*/*",
    "devices/system/clocksource/clocksource0/current_clocksource",
    "kernel/mm/transparent_hugepage/enabled",
    "kernel/mm/transparent_hugepage/defrag",
    "kernel/mm/ksm/run",
)
FRESH_PROC = (
    "cpuinfo",
    "meminfo",
    "cmdline",
    "version",
    "vmstat",
    "loadavg",
    "swaps",
    "pressure/*",
    "sys/kernel/osrelease",
    "sys/kernel/version",
    "sys/kernel/numa_balancing",
    "sys/kernel/nmi_watchdog",
    "sys/kernel/randomize_va_space",
    "sys/kernel/perf_event_paranoid",
    "sys/kernel/sched_*",
    "sys/vm/zone_reclaim_mode",
    "sys/vm/swappiness",
)


def topology_words() -> list[str]:
    """The arguments of `show` that read a topology."""
    return ["/sys", *(pattern.removeprefix("/sys/") for pattern in FILES)]


def fresh_words() -> list[str]:
    """The arguments of `show` that read treatment and state."""
    return ["/sys", *FRESH_SYS, "--", "/proc", *FRESH_PROC]


def files_of(answer: bytes, roots: tuple[str, ...], node: str) -> Files:
    """Absolute path -> content from an answer of `show`. Refuses a pod whose monotonic clock is not the node's."""
    document = json.loads(answer)
    for line in str(document["timens_offsets"]).splitlines():
        name, seconds, nanoseconds = line.split()
        if name in ("monotonic", "1") and (int(seconds), int(nanoseconds)) != (0, 0):
            raise ProvisionError(
                f"pods on node {node} run in a time namespace of their own (monotonic clock off by {seconds} s): their "
                "stamps would join with nothing",
                "use a runtime class that shares the node's clock",
            )
    return {
        f"{root}/{path}": text
        for root, group in zip(roots, document["groups"], strict=True)
        for path, text in group.items()
    }


class TopologyCache:
    """Topology files by the node's uid and boot (another boot may have another SNC mode), and by what is read. One file
    a node; a node that does not tell its boot is read each time."""

    def __init__(self, folder: Path | None = None) -> None:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        self.folder = folder or Path(base) / "pytest-nriperf/nodes"

    def find(self, node: Json) -> Files | None:
        """The files of a node (its API object), None when they were never read in this boot."""
        try:
            files: Files = json.loads(gzip.decompress(self.path(node).read_bytes()))
        except (OSError, ValueError, EOFError, zlib.error):
            return None
        return files if _boot(node) else None

    def store(self, node: Json, files: Mapping[str, str]) -> None:
        """Keep what was read. A cache that cannot be written is no cache, and no error."""
        path = self.path(node)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replaced(path) as temporary:
                temporary.write_bytes(gzip.compress(json.dumps(dict(files)).encode()))
            for old in path.parent.glob(f"{node['metadata']['uid']}-*"):
                if old != path:
                    old.unlink(missing_ok=True)

    def check(self, node: Json, known: Mapping[str, str], fresh: Mapping[str, str]) -> None:
        """Forgets the files of a node, and raises ProvisionError, when its CPUs are others now."""
        then, now = (files.get(ONLINE, "").strip() for files in (known, fresh))
        if now == then:
            return
        self.path(node).unlink(missing_ok=True)
        raise ProvisionError(
            f"node {node['metadata']['name']}: CPUs {now} are online, {then} were when its topology was read",
            "start again: it will be read anew; or bring them back (echo 1 > /sys/devices/system/cpu/cpuN/online)",
        )

    def path(self, node: Json) -> Path:
        """Where they are kept. A version that reads other files does not take these."""
        wanted = hashlib.sha256(" ".join(topology_words()).encode()).hexdigest()[:8]
        return self.folder / f"{node['metadata']['uid']}-{_boot(node)}-{wanted}.json.gz"


def _boot(node: Json) -> str:
    return str(((node.get("status") or {}).get("nodeInfo") or {}).get("bootID", ""))


def topology_of(files: Mapping[str, str], node: str) -> Topology:
    """The topology that files describe."""
    return read_topology_from(reader(files), name=node)


def reader(files: Mapping[str, str]) -> Callable[[str], bytes | None]:
    """Files as the readers of topology and fingerprint want them."""

    def read(path: str) -> bytes | None:
        text = files.get(path)
        return None if text is None else text.encode("latin-1")

    return read
