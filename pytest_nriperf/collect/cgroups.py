"""The cgroups of a process that tell of CPU limits.

A quota holds back, and is counted, in the group that has it: the process's own or any of those above.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pytest_nriperf.collect.procfs import CgroupMount, parse_cgroup_mounts, parse_cgroups
from pytest_nriperf.collect.reading import Files
from pytest_nriperf.errors import CollectorError

# The kernel's period where a group does not say.
PERIOD_US = 100_000


def lineage(path: str) -> list[str]:
    """A cgroup and those above it, up to the root, whose path is empty.

    >>> lineage("/user.slice/pytest.scope")
    ['/user.slice/pytest.scope', '/user.slice', '']
    """
    found = [path.rstrip("/")]
    while found[-1]:
        found.append(found[-1].rpartition("/")[0])
    return found


def quota(text: Callable[[str], str | None], folder: str) -> tuple[float, str] | None:
    """The CPUs that a quota of this very group allows, and the file that says so. `text` gives a file, None without.

    >>> quota({"/a/cpu.max": "150000 100000"}.get, "/a")
    (1.5, '/a/cpu.max')
    """
    allowed, _, period = (text(f"{folder}/cpu.max") or "").strip().partition(" ")
    if allowed.isdecimal() and period.isdecimal():
        return int(allowed) / max(1, int(period)), f"{folder}/cpu.max"
    allowed, period = ((text(f"{folder}/cpu.cfs_{name}_us") or "").strip() for name in ("quota", "period"))
    if allowed.isdecimal() and int(allowed) > 0:
        length = int(period) if period.isdecimal() else 0
        return int(allowed) / (length or PERIOD_US), f"{folder}/cpu.cfs_quota_us"
    return None


def limits_of(files: Files, pid: int | None) -> list[str]:
    """Folders whose cpu.stat tells how a process is held back: those with a quota; without any, the nearest that
    counts. From another container a process's cgroup shows only as what that process itself has mounted."""
    mounts = parse_cgroup_mounts(files.text("/proc/self/mountinfo").encode())
    for mount, inside in _places(files, pid, mounts):
        groups = [mount + path for path in lineage(inside)]
        if files.exists(f"{groups[0]}/cpu.stat"):
            counting = [group for group in groups if _counts(files, group)]
            return [group for group in counting if quota(files.text, group)] or counting[:1]
    return []


def _places(files: Files, pid: int | None, mounts: dict[str, CgroupMount]) -> Iterator[tuple[str, str]]:
    """Where the process's cpu.stat may be, as a mount and a path in it; v1 first: with a hybrid mount v2 has no cpu
    controller."""
    try:
        paths = parse_cgroups(files.text(f"/proc/{pid}/cgroup").encode())
    except CollectorError:
        return
    for controller in ("cpu", ""):
        if controller in paths and controller in mounts:
            mount, root = mounts[controller]
            inside = paths[controller]
            if root != "/" and (inside + "/").startswith(root + "/"):
                inside = inside[len(root) :]
            if not inside.startswith("/.."):
                yield mount.rstrip("/"), inside
    own = f"/proc/{pid}/root/sys/fs/cgroup"
    yield from ((f"{own}{folder}", "") for folder in ("/cpu", "/cpu,cpuacct", ""))


def _counts(files: Files, group: str) -> bool:
    """Whether the group counts throttling: without the cpu controller its cpu.stat has times only."""
    return "nr_throttled" in files.text(f"{group}/cpu.stat")
