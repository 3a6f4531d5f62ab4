"""A memory cgroup with a limit, made by a test that runs as root; version 1 or 2, whichever has the controller."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.tools import missing

_PATIENCE_S = 30.0
_JOIN = 'echo 0 > "$0/cgroup.procs" && exec "$@"'


@dataclass(frozen=True)
class MemoryGroup:
    """The group. `command_prefix` starts a command in it."""

    folder: Path
    limit_file: Path

    def command_prefix(self) -> list[str]:
        return ["/bin/sh", "-c", _JOIN, str(self.folder)]

    def processes(self) -> list[int]:
        """Also those in groups below it."""
        return [int(word) for file in self.folder.rglob("cgroup.procs") for word in file.read_text().split()]

    def limit(self, size: int) -> bool:
        """Set the limit, unless it is below what is used: version 1 refuses that, and version 2 ends processes, pytest
        among them, until it holds."""
        stat = self.folder / "memory.stat"
        used = re.search(r"^anon (\d+)", stat.read_text(), re.MULTILINE)
        if used is not None and int(used[1]) > size:
            return False
        try:
            self.limit_file.write_text(str(size))
        except OSError:
            return False
        return True


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[MemoryGroup]:
    """A group with a limit in bytes; nothing runs in it any more and it is gone afterwards."""
    if os.geteuid() != 0:
        missing("a cgroup with a memory limit needs root")
    with contextlib.ExitStack() as undo:
        parent, name = _parent(undo)
        folder = parent / f"memory-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError as error:
            missing(f"{folder} cannot be made: {error.strerror}")
        undo.callback(_remove, folder)
        group = MemoryGroup(folder, folder / name)
        assert group.limit(limit)
        yield group


def _parent(undo: contextlib.ExitStack) -> tuple[Path, str]:
    """Where groups with the memory controller can be made, and the name of the limit."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            return Path("/sys/fs/cgroup/memory") / path.strip("/"), "memory.limit_in_bytes"
    root = Path("/sys/fs/cgroup")
    if not (root / "cgroup.controllers").exists() or "memory" not in (root / "cgroup.controllers").read_text():
        missing("no memory controller")
    given = (root / "cgroup.subtree_control").read_text().split()
    for controller in ("memory", "cpuset"):
        if controller not in given:
            (root / "cgroup.subtree_control").write_text(f"+{controller}")
            undo.callback((root / "cgroup.subtree_control").write_text, f"-{controller}")
    return root, "memory.max"


def _remove(folder: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        for file in folder.rglob("cgroup.procs"):
            for word in file.read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(word), signal.SIGKILL)
        try:
            for below in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
                below.rmdir()
            folder.rmdir()
        except OSError:
            assert time.monotonic() < deadline, f"{folder} cannot be removed"
            time.sleep(0.01)
        else:
            return
