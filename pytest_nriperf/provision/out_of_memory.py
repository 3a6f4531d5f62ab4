"""Whether the kernel ended a process for lack of memory: told by its counters before and after, not by signal 9 alone.

The kernel counts such kills for the whole machine (`oom_kill` in /proc/vmstat) and for each memory cgroup (`oom_kill`
in memory.events of version 2, memory.oom_control of version 1). Which limit was reached is told by the group whose own
count of failed charges has grown (`oom` in memory.events.local; memory.failcnt). Without one the machine was full, or
the NUMA nodes that the process was bound to.

Source: the kernel's documentation, admin-guide/cgroup-v2.rst and admin-guide/cgroup-v1/memory.rst.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_nriperf.units import format_bytes

# Version 1 says "no limit" with the largest number of whole pages.
_NO_LIMIT = 1 << 60
# Kernel: from 0, "like any other", to 1000, "always first".
_FIRST_TO_GO = 500
NO_GROUP = "no cgroup limit was reached: the machine, or the NUMA nodes that memory is bound to, ran full"
NO_KILL_COUNTED = (
    "killed by SIGKILL, and the kernel counts no kill for lack of memory: somebody sent it "
    "(a person, a time limit, systemd-oomd, earlyoom)"
)


@dataclass(frozen=True)
class MemoryGroup:
    """A memory cgroup now: kills of processes in it, how often its own limit (bytes, None without one) was reached."""

    folder: Path
    limit: int | None
    kills: int
    reached: int


class OutOfMemoryWatch:
    """The counters when a process starts; `verdict` compares them with those after it was killed.

    `group` is the version 2 cgroup that the process will be in, when it is not our own.
    """

    def __init__(self, group: Path | None = None, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._start = next((start for start in _starts(group, proc) if _groups_above(start)), None)
        self._groups = _groups_above(self._start) if self._start else []
        self._machine = _machine_kills(proc)

    def verdict(self) -> str:
        """What the counters say of a process that was ended by SIGKILL; without any counter nothing."""
        machine = _machine_kills(self._proc)
        if self._groups and self._start is not None:
            before = {group.folder: group for group in self._groups}
            now = _groups_above(self._start)
            if any(group.kills > before[group.folder].kills for group in now[:1] if group.folder in before):
                return f"killed by the kernel: out of memory ({_reached(now, before)})"
            if not now:
                return ""
        elif machine is None or self._machine is None:
            return ""
        elif machine > self._machine:
            return (
                "killed by SIGKILL, most likely by the kernel, which ended a process meanwhile: out of memory "
                f"({NO_GROUP})"
            )
        return NO_KILL_COUNTED


def kill_first(pid: int, proc: Path = Path("/proc")) -> None:
    """When memory runs out, let the kernel end this process before the one that measures and can tell."""
    file = proc / str(pid) / "oom_score_adj"
    with contextlib.suppress(OSError, ValueError):
        if int(file.read_text()) < _FIRST_TO_GO:
            file.write_text(str(_FIRST_TO_GO))


def _reached(now: Sequence[MemoryGroup], before: Mapping[Path, MemoryGroup]) -> str:
    for group in now:
        if group.limit is not None and group.folder in before and group.reached > before[group.folder].reached:
            return f"the limit of {format_bytes(group.limit)} of the cgroup {group.folder} was reached"
    return NO_GROUP


def _starts(group: Path | None, proc: Path) -> list[Path]:
    """Folders of the group of a process in the hierarchies that may have the memory controller."""
    found = [group] if group is not None else []
    mounts = []
    with contextlib.suppress(OSError):
        mounts = (proc / "self/mountinfo").read_text().splitlines()
    with contextlib.suppress(OSError):
        for line in (proc / "self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "" or "memory" in controllers.split(","):
                found += _folders(mounts, controllers, path)
    return found


def _folders(mounts: Sequence[str], controllers: str, path: str) -> list[Path]:
    found = []
    for line in mounts:
        before, _, after = line.partition(" - ")
        root, point = before.split()[3:5]
        kind, options = after.split()[0], after.split()[-1].split(",")
        if (kind == "cgroup2") if controllers == "" else (kind == "cgroup" and "memory" in options):
            below = path[len(root) :] if root != "/" and f"{path}/".startswith(f"{root}/") else path
            found.append(Path(point) / below.strip("/"))
    return found


def _groups_above(start: Path) -> list[MemoryGroup]:
    """The memory groups from a folder upward that the kernel counts for, the innermost first."""
    return [group for folder in (start, *start.parents) if (group := _group(folder)) is not None]


def _group(folder: Path) -> MemoryGroup | None:
    events = _counts(folder / "memory.events")
    if "oom_kill" in events:
        return MemoryGroup(
            folder,
            _number(folder / "memory.max"),
            events["oom_kill"],
            _counts(folder / "memory.events.local").get("oom", 0),
        )
    control = _counts(folder / "memory.oom_control")
    if "oom_kill" in control:
        limit = _number(folder / "memory.limit_in_bytes")
        return MemoryGroup(
            folder,
            None if limit is None or limit > _NO_LIMIT else limit,
            control["oom_kill"],
            _number(folder / "memory.failcnt") or 0,
        )
    return None


def _machine_kills(proc: Path) -> int | None:
    return _counts(proc / "vmstat").get("oom_kill")


def _counts(file: Path) -> dict[str, int]:
    """Lines of a name and a number, none when the file cannot be read."""
    with contextlib.suppress(OSError):
        lines = (line.split() for line in file.read_text().splitlines())
        return {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].isdigit()}
    return {}


def _number(file: Path) -> int | None:
    """A number in a file of its own, None for `max` and when it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return int(file.read_text())
    return None
