"""What sampling costs: the sampler's CPU time beside a busy process, per sample and per collector.

Goal: with `auto`, one sample a second takes at most 0.2 % of one CPU. With --effect it also estimates what sampling
does to the process's own speed: work done in slices with and without a sampler, alternating, as an interval.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pytest_nriperf.collect import choose
from pytest_nriperf.collect.sampler import Sampler
from pytest_nriperf.seams import Target, TargetReplica

# Threads that work without a pause, and one that answers each line with how much was done so far.
WORKER = """
import sys, threading, hashlib
done = [0] * {threads}
block = bytes(1 << 20)
def work(number):
    while True:
        hashlib.blake2b(block).digest()
        done[number] += 1
for number in range({threads}):
    threading.Thread(target=work, args=(number,), daemon=True).start()
print(flush=True)
for line in sys.stdin:
    print(sum(done), flush=True)
"""


@contextmanager
def busy(threads: int, cpus: frozenset[int]) -> Iterator[subprocess.Popen[str]]:
    """A process with that many busy threads on these CPUs."""
    program = f"import os; os.sched_setaffinity(0, {set(cpus)})\n" + WORKER.format(threads=threads)
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def done(process: subprocess.Popen[str]) -> int:
    """Blocks that the process has worked through."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def cost(threads: int, cpus: frozenset[int], hz: float, seconds: float, names: str) -> None:
    """Print what sampling one busy process costs."""
    with busy(threads, cpus) as process:
        collectors, line = choose(names)
        with Sampler(collectors, target(process, cpus), hz) as sampler:
            time.sleep(seconds)
    used, samples = sampler.cost["sampler_cpu_s"], sampler.cost["sampler_samples"] + 2
    late = sampler.cost.get("sampler_late_max_s", 0.0)
    print(
        f"{threads:3} threads, {hz:g} Hz: {used / sampler.cost['sampler_wall_s']:.2%} of one CPU, "
        f"{used / samples * 1e3:.2f} ms a sample, late {late * 1e3:.1f} ms at most, {len(sampler.rows)} rows"
    )
    for name, value in sampler.cost.items():
        if name.startswith("collector_"):
            print(f"      {name[10:-6]:<8}{value / samples * 1e3:6.2f} ms a sample")
    print(f"      {line.partition(';')[0]}")


def effect(cpus: frozenset[int], hz: float, pairs: int, slice_s: float) -> None:
    """Print by how much sampling changes a process's speed: mean of alternating pairs, 95 % interval."""
    changes = []
    with busy(len(cpus), cpus) as process:
        collectors, _ = choose("auto")
        for pair in range(pairs):
            speeds = {}
            for sampled in (True, False) if pair % 2 else (False, True):
                with Sampler(collectors if sampled else [], target(process, cpus), hz):
                    before, begin = done(process), time.perf_counter()
                    time.sleep(slice_s)
                    speeds[sampled] = (done(process) - before) / (time.perf_counter() - begin)
            changes.append(math.log(speeds[True] / speeds[False]))
    mean, half = statistics.mean(changes), 2 * statistics.stdev(changes) / math.sqrt(len(changes))
    print(
        f"effect on a busy process: {mean:+.2%} (95 % interval {mean - half:+.2%} to {mean + half:+.2%}, {pairs} pairs)"
    )


def target(process: subprocess.Popen[str], cpus: frozenset[int]) -> Target:
    """The process as what is measured."""
    where = dict.fromkeys(cpus, 0)
    return Target((TargetReplica(0, process.pid, cpus, cpus),), where, where)


def main() -> None:
    """Print cost, and with --effect the effect."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    options.add_argument("--collect", default="auto")
    options.add_argument("--effect", action="store_true")
    options.add_argument("--pairs", type=int, default=20)
    chosen = options.parse_args()
    allowed = sorted(os.sched_getaffinity(0))
    cpus = frozenset(allowed[1:] or allowed)
    for threads, hz in ((2, 1.0), (2, 10.0), (64, 1.0)):
        cost(threads, cpus, hz, chosen.seconds, chosen.collect)
    if chosen.effect:
        effect(cpus, 1.0, chosen.pairs, 2.0)


if __name__ == "__main__":
    main()
