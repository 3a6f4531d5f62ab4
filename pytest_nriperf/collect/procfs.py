"""The texts of /proc, /sys and cgroup files, parsed. Pure.

What does not look as the kernel writes it raises CollectorError by name; nothing is guessed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pytest_nriperf.errors import CollectorError

ALL = -1


class TaskTimes(NamedTuple):
    """/proc/PID/task/TID/schedstat: nanoseconds on a CPU, nanoseconds runnable but waiting, time slices."""

    on_cpu_ns: int
    wait_ns: int
    slices: int


class ProcessStat(NamedTuple):
    """/proc/PID/stat: faults and CPU ticks of the process, its start in ticks since boot (tells reused numbers)."""

    minor_faults: int
    major_faults: int
    user_ticks: int
    system_ticks: int
    start_ticks: int


class CpuTicks(NamedTuple):
    """A line of /proc/stat in clock ticks: working, taken by the hypervisor, idle (I/O wait included)."""

    busy: int
    steal: int
    idle: int

    @property
    def total(self) -> int:
        """All of the time."""
        return self.busy + self.steal + self.idle


class NodeMemory(NamedTuple):
    """Bytes of a process on one NUMA node: in anonymous memory, in mapped files, and in libraries and programs.

    Libraries lie where whoever read them first was; a share of remote memory that counted them would tell of that.
    """

    anonymous: int
    file: int
    code: int = 0

    @property
    def data(self) -> int:
        """All but code."""
        return self.anonymous + self.file


# A literal line end instead of `^`: the search for it is ten times as fast.
_SWITCHES = re.compile(rb"\nvoluntary_ctxt_switches:\s+(\d+)\nnonvoluntary_ctxt_switches:\s+(\d+)\n")
_CPU_LINE = re.compile(rb"^cpu(\d*) +([0-9 ]+)$", re.MULTILINE)
_PRESSURE = re.compile(rb"^(some|full) avg10=[\d.]+ avg60=[\d.]+ avg300=[\d.]+ total=(\d+)$", re.MULTILINE)
_NAME = re.compile(rb"[A-Za-z_][\w.]*")
_PAGES = re.compile(rb" N(\d+)=(\d+)")
_CODE = re.compile(rb" file=\S*(\.so[.\d]*|/s?bin/[^/ ]+)(?= |$)")
_PAGE_SIZE = re.compile(rb" kernelpagesize_kB=(\d+)")
_NUMA_LINE = re.compile(rb"[0-9a-f]{6,16} \S")
_SCHED = [
    re.compile(rb"\n" + name + rb"\s*:\s*(\d+)\n")
    for name in (rb"nr_voluntary_switches", rb"nr_involuntary_switches", rb"se\.nr_migrations")
]
_NUMBER = re.compile(rb"\d+")


def parse_schedstat(text: bytes) -> TaskTimes:
    """Times of one task.

    >>> parse_schedstat(b"123 45 6\\n")
    TaskTimes(on_cpu_ns=123, wait_ns=45, slices=6)
    """
    words = text.split()
    if len(words) != 3 or not all(map(_NUMBER.fullmatch, words)):
        raise _strange("schedstat", text)
    return TaskTimes(*map(int, words))


def parse_stat(text: bytes) -> ProcessStat:
    """The process's own line. The command may hold blanks and parentheses; fields are counted after the last `)`."""
    words = text[text.rfind(b")") + 1 :].split()
    chosen = [words[index] for index in (7, 9, 11, 12, 19)] if b")" in text and len(words) >= 20 else []
    if not chosen or not all(map(_NUMBER.fullmatch, chosen)):
        raise _strange("stat", text)
    return ProcessStat(*map(int, chosen))


def parse_switches(text: bytes) -> tuple[int, int]:
    """Voluntary and involuntary context switches of one task, from its status.

    >>> parse_switches(b"Name:\\tx\\nvoluntary_ctxt_switches:\\t7\\nnonvoluntary_ctxt_switches:\\t2\\n")
    (7, 2)
    """
    found = _SWITCHES.search(text)
    if found is None:
        raise _strange("status", text)
    return int(found[1]), int(found[2])


def parse_sched(text: bytes) -> tuple[int, int, int]:
    """Voluntary and involuntary switches of one task, and how often it changed its CPU, from its `sched`."""
    found = [pattern.search(text) for pattern in _SCHED]
    if None in found:
        raise _strange("sched", text)
    voluntary, involuntary, migrations = (int(match[1]) for match in found if match)
    return voluntary, involuntary, migrations


