"""The short reference load: how fast these CPUs read memory and multiply right now, in less than a quarter of a second.

Memory is read by the C library's memchr through ctypes, which releases the interpreter's lock, by one thread a CPU,
each over a buffer of its own that misses the caches: standard library only, and as fast as the machine reads.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from pytest_nriperf.generate.child.caches import cache_parts, memory_left
from pytest_nriperf.units import format_bytes

# Wall time of a whole load, whatever else runs on the machine: with one before and one after a run below half a second.
BUDGET_NS = 230_000_000
READ_NS = 70_000_000
MULTIPLY_NS = 40_000_000
SMALLEST_BUFFER, LARGEST_BUFFER = 8 << 20, 512 << 20
# All buffers together take at most this part of the memory that is left.
MEMORY_PART = 4
_STEP = 4 << 20
# Linux 5.14: the pages are there as if each had been written to, in two thirds of the time; what buffers for large
# caches need. Not huge pages: a virtual machine may have given theirs back to its host, and waits for each.
_MADV_POPULATE_WRITE = 23


class Buffer(NamedTuple):
    """A thread's buffer: its size in bytes, and how much of it has to be read for the caches to be left."""

    size: int
    enough: int


class MemoryRead(NamedTuple):
    """Bytes per second that all threads read together, bytes of the largest buffer, and why there is no figure."""

    bandwidth: float | None
    buffer_bytes: int
    missing: str


def reference_load(
    cpus: list[int], multiply: Callable[[], tuple[str, int]], beside: frozenset[int] = frozenset()
) -> dict[str, Any]:
    """Read bandwidth (bytes per second, all CPUs together) and matrix products (operations per second).

    `beside` are other CPUs that run such a load at the same time. Whichever found no time on a machine that is too busy
    is None; `missing` says why there is no read bandwidth.
    """
    started = time.perf_counter_ns()
    deadline = started + BUDGET_NS
    read = read_bandwidth(cpus, beside, deadline - MULTIPLY_NS)
    what, rate = multiply_rate(multiply, min(deadline, time.perf_counter_ns() + MULTIPLY_NS))
    return {
        "memory_bandwidth": read.bandwidth,
        "buffer_bytes": read.buffer_bytes,
        "missing": read.missing,
        "matrix_product": rate,
        "matrix": what,
        "t_ns": started,
        "took_ns": time.perf_counter_ns() - started,
    }


def read_bandwidth(cpus: list[int], beside: frozenset[int], deadline_ns: int) -> MemoryRead:
    """What one thread a CPU reads from memory, all at the same time.

    Each thread passes over its buffer until the time is up. The figure is the median over ten slices of the time, so
    that one interruption does not move it. There is none where the buffers would not leave the caches: what the caches
    give would be taken for the memory's.
    """
    buffers = buffers_for(cache_parts(cpus, beside), memory_left(), len(beside))
    largest = max(buffers.values())
    if any(each.size < each.enough for each in buffers.values()):
        return MemoryRead(
            None,
            largest.size,
            f"buffers of {format_bytes(largest.size)}, all that there is room for, would stay in the caches",
        )
    barrier = threading.Barrier(len(cpus))
    passes: list[list[tuple[int, int]]] = [[] for _ in cpus]
    threads = [
        threading.Thread(target=_read, args=(cpu, buffers[cpu], deadline_ns, barrier, done), daemon=True)
        for cpu, done in zip(cpus, passes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = _rate(passes)
    missing = f"no time to read buffers of {format_bytes(largest.size)}, which leave the caches" if rate is None else ""
    return MemoryRead(rate, largest.size, missing)


def buffers_for(parts: dict[int, int], memory: int, beside: int = 0) -> dict[int, Buffer]:
    """CPU -> buffer, given each CPU's part of the cache, the bytes of memory that are left and how many CPUs `beside`
    these take some of it too.

    Twice the part; three quarters of that are enough. A buffer of just the part's size would stay there.

    >>> buffers_for({0: 105 << 20}, memory=64 << 30)[0].size >> 20
    210
    """
    most = min(LARGEST_BUFFER, memory // MEMORY_PART // (len(parts) + beside))
    wanted = {cpu: max(2 * part, SMALLEST_BUFFER) for cpu, part in parts.items()}
    return {cpu: Buffer(min(size, most), size * 3 // 4) for cpu, size in wanted.items()}


def multiply_rate(multiply: Callable[[], tuple[str, int]], deadline_ns: int) -> tuple[str, float | None]:
    """What was multiplied, and floating point operations per second (median over the products); None without time."""
    what = ""
    rates: list[float] = []
    while time.perf_counter_ns() < deadline_ns:
        before = time.perf_counter_ns()
        what, operations = multiply()
        rates.append(operations / max(1, time.perf_counter_ns() - before) * 1e9)
    warm = rates[1:]
    return what, statistics.median(warm) if warm else None


def _read(cpu: int, buffer: Buffer, deadline_ns: int, barrier: threading.Barrier, done: list[tuple[int, int]]) -> None:
    """Fill a buffer from this CPU, wait for the others, then read it until the time is up."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {cpu})
    memchr = ctypes.CDLL(None).memchr
    memchr.restype = ctypes.c_void_p
    memchr.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    # Not a ctypes array: those are filled with zeros at once, one thread after the other.
    memory = mmap.mmap(-1, buffer.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    filled = _fill(address, buffer.size, deadline_ns - READ_NS)
    try:
        barrier.wait(max(0.0, (deadline_ns - time.perf_counter_ns()) / 1e9))
    except threading.BrokenBarrierError:
        return
    if filled < buffer.enough:
        return
    end = min(time.perf_counter_ns() + READ_NS, deadline_ns)
    while True:
        for offset in range(0, filled - _STEP + 1, _STEP):
            memchr(address + offset, 1, _STEP)
            after = time.perf_counter_ns()
            done.append((after, _STEP))
            if after >= end:
                return


def _fill(address: int, size: int, until_ns: int) -> int:
    """Put pages of zeros there until the time is up; bytes of them."""
    library = ctypes.CDLL(None)
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    library.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    filled = 0
    while filled < size and time.perf_counter_ns() < until_ns:
        step = min(_STEP, size - filled)
        if library.madvise(address + filled, step, _MADV_POPULATE_WRITE) != 0:
            library.memset(address + filled, 0, step)
        filled += step
    return filled


def _rate(passes: list[list[tuple[int, int]]]) -> float | None:
    """Median over ten slices of the common time, bytes per second; None without a common time."""
    if not all(passes):
        return None
    start = max(done[0][0] for done in passes)
    end = min(done[-1][0] for done in passes)
    events = sorted(event for done in passes for event in done if start < event[0] <= end)
    if not events:
        return None
    if len(events) < 20:
        return sum(size for _, size in events) / (end - start) * 1e9
    slices = [0] * 10
    for stamp, size in events:
        slices[min(9, (stamp - start - 1) * 10 // (end - start))] += size
    return statistics.median(slices) / ((end - start) / 10) * 1e9
