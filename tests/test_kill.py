"""Killed at any moment: nothing of the measurement runs on, the next start removes the rest, finished runs can be read.

NRIPERF_KILLS says how often signal 9 ends pytest or a worker (`make test-machines` takes 200); a quarter as many
more are interrupted or asked to end.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_nriperf.provision.local import LocalProvisioner
from pytest_nriperf.recording import finished_runs, open_recording

KILLS = int(os.environ.get("NRIPERF_KILLS", "16"))
REPLICAS, RUNS, REQUESTS = 2, 3, 2
SUITE = f"""
import pytest

@pytest.mark.llm(model="sim:itl=1ms,ttft=1ms")
@pytest.mark.balloon(cpus=1, hyperthreads="spread", replicas={REPLICAS})
def test_killed(llm):
    llm.measure("one two", max_new_tokens=8, requests={REQUESTS}, warmup=1)
"""
ARGUMENTS = ["-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:xdist", f"--nri-runs={RUNS}"]
# Counters would call runs on a busy machine disturbed, and leave them out when the recording is read.
ARGUMENTS += ["--nri-collect=none"]
TOKEN = "NRIPERF_KILL_TEST"
PATIENCE_S = 30.0
SIGNALS = {
    "pytest": signal.SIGKILL,
    "worker": signal.SIGKILL,
    "interrupted": signal.SIGINT,
    "asked to end": signal.SIGTERM,
}


@dataclass(frozen=True)
class Trial:
    """A pytest run under way."""

    pid: int
    folder: Path
    token: str
    wait: Callable[[], int]

    def processes(self) -> list[int]:
        """What the run has started, told by its environment."""
        mark = f"{TOKEN}={self.token}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[[Path], Trial]]:
    """Start a pytest run in a folder."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.fork_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert server.stdin is not None
    assert server.stdout is not None
    commands, answers = server.stdin, server.stdout
    assert answers.readline() == "ready\n"

    def ask(line: str) -> int:
        commands.write(line + "\n")
        commands.flush()
        return int(answers.readline())

    def begin(folder: Path) -> Trial:
        folder.mkdir()
        (folder / "temporary").mkdir()
        (folder / "test_killed.py").write_text(SUITE)
        (folder / "pytest.ini").write_text("[pytest]\n")
        environment = {TOKEN: str(folder), "NRIPERF_LOCK_DIR": str(folder), "TMPDIR": str(folder / "temporary")}
        order = {"arguments": ARGUMENTS, "folder": str(folder), "environment": environment}
        return Trial(ask(json.dumps(order)), folder, str(folder), lambda: ask("wait"))

    yield begin
    commands.close()
    server.wait()
    answers.close()


def check_nothing_is_left(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process by itself; no cgroup, lock or file once the next session has begun."""
    deadline = time.monotonic() + PATIENCE_S
    while left := trial.processes():
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.01)
    monkeypatch.setenv("NRIPERF_LOCK_DIR", str(trial.folder))
    monkeypatch.setattr("tempfile.tempdir", str(trial.folder / "temporary"))
    with LocalProvisioner().session([]):
        groups = list(Path("/sys/fs/cgroup").glob(f"**/nriperf-*-{trial.pid}-*"))
        assert not groups
        assert not list((trial.folder / "temporary").glob("nriperf-*"))


def check_finished_runs(trial: Trial) -> int:
    """Every run that is said to be finished is whole; how many there are."""
    found = 0
    for document in trial.folder.glob(".nriperf/*/*/recording.json"):
        runs = finished_runs(document.parent)
        found += len(runs)
        if not runs:
            continue
        recording = open_recording(document.parent)
        rows = recording.requests().to_pylist()
        for run in runs:
            measured = [row for row in rows if row["run"] == run and row["phase"] == "measure"]
            assert len(measured) == REPLICAS * REQUESTS
            assert {row["status"] for row in measured} <= {"ok", "failed"}
        assert recording.tokens().num_rows >= len(runs) * REPLICAS * REQUESTS
    return found


def test_killed_at_any_moment_it_leaves_nothing_and_what_was_finished_can_be_read(
    start: Callable[[Path], Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if len(os.sched_getaffinity(0)) < REPLICAS:
        pytest.skip("needs two CPUs")
    monkeypatch.delenv("CI", raising=False)
    affinity = os.sched_getaffinity(0)
    began = time.monotonic()
    whole = start(tmp_path / "whole")
    assert whole.wait() == 0, (whole.folder / "output").read_text()
    seconds = time.monotonic() - began
    assert check_finished_runs(whole) == RUNS
    chosen = random.Random(os.environ.get("NRIPERF_SEED", "0"))
    endings = ["pytest", "worker"] * (KILLS // 2) + ["interrupted", "asked to end"] * (KILLS // 8)
    finished = set()
    for number, ending in enumerate(endings):
        moment_s = chosen.uniform(0.1, 1.1) * seconds
        finished.add(check_killed(start(tmp_path / str(number)), ending, moment_s, chosen, monkeypatch))
    assert os.sched_getaffinity(0) == affinity
    assert len(finished) > 1, f"every run was killed in the same stage: {finished}"


def check_killed(
    trial: Trial, ending: str, moment_s: float, chosen: random.Random, monkeypatch: pytest.MonkeyPatch
) -> int:
    """Let the run live for a while, end it or one of its workers, and look."""
    time.sleep(moment_s)
    victim = trial.pid
    if ending == "worker":
        # Between two runs there is none: then it is pytest after all.
        victim = chosen.choice(trial.processes() or [trial.pid])
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, SIGNALS[ending])
    status = trial.wait()
    words = (trial.folder / "output").read_text() if (trial.folder / "output").exists() else ""
    try:
        assert status in ((0, 1) if victim != trial.pid else (0, 2, -SIGNALS[ending]))
        if victim != trial.pid and status == 1:
            assert "killed by SIGKILL" in words
        check_nothing_is_left(trial, monkeypatch)
        return check_finished_runs(trial)
    except AssertionError as error:
        raise AssertionError(f"{ending} in {trial.folder}, status {status}: {error}\n{words}") from error
