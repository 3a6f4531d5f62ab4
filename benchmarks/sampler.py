"""What sampling costs: the sampler's CPU time beside a busy process, per sample and per collector.

Goal: with `auto`, one sample a second takes at most 0.2 % of one CPU while a run goes on; what is read before and
after it stands beside. With --effect it also estimates what sampling does to a real model's time per output token
(TPOT): requests with and without a sampler, alternating in one process on all CPUs, as an interval.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.collect import choose
from pytest_nriperf.collect.sampler import Sampler
from pytest_nriperf.generate.models import parse_model
from pytest_nriperf.generate.process import WorkerGenerator
from pytest_nriperf.provision.local import LocalProvisioner
from pytest_nriperf.seams import Prompt, Target, TargetReplica, Work
from pytest_nriperf.units import format_value

# Threads that work without a pause until standard input ends.
WORKER = """
import sys, threading, hashlib
block = bytes(1 << 20)
def work():
    while True:
        hashlib.blake2b(block).digest()
for number in range({threads}):
    threading.Thread(target=work, daemon=True).start()
print(flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
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


def cost(threads: int, cpus: frozenset[int], hz: float, seconds: float, names: str) -> None:
    """Print what sampling one busy process costs."""
    with busy(threads, cpus) as process:
        collectors, line = choose(names)
        with Sampler(collectors, target(process, cpus), hz) as sampler:
            time.sleep(seconds)
    wall, samples = sampler.cost["sampler_wall_s"], max(1.0, sampler.cost["sampler_samples"])
    meanwhile, late = sampler.cost["sampler_meanwhile_cpu_s"], sampler.cost.get("sampler_late_max_s", 0.0)
    print(
        f"{threads:3} threads, {hz:g} Hz: {meanwhile / wall:.2%} of one CPU, {meanwhile / samples * 1e3:.2f} ms a "
        f"sample, {(sampler.cost['sampler_cpu_s'] - meanwhile) * 1e3:.1f} ms before and after the run; late "
        f"{late * 1e3:.1f} ms at most, {len(sampler.rows)} rows"
    )
    for name, value in sampler.cost.items():
        if name.startswith("collector_"):
            print(f"      {name[10:-6]:<8}{value * 1e3:6.1f} ms in all")
    print(f"      {line.partition(';')[0]}")


def effect(model: str, pairs: int, tokens: int) -> None:
    """Print by how much sampling changes a model's TPOT: geometric mean of alternating pairs, 95 % interval."""
    collectors, _ = choose("auto")
    work = Work((Prompt("p", tokens=16),), tokens, warmup=0)
    provisioner = LocalProvisioner()
    with (
        provisioner.session([]),
        provisioner.provision(BalloonSpec()) as grant,
        contextlib.closing(WorkerGenerator(parse_model(model), reference=False)) as generator,
    ):
        (info,) = generator.load(grant)
        (placed,) = grant.placement.replicas
        where = dict.fromkeys(placed.visible, 0)
        watched = Target((TargetReplica(0, info.pid, placed.allocated, placed.visible),), where, where)

        def tpot_s(sampled: bool) -> float:
            with Sampler(collectors if sampled else [], watched, 1.0):
                (row,) = generator.measure(work, lambda _: None).requests
            assert row.first_ns is not None
            assert row.last_ns is not None
            return (row.last_ns - row.first_ns) / (row.output_tokens - 1) / 1e9

        tpot_s(sampled=False)
        changes, plain = [], []
        for pair in range(pairs):
            found = {sampled: tpot_s(sampled) for sampled in ((True, False) if pair % 2 else (False, True))}
            changes.append(math.log(found[True] / found[False]))
            plain.append(found[False])
    mean, half = statistics.mean(changes), 2 * statistics.stdev(changes) / math.sqrt(len(changes))
    low, middle, high = (math.expm1(value) for value in (mean - half, mean, mean + half))
    print(
        f"effect on the TPOT of {model}, {format_value(statistics.median(plain), 's')}: {middle:+.2%} "
        f"(95 % interval {low:+.2%} to {high:+.2%}; {pairs} pairs of {tokens} tokens)"
    )


def target(process: subprocess.Popen[str], cpus: frozenset[int]) -> Target:
    """The process as what is measured."""
    where = dict.fromkeys(cpus, 0)
    return Target((TargetReplica(0, process.pid, cpus, cpus),), where, where)


def main() -> None:
    """Print cost, and with --effect the effect."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=10.0, help="length of each measurement")
    options.add_argument("--collect", default="auto")
    options.add_argument("--effect", action="store_true", help="estimate the effect on a model's TPOT too")
    options.add_argument("--model", default="dummy:gpt-neo-125m", help="the model of --effect")
    options.add_argument("--pairs", type=int, default=40, help="pairs of requests of --effect")
    options.add_argument("--tokens", type=int, default=48, help="tokens a request of --effect")
    chosen = options.parse_args()
    allowed = sorted(os.sched_getaffinity(0))
    cpus = frozenset(allowed[1:] or allowed)
    for threads, hz in ((2, 1.0), (2, 10.0), (64, 1.0)):
        cost(threads, cpus, hz, chosen.seconds, chosen.collect)
    if chosen.effect:
        effect(chosen.model, chosen.pairs, chosen.tokens)


if __name__ == "__main__":
    main()
