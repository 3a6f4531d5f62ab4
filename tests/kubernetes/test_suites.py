"""The suites of this project pass on a Kubernetes node as they stand, with a simulated engine and a real one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_nriperf.topology import read_topology
from tests.kubernetes.double.cluster import Cluster

ROOT = Path(__file__).parents[2]
PROFILE = '[nodes.here]\nnode = "native"\nnamespace = "perf"\nimage = "localhost/llm:1"\npolicy = "manage"\n'
# A transformers model of a few thousand weights: the real library, nothing to download.
TINY = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "vocab_size": 256,
    "n_positions": 128,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
}


@pytest.mark.parametrize("model", ["sim:itl=2ms,ttft=5ms", "transformers"])
def test_the_latency_suite_passes_on_a_node(tmp_path: Path, model: str) -> None:
    shutil.copy(ROOT / "perf_suites/test_latency.py", tmp_path)
    # The double's pods see this machine's files: the interpreter that has the engine's libraries is ours.
    (tmp_path / "nriperf.toml").write_text(f"{PROFILE}python = {json.dumps(sys.executable)}\n")
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    model = f"dummy:{tmp_path}/config.json" if model == "transformers" else model
    with Cluster() as cluster:
        cluster.add_node("native", read_topology())
        environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig()), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        environment.pop("PYTEST_CURRENT_TEST", None)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.", "--nri-node=here"]
        done = subprocess.run(
            [*command, f"--nri-model={model}", "--nri-runs=2", "--nri-fail-on=nothing"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "1 passed" in done.stdout
        assert cluster.leftovers() == []
