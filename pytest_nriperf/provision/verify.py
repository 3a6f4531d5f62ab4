"""What the kernel says of a worker, task by task and page by page, against what was granted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_nriperf.errors import NotHonouredError, WorkerError
from pytest_nriperf.units import format_bytes, format_cpus, parse_cpus

# Anonymous memory elsewhere that is not worth an error: the kernel's own batching, pages of the interpreter's start.
_TOLERATED_BYTES = 1 << 20


def descendants(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """`pid` and all processes that it or its children started and that still run."""
    found = [pid]
    for parent in found:
        for task in _entries(proc / str(parent) / "task"):
            with contextlib.suppress(OSError):
                found.extend(map(int, (task / "children").read_text().split()))
    return found


def task_cpus(pid: int, proc: Path = Path("/proc")) -> dict[int, frozenset[int]]:
    """CPUs that each task of the process may run on. Tasks that end meanwhile are left out."""
    found: dict[int, frozenset[int]] = {}
    for task in _entries(proc / str(pid) / "task"):
        with contextlib.suppress(OSError):
            for line in (task / "status").read_text().splitlines():
                if line.startswith("Cpus_allowed_list:"):
                    found[int(task.name)] = parse_cpus(line.split(":", 1)[1])
    return found


def anonymous_bytes_by_node(text: str) -> dict[int, int]:
    """Bytes of anonymous memory on each NUMA node, from /proc/PID/numa_maps.

    File pages are left out: the page cache lies where its first reader put it. A private file mapping counts with
    the share of its pages that are anonymous copies, which numa_maps does not split by node, so it counts whole
    only when all its pages are anonymous.

    >>> anonymous_bytes_by_node("7f00 bind:1 anon=3 dirty=3 N0=1 N1=2 kernelpagesize_kB=4")
    {0: 4096, 1: 8192}
    """
    found: dict[int, int] = {}
    for line in text.splitlines():
        words = dict(word.split("=", 1) for word in line.split()[2:] if "=" in word)
        nodes = {int(key[1:]): int(value) for key, value in words.items() if key[0] == "N" and key[1:].isdigit()}
        if "file" in words and int(words.get("anon", 0)) < sum(nodes.values()):
            continue
        page = int(words.get("kernelpagesize_kB", 4)) * 1024
        for node, pages in nodes.items():
            found[node] = found.get(node, 0) + pages * page
    return dict(sorted(found.items()))


def verify_tasks(
    pid: int, *, replica: int, cpus: frozenset[int], memory_nodes: frozenset[int] | None, proc: Path = Path("/proc")
) -> Mapping[str, Any]:
    """Facts of the process and all that it started; NotHonouredError names the first that differs from the grant,
    WorkerError says that the process is gone.

    `memory_nodes` None means that memory is not bound, so where it lies is recorded and not judged.
    """
    tasks: dict[int, frozenset[int]] = {}
    memory: dict[int, int] = {}
    for process in descendants(pid, proc):
        tasks |= task_cpus(process, proc)
        with contextlib.suppress(OSError):
            for node, size in anonymous_bytes_by_node((proc / str(process) / "numa_maps").read_text()).items():
                memory[node] = memory.get(node, 0) + size
    if not tasks:
        raise WorkerError(f"replica {replica}: process {pid} is gone before it could be verified")
    for task, allowed in sorted(tasks.items()):
        if allowed != cpus:
            raise NotHonouredError(
                f"replica {replica}: task {task} of process {pid} may run on CPUs {format_cpus(allowed)}, "
                f"granted were {format_cpus(cpus)}",
                "the engine changes its own affinity, or CPUs were taken offline: switch its pinning off "
                "(for OpenMP: unset OMP_PROC_BIND, GOMP_CPU_AFFINITY, KMP_AFFINITY)",
            )
    strange = {node: size for node, size in memory.items() if memory_nodes is not None and node not in memory_nodes}
    if sum(strange.values()) > _TOLERATED_BYTES:
        where = ", ".join(f"{format_bytes(size)} on NUMA node {node}" for node, size in strange.items())
        raise NotHonouredError(
            f"replica {replica}: process {pid} holds {where}, bound to {format_cpus(memory_nodes or ())}",
            "memory was touched before it was bound or moved afterwards (numa_balancing?); see `nriperf doctor`",
        )
    return {"tasks": len(tasks), "cpus": format_cpus(cpus), "anonymous_bytes_by_node": memory}


def verify_online(replica: int, cpus: frozenset[int], read: Callable[[str], bytes | None]) -> None:
    """NotHonouredError when granted CPUs are offline now; the kernel runs their tasks anywhere else, in silence."""
    online = read("/sys/devices/system/cpu/online")
    gone = cpus - parse_cpus(online.decode()) if online else frozenset()
    if gone:
        raise NotHonouredError(
            f"replica {replica}: CPUs {format_cpus(gone)} of the granted {format_cpus(cpus)} are offline",
            "somebody took them offline after the balloon was made: "
            f"echo 1 > /sys/devices/system/cpu/cpu{min(gone)}/online, and measure again",
        )


def verify_group(replica: int, cpus: frozenset[int], effective: frozenset[int]) -> None:
    """NotHonouredError when the replica's cgroup has other CPUs than it was given."""
    if effective != cpus:
        raise NotHonouredError(
            f"replica {replica}: its cgroup may use CPUs {format_cpus(effective) or 'none'}, "
            f"granted were {format_cpus(cpus)}",
            "somebody changed cpuset.cpus of the cgroup or of one above it (a container runtime, systemd, tuned?)",
        )


def _entries(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from sorted(folder.iterdir())
