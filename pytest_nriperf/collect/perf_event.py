"""perf_event_open by ctypes: counters of the kernel and of the CPU as descriptors, every refusal in words."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import NamedTuple

from pytest_nriperf.collect.reading import Files
from pytest_nriperf.errors import CollectorError

# Number of the system call by machine (Linux, arch/*/entry/syscalls).
SYSCALL = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "ppc64le": 319, "s390x": 331, "loongarch64": 241}
HARDWARE, SOFTWARE, CACHE = 0, 1, 3
# Enabled and running time come with every value, so that a shared counter shows.
_READ_FORMAT = 1 | 2
_INHERIT, _USER_ONLY = 1 << 1, 1 << 5 | 1 << 6
_CLOSE_ON_EXEC = 8
_ATTRIBUTES = struct.Struct("=IIQQQQQIIQQ")
_VALUE = struct.Struct("=QQQ")

REASONS = {
    errno.ENOENT: "this CPU, or the hypervisor, has no such counter",
    errno.EINVAL: "the kernel does not know this event",
    errno.EOPNOTSUPP: "this CPU cannot count it",
    errno.ENODEV: "this CPU cannot count it",
    errno.EMFILE: "too many open files: raise `ulimit -n`",
    errno.EBUSY: "another tool holds the counters for itself",
    errno.ENOSYS: "the kernel has no perf events",
    errno.ESRCH: "the task has ended",
}


class Event(NamedTuple):
    """What to count: PMU type and configuration words."""

    type: int
    config: int
    config1: int = 0
    config2: int = 0


class Value(NamedTuple):
    """A count, and for how many nanoseconds it was wanted and really ran on a counter."""

    events: int
    enabled_ns: int
    running_ns: int


def open_event(event: Event, pid: int, cpu: int, *, user_only: bool = False) -> int:
    """A descriptor that counts for a task (and those it makes later) or, with pid -1, for a CPU. Raises OSError."""
    number = SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"perf_event_open is unknown on {platform.machine()}")
    flags = (_INHERIT if pid >= 0 else 0) | (_USER_ONLY if user_only else 0)
    fields = (event.type, _ATTRIBUTES.size, event.config, 0, 0, _READ_FORMAT, flags, 0, 0, event.config1, event.config2)
    attributes = ctypes.create_string_buffer(_ATTRIBUTES.pack(*fields))
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    descriptor = library.syscall(
        ctypes.c_long(number),
        attributes,
        ctypes.c_int(pid),
        ctypes.c_int(cpu),
        ctypes.c_int(-1),
        ctypes.c_ulong(_CLOSE_ON_EXEC),
    )
    if descriptor < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(descriptor)


def read_event(descriptor: int) -> Value:
    """The count so far. Raises CollectorError when the descriptor gives no whole value."""
    data = os.read(descriptor, _VALUE.size)
    if len(data) != _VALUE.size:
        raise CollectorError("a perf event stopped counting")
    return Value(*_VALUE.unpack(data))


class Counter:
    """One descriptor, with its count scaled up where the counter was shared; never falls.

    Each interval is scaled by itself: count x wanted time / time on the counter. An interval without time on the
    counter is joined with the next one.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.total = 0
        self.shared = False
        self._last = Value(0, 0, 0)

    @property
    def waiting(self) -> bool:
        """Whether the counter was wanted and has never run: its count is unknown, not 0."""
        return self._last.enabled_ns > 0 and self._last.running_ns == 0

    def read(self) -> int:
        """The scaled count so far."""
        now = read_event(self.descriptor)
        count = now.events - self._last.events
        enabled = now.enabled_ns - self._last.enabled_ns
        running = now.running_ns - self._last.running_ns
        if running > 0 or enabled == 0:
            self.shared |= running < enabled
            self.total += count if running >= enabled else count * enabled // running
            self._last = now
        elif self._last.running_ns == 0:
            self._last = Value(0, now.enabled_ns, 0)
        return self.total

    def close(self) -> None:
        """Stop counting."""
        os.close(self.descriptor)


def refusal(error: OSError, files: Files) -> str:
    """Why an event could not be opened, and what would allow it."""
    if error.errno in (errno.EACCES, errno.EPERM):
        paranoid = files.text("/proc/sys/kernel/perf_event_paranoid") or "absent"
        return (
            f"not permitted: kernel.perf_event_paranoid is {paranoid}; needs CAP_PERFMON and, in a container, "
            "a seccomp profile that lets perf_event_open through"
        )
    return REASONS.get(error.errno or 0, error.strerror or str(error))
