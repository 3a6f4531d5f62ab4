"""Cpuset cgroups: walls that no thread of an engine can climb, in whichever hierarchy has the cpuset controller.

Groups are made inside the group that this process is in, so that we never take more than we were given. Version 2
forbids processes in a group that hands controllers down, other than the root: there we go (as root) to the nearest
group above that already hands cpuset down, but only when no limit lies in between, or (in a delegated group of our
own) move ourselves into a leaf for as long as it lasts.

A group's name tells its owner: what a killed owner left behind is ended and removed by the next one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_nriperf.errors import ProvisionError
from pytest_nriperf.owner import PREFIX, is_abandoned, own_tag
from pytest_nriperf.units import format_cpus, parse_cpus

# A shell joins the group named by its first argument and becomes the command: bound before its first instruction.
_JOIN = 'echo 0 > "$0" && exec "$@"'
_SHELL = "/bin/sh"
_ASIDE = "self"
_END_WITHIN_S = 5.0
# Limits that would no longer hold for a group that is made above the one that has them.
_LIMITS = {"cpu.max": "max", "memory.max": "max", "memory.high": "max", "cpuset.cpus": "", "cpuset.mems": ""}

_numbers = itertools.count()


@dataclass(frozen=True)
class Hierarchy:
    """A place where groups can be made: `parent` inside version 1 or 2; `ours` the group that this process is in."""

    version: int
    parent: Path
    ours: Path

    @property
    def mechanism(self) -> str:
        """As it stands in the recording."""
        return f"cgroup v{self.version} cpuset"

    @property
    def must_step_aside(self) -> bool:
        """Whether our own processes are in the way of groups below `parent`."""
        return self.version == 2 and self.parent == self.ours and not _is_root(self.parent)


def find_hierarchy(proc: Path = Path("/proc")) -> Hierarchy | None:
    """Where this process can make cpuset groups, None without the controller or the right to use it."""
    mounts = _mounts(proc)
    groups = _groups(proc)
    for version in (1, 2):
        for mount_root, mount in mounts.get(version, []):
            ours = _place(mount, mount_root, groups.get(version, ""))
            parent = ours if version == 1 else _parent_v2(ours, mount, proc)
            if ours.is_dir() and parent is not None and _writable(parent, version):
                return Hierarchy(version, parent, ours)
    return None


@contextlib.contextmanager
def prepared(hierarchy: Hierarchy) -> Iterator[None]:
    """The controller is handed down to groups below `parent`; on exit it is as it was."""
    with contextlib.ExitStack() as undo:
        if hierarchy.version == 2 and "cpuset" not in _words(hierarchy.parent / "cgroup.subtree_control"):
            if hierarchy.must_step_aside:
                undo.enter_context(_aside(hierarchy.parent))
            _write(hierarchy.parent / "cgroup.subtree_control", "+cpuset")
            undo.callback(_try_write, hierarchy.parent / "cgroup.subtree_control", "-cpuset")
        yield


@contextlib.contextmanager
def cpuset_group(hierarchy: Hierarchy, cpus: frozenset[int], memory_nodes: frozenset[int]) -> Iterator[CpusetGroup]:
    """A new group of those CPUs and NUMA nodes; everything in it is ended with it. Raises ProvisionError."""
    folder = hierarchy.parent / f"{own_tag()}{next(_numbers)}"
    group = CpusetGroup(folder, hierarchy.version)
    try:
        folder.mkdir()
    except OSError as error:
        raise ProvisionError(f"the cgroup {folder} cannot be made: {error.strerror}") from error
    try:
        _write(folder / "cpuset.mems", format_cpus(memory_nodes))
        _write(folder / "cpuset.cpus", format_cpus(cpus))
        yield group
    finally:
        group.remove()


@dataclass(frozen=True)
class CpusetGroup:
    """One group. `command_prefix` starts a command inside it."""

    folder: Path
    version: int

    def command_prefix(self) -> list[str]:
        """The words that go before a command."""
        return [_SHELL, "-c", _JOIN, str(self.folder / "cgroup.procs")]

    def effective_cpus(self) -> frozenset[int]:
        """The CPUs that the kernel lets the group use now; without those that are offline."""
        name = "cpuset.effective_cpus" if self.version == 1 else "cpuset.cpus.effective"
        return parse_cpus((self.folder / name).read_text())

    def processes(self) -> frozenset[int]:
        """The processes in the group, none when it is gone."""
        return frozenset(map(int, _words(self.folder / "cgroup.procs")))

    def remove(self) -> None:
        """End every process in the group and remove it. Raises ProvisionError when something does not end."""
        deadline = time.monotonic() + _END_WITHIN_S
        while self.folder.exists():
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                self.folder.rmdir()
            except FileNotFoundError:
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    left = ", ".join(map(str, sorted(self.processes()))) or "none that can be seen"
                    raise ProvisionError(
                        f"the cgroup {self.folder} cannot be removed ({error.strerror}); processes in it: {left}",
                        f"end them, then: rmdir {self.folder}",
                    ) from error
                # Killed processes leave the group when the kernel has taken them down; nothing announces that.
                time.sleep(0.005)


def remove_leftovers(hierarchy: Hierarchy) -> list[str]:
    """Remove the groups of owners that are dead, with every process in them; their names."""
    removed = []
    for folder in sorted(hierarchy.parent.glob(f"{PREFIX}*")):
        if not is_abandoned(folder.name):
            continue
        if folder.name.endswith(_ASIDE):
            _try_write(hierarchy.parent / "cgroup.subtree_control", "-cpuset")
            _empty(folder, hierarchy.parent)
        else:
            CpusetGroup(folder, hierarchy.version).remove()
        removed.append(folder.name)
    return removed


@contextlib.contextmanager
def _aside(group: Path) -> Iterator[None]:
    """All processes of a group in a leaf below it."""
    leaf = group / f"{own_tag()}{_ASIDE}"
    try:
        leaf.mkdir()
    except OSError as error:
        raise ProvisionError(f"the cgroup {leaf} cannot be made: {error.strerror}") from error
    try:
        _move(group, leaf)
        yield
    finally:
        _empty(leaf, group)


def _empty(source: Path, target: Path) -> None:
    """Move every process of a group to another one and remove it. Raises ProvisionError when it stays in use."""
    deadline = time.monotonic() + _END_WITHIN_S
    while True:
        _move(source, target)
        try:
            source.rmdir()
        except OSError as error:
            if time.monotonic() > deadline:
                raise ProvisionError(
                    f"the cgroup {source} cannot be removed: {error.strerror}",
                    f"end what is in it, then: rmdir {source}",
                ) from error
            # A thread that is just ending is not moved and still counts until it is gone; nothing announces that.
            time.sleep(0.005)
        else:
            return


def _move(source: Path, target: Path) -> None:
    for pid in _words(source / "cgroup.procs"):
        _try_write(target / "cgroup.procs", pid)


# --------------------------------------------------------------------------------------------- where groups can be


def _parent_v2(ours: Path, mount: Path, proc: Path) -> Path | None:
    """The group in which version 2 lets us make cpuset groups."""
    if ours.name.startswith(PREFIX) and ours.name.endswith(_ASIDE):
        # We were started by somebody whom a killed owner had put aside.
        ours = ours.parent
    if _is_root(ours):
        return ours if "cpuset" in _words(ours / "cgroup.controllers") else None
    if os.access(ours, os.W_OK) and "cpuset" in _words(ours / "cgroup.controllers") and _alone(ours, proc):
        return ours
    for group in (ours, *ours.parents):
        if group != ours and "cpuset" in _words(
            group / "cgroup.subtree_control" if group != mount else _root_file(mount)
        ):
            return group
        if group == mount or any(_text(group / name) not in (None, free, "") for name, free in _LIMITS.items()):
            return None
    return None


def _root_file(mount: Path) -> Path:
    """At the top the controller can still be handed down, if it is not yet."""
    return mount / "cgroup.controllers"


def _alone(group: Path, proc: Path) -> bool:
    """Whether only we and the processes that started us are in the group."""
    kin, pid = {os.getpid()}, os.getpid()
    while pid > 1:
        match = re.search(r"\) \S (\d+)", _text(proc / str(pid) / "stat") or "")
        pid = int(match[1]) if match else 0
        kin.add(pid)
    return {int(word) for word in _words(group / "cgroup.procs")} <= kin


def _is_root(group: Path) -> bool:
    """The top of version 2: the only group without a type."""
    return not (group / "cgroup.type").exists()


def _writable(parent: Path, version: int) -> bool:
    files = [parent] if version == 1 else [parent, parent / "cgroup.procs", parent / "cgroup.subtree_control"]
    return all(os.access(file, os.W_OK) for file in files) and os.access(_SHELL, os.X_OK)


def _mounts(proc: Path) -> dict[int, list[tuple[str, Path]]]:
    """Mounts of version 1 with cpuset and of version 2: their root within the hierarchy, and where they are."""
    found: dict[int, list[tuple[str, Path]]] = {}
    for line in (_text(proc / "self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        root, point = before.split()[3:5]
        kind, options = after.split()[0], after.split()[-1]
        if kind == "cgroup2":
            found.setdefault(2, []).append((root, Path(point)))
        elif kind == "cgroup" and "cpuset" in options.split(","):
            found.setdefault(1, []).append((root, Path(point)))
    return found


def _groups(proc: Path) -> dict[int, str]:
    """Our group's path in the hierarchy of cpuset of version 1 and in version 2."""
    found = {}
    for line in (_text(proc / "self/cgroup") or "").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            found[2] = path
        elif "cpuset" in controllers.split(","):
            found[1] = path
    return found


def _place(mount: Path, mount_root: str, group: str) -> Path:
    """Where a group lies below a mount that shows the hierarchy from `mount_root` on."""
    if mount_root != "/" and (group == mount_root or group.startswith(mount_root + "/")):
        group = group[len(mount_root) :]
    return mount / group.strip("/")


# ------------------------------------------------------------------------------------------------------------ files


def _text(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None


def _words(file: Path) -> Sequence[str]:
    return (_text(file) or "").split()


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text)
    except OSError as error:
        raise ProvisionError(
            f"cgroup: {text!r} cannot be written to {file}: {error.strerror}",
            "a group above may have fewer CPUs or NUMA nodes; see cpuset.cpus there",
        ) from error


def _try_write(file: Path, text: str) -> None:
    with contextlib.suppress(OSError):
        file.write_text(text)
