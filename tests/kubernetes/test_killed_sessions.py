"""Sessions killed (-9) at any moment, with faults between them and the server: the next start puts all in order.

`make kills` kills 100 of them; NRIPERF_KILLS says how many.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.recording import finished_runs, open_recording
from pytest_nriperf.sessions import find_recordings
from tests.kubernetes.conftest import Make
from tests.kubernetes.double.api import Request
from tests.kubernetes.double.cluster import Cluster, default_policy
from tests.kubernetes.double.faults import Fault
from tests.kubernetes.test_provisioner import policies

KILLS = int(os.environ.get("NRIPERF_KILLS", "4"))
# A whole session makes about so many requests; beyond them it is killed while it ends, or not at all.
MOST = 150

SUITE = """
import pytest

@pytest.mark.llm(model="sim:itl=1ms,ttft=2ms")
@pytest.mark.balloon(cpus=2, replicas=2)
@pytest.mark.parametrize("number", [1, 2])
def test_chat(llm, number):
    llm.measure("hello", max_new_tokens=4, requests=1)
"""


class Killer:
    """Kills a process at the n-th request that it makes."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.left = number
        self.process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        cluster.server.on_request = self

    def __call__(self, request: Request) -> None:
        with self._lock:
            self.left -= 1
            if self.left == 0 and self.process is not None:
                self.process.kill()


def trouble(rng: random.Random) -> list[Fault]:
    """A few faults, anywhere."""
    kinds = (("lost", 0.0), ("reset", 0.0), ("500", 0.0), ("503", 0.0), ("429", 1.0), ("latency", 0.1), ("cut", 0.3))
    return [Fault(*_with_value(rng.choice(kinds)), times=1, chance=0.05) for _ in range(6)]


def _with_value(kind: tuple[str, float]) -> tuple[str, str, float]:
    return kind[0], ".*", kind[1]


def kill_one(cluster: Cluster, folder: Path, rng: random.Random) -> None:
    """One session, killed at a random request."""
    killer = Killer(cluster, rng.randint(1, MOST))
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig()), "XDG_CACHE_HOME": str(folder / "cache")}
    environment.pop("PYTEST_CURRENT_TEST", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nri-node=xeon2", "--nri-manage"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--nri-runs=2", "--nri-out=out", "--nri-collect=none", "test_suite.py"],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
        )
        killer.process = process
        process.wait(timeout=120)
    cluster.server.on_request = lambda request: None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("own_policy", [False, True], ids=["default policy", "policy of the node"])
def test_after_a_killed_session_the_next_start_leaves_nothing_of_it(
    cluster: Cluster, make: Make, tmp_path: Path, own_policy: bool
) -> None:
    rng = random.Random(KILLS + own_policy)
    (tmp_path / "test_suite.py").write_text(SUITE)
    if own_policy:
        metadata = {"labels": {"team": "a"}, "annotations": {"why": "because"}}
        cluster.put_policy("node.xeon2", default_policy() | {"pinMemory": False}, metadata)
    before = policies(cluster)
    for number in range(KILLS // 2):
        cluster.faults.add(*trouble(rng))
        kill_one(cluster, tmp_path, rng)
        spec = BalloonSpec(cpus=2)
        with make(policy="manage").session([spec]):
            pass
        cluster.faults.clear()
        assert cluster.leftovers() == [], f"after kill {number}: {(tmp_path / 'log').read_text()[-2000:]}"
        assert policies(cluster) == before
    for folder in find_recordings(tmp_path / "out") if (tmp_path / "out").exists() else []:
        if runs := finished_runs(folder):
            assert set(open_recording(folder).requests()["run"].to_pylist()) == set(runs)
