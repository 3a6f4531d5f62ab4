"""For real: a busy loop on the balloon's CPU, between two recordings of this machine, is named by `nriperf explain`."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_nriperf.session.handles  # noqa: F401 - before pytester takes stock: numpy loads once a process
from pytest_nriperf.cli import main
from pytest_nriperf.metrics import Measurement
from pytest_nriperf.units import parse_cpus
from tests.tools import missing

# An engine in a process of its own that keeps its CPU busy between tokens.
SUITE = """
import pytest

@pytest.mark.llm(model="sim:itl=10ms,ttft=10ms,cv=0,wait=spin")
@pytest.mark.balloon(cpus=1, hyperthreads="spread")
def test_it(llm):
    llm.measure("Hello", max_new_tokens=60, requests=2, warmup=0)
"""
# Of an engine that has its CPU to itself; another program of this machine may disturb it.
LITTLE_WAIT, TRIES = 0.4, 8


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    for name in ("CI", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NRIPERF_LOCK_DIR", str(pytester.path))
    pytester.makepyfile(test_perf=SUITE)
    return pytester


def recorded(suite: pytest.Pytester) -> Path:
    """One recording of one run."""
    before = set(suite.path.glob(".nriperf/*/*/recording.json"))
    arguments = ("--nri-runs=1", "--nri-repeats=0", "--nri-collect=proc", "--nri-sample-hz=10")
    result = suite.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:hypothesispytest", *arguments)
    result.assert_outcomes(passed=1)
    (file,) = set(suite.path.glob(".nriperf/*/*/recording.json")) - before
    return file.parent


def recorded_alone(suite: pytest.Pytester) -> Path:
    """A recording of an engine that had its CPU to itself: only beside that does a neighbour show."""
    waited: list[float] = []
    while len(waited) < TRIES:
        folder = recorded(suite)
        wait = Measurement.from_recording(folder).pcm.get("run_queue_wait")
        if wait is not None and wait.value < LITTLE_WAIT:
            return folder
        waited.append(1.0 if wait is None else wait.value)
    shown = ", ".join(f"{share:.0%}" for share in waited)
    return missing(f"a CPU to itself is missing: the engine waited {shown} of its time, others are busy here")


@contextlib.contextmanager
def busy_loops(cpu: int, number: int) -> Iterator[None]:
    """Processes that do nothing but run on a CPU."""
    program = f"import os; os.sched_setaffinity(0, {{{cpu}}}); print(flush=True)\nwhile True: pass"
    loops = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(number)]
    try:
        for loop in loops:
            assert loop.stdout is not None
            loop.stdout.readline()
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.communicate()


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel does not tell how long tasks wait")
def test_a_busy_loop_on_the_same_cpu_is_explained_by_the_wait_for_it(
    suite: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = recorded_alone(suite)
    (replica,) = json.loads((alone / "recording.json").read_text())["balloon"]["granted"]["replicas"]
    (cpu,) = parse_cpus(replica["visible"])
    assert cpu in os.sched_getaffinity(0)
    with busy_loops(cpu, number=7):
        beside = recorded(suite)
    capsys.readouterr()
    assert main(["explain", str(alone), str(beside)]) == 0
    last = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert "run queue wait" in last
    assert "something else runs on the same CPUs" in last or "threads wait for CPUs" in last
