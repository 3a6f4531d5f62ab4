"""The suites of this project pass on a Kubernetes node as they stand, with a simulated engine and a real one."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from pytest_nriperf.topology import simulated_topology
from tests.generate.tiny_models import save_llama
from tests.kubernetes.double.cluster import Cluster
from tests.kubernetes.typed import typed

ROOT = Path(__file__).parents[2]
SUITES = ("test_latency.py", "test_throughput.py", "test_hyperthreads.py")
PROFILE = """
[nodes.here]
node = "xeon1"
namespace = "perf"
image = "localhost/llm:1"
policy = "manage"
"""


@pytest.mark.parametrize("model", ["sim:itl=2ms,ttft=5ms", "transformers"])
def test_the_suites_pass_on_a_node(tmp_path: Path, model: str) -> None:
    for name in SUITES:
        shutil.copy(ROOT / "perf_suites" / name, tmp_path)
    # The double's pods see this machine's files: the interpreter that has the engine's libraries is ours.
    (tmp_path / "nriperf.toml").write_text(f"{PROFILE}python = {json.dumps(sys.executable)}\n")
    if model == "transformers":
        save_llama(tmp_path / "model")
        model = str(tmp_path / "model")
    with Cluster() as cluster:
        # More cores than this machine may have: then processes run where they can, and see the node's CPUs in /proc.
        cluster.add_node("xeon1", simulated_topology("sim:1s4c2t"))
        command = ["pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.", "--nri-node=here", f"--nri-model={model}"]
        done = typed(cluster, tmp_path, [*command, "--nri-runs=1", "--nri-collect=none", "--nri-fail-on=nothing"])
        assert done.returncode == 0, done.stdout + done.stderr
        assert "5 passed" in done.stdout
        assert cluster.leftovers() == []
