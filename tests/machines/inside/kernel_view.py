"""What the guest's kernel says of processes and CPUs, read here without any code of ours."""

from __future__ import annotations

import os
import re
from pathlib import Path

_CPU = Path("/sys/devices/system/cpu")
_NODE = Path("/sys/devices/system/node")
# Pages of a huge one.
HUGE_PAGES = 512
# How long a process may take to start or end, seconds: 128 emulated CPUs on two that are busy otherwise.
PATIENCE_S = 600.0


def numbers(text: str) -> frozenset[int]:
    """A kernel list such as 0-3,8."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def online() -> frozenset[int]:
    return numbers((_CPU / "online").read_text())


def siblings(cpu: int) -> frozenset[int]:
    return numbers((_CPU / f"cpu{cpu}/topology/thread_siblings_list").read_text())


def socket(cpu: int) -> int:
    return int((_CPU / f"cpu{cpu}/topology/physical_package_id").read_text())


def nodes() -> dict[int, frozenset[int]]:
    """NUMA node -> its CPUs, empty for those with memory alone."""
    return {int(folder.name[4:]): numbers((folder / "cpulist").read_text()) for folder in _NODE.glob("node[0-9]*")}


def nodes_of(cpus: frozenset[int]) -> frozenset[int]:
    return frozenset(node for node, members in nodes().items() if members & cpus)


def allowed(pid: int) -> list[frozenset[int]]:
    """CPUs that each task of a process may use."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        status = (task / "status").read_text()
        found.append(numbers(re.findall(r"Cpus_allowed_list:\s*(\S*)", status)[0]))
    return found


def cgroup_folder(pid: int) -> Path:
    return Path("/sys/fs/cgroup") / Path(f"/proc/{pid}/cgroup").read_text().strip().rpartition("::/")[2]


def cgroup_cpus(pid: int) -> frozenset[int]:
    return numbers((cgroup_folder(pid) / "cpuset.cpus.effective").read_text())


def groups_of_ours() -> list[str]:
    return sorted(path.name for path in Path("/sys/fs/cgroup").glob("nriperf-*"))


def largest_mapping(pid: int) -> tuple[str, dict[int, int]]:
    """Policy and pages by node of the anonymous mapping with most pages."""
    best: tuple[str, dict[int, int]] = ("", {})
    for line in Path(f"/proc/{pid}/numa_maps").read_text().splitlines():
        pages = {int(node): int(count) for node, count in re.findall(r" N(\d+)=(\d+)", line)}
        if " file=" not in line and sum(pages.values()) > sum(best[1].values()):
            best = (line.split()[1], pages)
    return best


def has_memory() -> frozenset[int]:
    return numbers((_NODE / "has_memory").read_text())


def state(pid: int) -> str:
    """The letter of a process's state, empty when it is not there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    return state(pid) not in ("", "Z")


def is_root() -> bool:
    return os.geteuid() == 0