def parse_cpu_ticks(text: bytes) -> dict[int, CpuTicks]:
    """CPU number -> ticks; ALL for the whole machine. Guest time is inside user time already.

    >>> parse_cpu_ticks(b"cpu  9 0 1 80 5 0 0 2 0 0\\nintr 7\\n")[ALL]
    CpuTicks(busy=10, steal=2, idle=85)
    """
    result = {}
    for match in _CPU_LINE.finditer(text):
        words = [int(word) for word in match[2].split()]
        if len(words) < 8:
            raise _strange("/proc/stat", match[0])
        user, nice, system, idle, waiting, irq, softirq, steal = words[:8]
        result[int(match[1]) if match[1] else ALL] = CpuTicks(
            user + nice + system + irq + softirq, steal, idle + waiting
        )
    if ALL not in result:
        raise _strange("/proc/stat", text)
    return result


def parse_pressure(text: bytes) -> dict[str, int]:
    """`some` and `full` -> stalled microseconds since boot.

    >>> parse_pressure(b"some avg10=0.00 avg60=0.00 avg300=0.00 total=38\\n")
    {'some': 38}
    """
    found = {match[1].decode(): int(match[2]) for match in _PRESSURE.finditer(text)}
    if "some" not in found:
        raise _strange("pressure", text)
    return found


def parse_numbers(text: bytes, what: str, wanted: frozenset[str] | None = None) -> dict[str, int]:
    """Lines `name number`, as vmstat, numastat and cpu.stat have them. Other lines are passed over.

    >>> parse_numbers(b"numa_hit 12\\nnuma_miss 0\\n", "numastat")
    {'numa_hit': 12, 'numa_miss': 0}
    """
    found = {}
    for line in text.split(b"\n"):
        name, _, number = line.partition(b" ")
        if number.isdigit() and _NAME.fullmatch(name):
            word = name.decode("ascii")
            if wanted is None or word in wanted:
                found[word] = int(number)
    if not found and text.strip():
        raise _strange(what, text)
    return found


def parse_numa_maps(text: bytes) -> dict[int, NodeMemory]:
    """NUMA node -> bytes of the process there. Pages count in the line's own page size (huge pages: `huge` lines).

    >>> parse_numa_maps(b"7fc1b6200000 default anon=16 dirty=16 N0=12 N1=4 kernelpagesize_kB=4\\n")
    {0: NodeMemory(anonymous=49152, file=0, code=0), 1: NodeMemory(anonymous=16384, file=0, code=0)}
    """
    result: dict[int, NodeMemory] = {}
    for line in text.split(b"\n"):
        if not line:
            continue
        if not _NUMA_LINE.match(line):
            raise _strange("numa_maps", line)
        size = _PAGE_SIZE.search(line)
        if size is None:
            continue
        kind = "code" if _CODE.search(line) else "file" if b" file=" in line else "anonymous"
        for node, pages in _PAGES.findall(line):
            had = result.get(int(node), NodeMemory(0, 0))
            count = int(pages) * int(size[1]) * 1024
            result[int(node)] = had._replace(**{kind: getattr(had, kind) + count})
    return result


def parse_cgroups(text: bytes) -> dict[str, str]:
    """Controller (empty for v2) -> path, from /proc/PID/cgroup.

    >>> parse_cgroups(b"2:cpu,cpuacct:/a\\n0::/b:c\\n")
    {'cpu': '/a', 'cpuacct': '/a', '': '/b:c'}
    """
    result = {}
    for line in text.decode("utf-8", "surrogateescape").split("\n"):
        if not line:
            continue
        words = line.split(":", 2)
        if len(words) != 3 or not words[2].startswith("/"):
            raise _strange("cgroup", line.encode("utf-8", "surrogateescape"))
        for controller in words[1].split(","):
            result[controller] = words[2]
    return result


class CgroupMount(NamedTuple):
    """Where a cgroup hierarchy is mounted and which of its folders is the mount's root."""

    folder: str
    root: str


def parse_cgroup_mounts(text: bytes) -> dict[str, CgroupMount]:
    """Controller (empty for v2) -> mount, from /proc/self/mountinfo."""
    result: dict[str, CgroupMount] = {}
    for line in text.decode("utf-8", "surrogateescape").split("\n"):
        before, dash, after = line.partition(" - ")
        words, rest = before.split(" "), after.split(" ")
        if not dash or len(words) < 6 or len(rest) < 3 or rest[0] not in ("cgroup", "cgroup2"):
            continue
        names = [""] if rest[0] == "cgroup2" else rest[2].split(",")
        for name in names:
            result.setdefault(name, CgroupMount(_unescaped(words[4]), _unescaped(words[3])))
    return result


def _unescaped(path: str) -> str:
    r"""Octal escapes undone.

    >>> _unescaped(r"/a\040b")
    '/a b'
    """
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _strange(what: str, text: bytes) -> CollectorError:
    shown = text[:60].decode("utf-8", "backslashreplace").encode("unicode_escape").decode()
    return CollectorError(f"{what} holds {shown!r}, which is not what the kernel writes there")
