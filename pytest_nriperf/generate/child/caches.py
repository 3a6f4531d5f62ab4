"""How large a buffer has to be to leave the caches, and how large it may be. Standard library only."""

from __future__ import annotations

import contextlib
import os

from pytest_nriperf.errors import UsageError
from pytest_nriperf.units import parse_cpus

CPUS = "/sys/devices/system/cpu"
# What is taken for the last-level cache, shared by all, where the kernel does not tell.
UNKNOWN_CACHE = 32 << 20
# Files of a cgroup with its memory limit and what is used of it: version 2, version 1.
_LIMITS = (("", "memory.max", "memory.current"), ("/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"))


def cache_parts(cpus: list[int], beside: frozenset[int] = frozenset(), folder: str = CPUS) -> dict[int, int]:
    """CPU -> bytes of its part of the last-level cache: that cache over how many of these CPUs, and of those that read
    at the same time `beside` them, share it.

    One CPU alone has the whole cache to itself, and CPUs on caches of their own have one each.
    """
    reading = beside.union(cpus)
    parts: dict[int, int] = {}
    for cpu in cpus:
        if cpu not in parts:
            size, sharing = _last_level(f"{folder}/cpu{cpu}/cache")
            together = (sharing & reading) | {cpu} if size else reading
            parts.update(dict.fromkeys(together.intersection(cpus), (size or UNKNOWN_CACHE) // len(together)))
    return parts


def _last_level(folder: str) -> tuple[int, frozenset[int]]:
    """Size in bytes and CPUs of the highest cache; nothing where the kernel does not tell."""
    found: dict[int, tuple[int, frozenset[int]]] = {}
    with contextlib.suppress(OSError, ValueError, UsageError):
        for index in os.listdir(folder):
            if index.startswith("index"):
                level, size, cpus = (_text(f"{folder}/{index}/{name}") for name in ("level", "size", "shared_cpu_list"))
                found[int(level)] = (int(size.rstrip("K")) << 10, parse_cpus(cpus))
    return found[max(found)] if found else (0, frozenset())


def memory_left(root: str = "") -> int:
    """Bytes that can be taken before the kernel runs short of memory: on the machine, and in each cgroup with a limit
    that this process is in. Pages of files count as left."""
    left = [_numbers(f"{root}/proc/meminfo").get("MemAvailable:", 0) << 10]
    for line in _text(f"{root}/proc/self/cgroup").splitlines():
        path = line.rpartition(":")[2].rstrip("/")
        while True:
            for mount, limit, used in _LIMITS:
                folder = f"{root}/sys/fs/cgroup{mount}{path}"
                most, now = _text(f"{folder}/{limit}"), _text(f"{folder}/{used}")
                if most.isdecimal() and now.isdecimal():
                    files = _numbers(f"{folder}/memory.stat")
                    pages = files.get("inactive_file", 0) + files.get("active_file", 0)
                    left.append(int(most) - int(now) + pages)
            if not path:
                break
            path = path.rpartition("/")[0]
    return max(0, min(left))


def _numbers(path: str) -> dict[str, int]:
    """A file of lines `name number`."""
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""
