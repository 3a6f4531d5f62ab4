"""On machines with several NUMA nodes: the sampler keeps apart, and pages on the wrong node are explained.

An emulated machine has no slower remote memory, so no latency moves: what is shown is that the counters tell.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path

from pytest_nriperf.cli import main
from pytest_nriperf.collect import choose
from pytest_nriperf.collect.sampler import Sampler
from pytest_nriperf.metrics import Measurement
from pytest_nriperf.recording import write_document, write_run
from pytest_nriperf.seams import RequestRow, Target, TargetReplica, TokenEvents
from pytest_nriperf.topology import Topology, read_topology
from tests.machines.selection import ROOT, everything, for_machines
from tests.machines.shapes import Shape
from tests.recorded import described

TOKENS = 10
# Binds itself, then becomes the engine: so that its first page already lies where it should.
BOUND = """
import os, sys
from pytest_nriperf.provision.memory_policy import MemoryPolicy
os.sched_setaffinity(0, {cpus})
MemoryPolicy("bind", frozenset({{{node}}})).set_for_this_thread()
os.execv(sys.executable, [sys.executable, "-c", {engine!r}])
"""
# A stand-in for an engine: a token's worth of reading its memory for each line that it prints.
ENGINE = f"""
import sys, time
weights = bytearray(48 << 20)
weights[::4096] = bytes(b"x" * (48 << 8))
print(flush=True)
sys.stdin.readline()
print(time.perf_counter_ns(), flush=True)
for _ in range({TOKENS}):
    end = time.perf_counter() + 0.15
    while time.perf_counter() < end:
        weights.count(b"y", 0, 1 << 20)
    print(time.perf_counter_ns(), flush=True)
sys.stdin.readline()
"""


def measured(folder: Path, topology: Topology, node: int, runs: int = 2) -> Path:
    """Runs on CPUs of the first NUMA node, with the memory on `node`."""
    folder.mkdir()
    write_document(folder, described("inside/counters.py::engine", 1))
    cpus = frozenset(sorted(cpu.id for cpu in topology.cpus if cpu.node == topology.cpu_nodes[0])[:2])
    collectors, _ = choose("proc,perf")
    for run in range(1, runs + 1):
        command = [sys.executable, "-c", BOUND.format(cpus=set(cpus), node=node, engine=ENGINE)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as engine:
            assert engine.stdin is not None
            assert engine.stdout is not None
            engine.stdout.readline()
            places = {cpu.id: cpu.node for cpu in topology.cpus}
            target = Target((TargetReplica(0, engine.pid, cpus, cpus),), {}, places)
            with Sampler(collectors, target, hz=4) as sampler:
                engine.stdin.write("\n")
                engine.stdin.flush()
                stamps = [int(engine.stdout.readline()) for _ in range(TOKENS + 1)]
            assert sampler.cost["sampler_apart"] == 1
            # Nothing failed; an emulated machine is slow, and it is right to say so.
            assert not [text for text in sampler.warnings if "proc" in text and "slow" not in text]
            engine.stdin.write("\n")
        tokens = TokenEvents()
        tokens.add(0, 0, stamps, [0, *[1] * TOKENS])
        row = RequestRow(0, 0, "measure", "p", None, stamps[0], stamps[1], stamps[-1], stamps[-1], 1, TOKENS)
        write_run(folder, run, [row], tokens, sampler.rows)
    return folder


# Minutes of measuring under emulation: part of the full matrix only.
@for_machines(ROOT, shape=lambda shape: everything() and shape.cpu_nodes > 1)
def test_pages_on_the_wrong_node_are_named(tmp_path: Path, shape: Shape) -> None:
    topology = read_topology()
    far = topology.cpu_nodes[-1]
    right, wrong = (
        measured(tmp_path / "right", topology, topology.cpu_nodes[0]),
        measured(tmp_path / "wrong", topology, far),
    )
    near = Measurement.from_recording(right).pcm.remote_memory_share.value
    away = Measurement.from_recording(wrong).pcm.remote_memory_share.value
    assert near < 0.2
    assert away > 0.7
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["explain", str(right), str(wrong)]) == 0
    last = out.getvalue().rstrip().splitlines()[-1]
    assert "remote memory share" in last
    assert "pages are on the wrong node" in last
