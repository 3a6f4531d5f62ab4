"""The short reference load: how fast these CPUs read memory and multiply right now, in a quarter of a second.

Memory is read by the C library's memchr through ctypes, which releases the interpreter's lock, by one thread a CPU,
each over a buffer of its own that misses the caches: standard library only, and as fast as the machine reads.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

BUDGET_NS = 200_000_000
READ_NS = 70_000_000
MULTIPLY_NS = 40_000_000
LARGEST_BUFFER = 64 << 20


def reference_load(cpus: list[int], multiply: Callable[[], tuple[str, int]]) -> dict[str, Any]:
    """Read bandwidth (bytes per second, all CPUs together) and matrix products (operations per second)."""
    started = time.perf_counter_ns()
    bandwidth, size = read_bandwidth(cpus, started + BUDGET_NS - MULTIPLY_NS)
    what, rate = multiply_rate(multiply, time.perf_counter_ns() + MULTIPLY_NS)
    return {
        "memory_bandwidth": bandwidth,
        "buffer_bytes": size,
        "matrix_product": rate,
        "matrix": what,
        "t_ns": started,
        "took_ns": time.perf_counter_ns() - started,
    }


def read_bandwidth(cpus: list[int], deadline_ns: int) -> tuple[float, int]:
    """Bytes per second that one thread a CPU read together, and the size of each buffer.

    Each thread passes over its buffer until the time is up. The figure is the median over ten slices of the time, so
    that one interruption does not move it.
    """
    size = _buffer_size(len(cpus))
    barrier = threading.Barrier(len(cpus))
    passes: list[list[tuple[int, int]]] = [[] for _ in cpus]
    threads = [
        threading.Thread(target=_read, args=(cpu, size, deadline_ns, barrier, done), daemon=True)
        for cpu, done in zip(cpus, passes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _rate(passes), size


def multiply_rate(multiply: Callable[[], tuple[str, int]], deadline_ns: int) -> tuple[str, float]:
    """What was multiplied, and floating point operations per second (median over the products)."""
    what, _ = multiply()
    rates: list[float] = []
    while len(rates) < 5 or time.perf_counter_ns() < deadline_ns:
        before = time.perf_counter_ns()
        _, operations = multiply()
        rates.append(operations / max(1, time.perf_counter_ns() - before) * 1e9)
    return what, statistics.median(rates)


def _buffer_size(threads: int) -> int:
    """Twice this thread's part of the last-level cache, at least 8 MiB, at most what can be touched in time."""
    cache = 32 << 20
    try:
        with open("/sys/devices/system/cpu/cpu0/cache/index3/size") as file:
            cache = int(file.read().strip().rstrip("K")) << 10
    except (OSError, ValueError):
        pass
    return min(max(2 * cache // threads, 8 << 20), LARGEST_BUFFER)


def _read(cpu: int, size: int, deadline_ns: int, barrier: threading.Barrier, done: list[tuple[int, int]]) -> None:
    """Touch a buffer from this CPU, wait for the others, then read it until the time is up."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {cpu})
    memchr = ctypes.CDLL(None).memchr
    memchr.restype = ctypes.c_void_p
    memchr.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    memset = ctypes.CDLL(None).memset
    memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    buffer = (ctypes.c_char * size)()
    address = ctypes.addressof(buffer)
    memset(address, 1, size)
    barrier.wait()
    end = min(time.perf_counter_ns() + READ_NS, deadline_ns)
    step = 4 << 20
    while True:
        for offset in range(0, size - step + 1, step):
            before = time.perf_counter_ns()
            memchr(address + offset, 0, step)
            after = time.perf_counter_ns()
            done.append((after, step))
            if after >= end and len(done) > 1:
                return
        if before > deadline_ns + READ_NS:
            return


def _rate(passes: list[list[tuple[int, int]]]) -> float:
    """Median over ten slices of the common time, bytes per second."""
    start = max(done[0][0] for done in passes)
    end = min(done[-1][0] for done in passes)
    events = sorted(event for done in passes for event in done if start < event[0] <= end)
    if end <= start or len(events) < 20:
        total = sum(size for done in passes for _, size in done)
        span = max(done[-1][0] for done in passes) - min(done[0][0] for done in passes)
        return total / max(span, 1) * 1e9
    slices = [0] * 10
    for stamp, size in events:
        slices[min(9, (stamp - start - 1) * 10 // (end - start))] += size
    return statistics.median(slices) / ((end - start) / 10) * 1e9
