"""Nothing secret leaves this process: not into recordings, reports or output, nor into the cluster's objects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kubernetes.double.cluster import Cluster
from tests.kubernetes.typed import typed

TOKEN, KEY = "token-that-nobody-may-see", "key-that-nobody-may-see"
PROFILE = """
[nodes.here]
node = "xeon2"
namespace = "perf"
pull_secret = "registry-login"
service_account = "runner"
"""
SUITE = """
import pytest

@pytest.mark.llm(model="sim:itl=1ms,ttft=2ms")
@pytest.mark.balloon(cpus=2)
def test_chat(llm):
    llm.measure("hello", max_new_tokens=4, requests=1)

@pytest.mark.llm(model="sim:itl=1ms,ttft=2ms")
@pytest.mark.balloon(cpus=4)
def test_that_fails(llm):
    raise RuntimeError("this test fails")
"""


@pytest.mark.parametrize("more", ["", 'python = "/no/python"\n'], ids=["measured", "without an interpreter"])
def test_tokens_and_keys_are_written_nowhere(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str
) -> None:
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, KEY)
    cluster.access.add_user("admin", TOKEN)
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "nriperf.toml").write_text(PROFILE + more)
    written = ["--nri-out=out", "--nri-report=report.html", "--nri-summary=summary.md", "--nri-json=verdicts.json"]
    command = ["pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.", "--nri-node=here", "--nri-runs=1"]
    done = typed(
        cluster, tmp_path, [*command, "--nri-collect=none", "-vv", "--showlocals", *written], cluster.kubeconfig(TOKEN)
    )
    assert done.returncode == 1
    assert ("cannot start" in done.stdout) == bool(more)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "nriperf.toml"]
    texts = [path.read_bytes() for path in files] + [done.stdout.encode(), done.stderr.encode()]
    texts += [json.dumps(change.object).encode() for change in cluster.store.history]
    assert more or tmp_path / "verdicts.json" in files
    for secret in (TOKEN, KEY):
        assert not [text[:200] for text in texts if secret.encode() in text]
