"""`plan` on Kubernetes nodes, and whole pytest sessions through the double."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pytest_nriperf.provision.manifests import to_yaml
from pytest_nriperf.topology import simulated_topology
from tests.kubernetes.double.cluster import Cluster
from tests.kubernetes.double.kinds import CONFIG_MAPS, PODS, POLICIES, Json
from tests.kubernetes.test_manifests import schemas
from tests.kubernetes.test_replay_lives import sent


def command(
    cluster: Cluster, folder: Path, *words: str, token: str = "admin-token"
) -> subprocess.CompletedProcess[str]:
    """A command line of ours, from a folder of its own."""
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig(token)), "XDG_CACHE_HOME": str(folder)}
    environment.pop("PYTEST_CURRENT_TEST", None)
    return subprocess.run(
        [sys.executable, "-m", *words],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env=environment,
        check=False,
    )


def dry_run(cluster: Cluster, document: Json) -> int:
    """As `kubectl apply --dry-run=server` asks for an object that is not there."""
    kind = {"BalloonsPolicy": POLICIES, "ConfigMap": CONFIG_MAPS, "Pod": PODS}[document["kind"]]
    root = f"apis/{kind.group}" if kind.group else "api"
    path = f"/{root}/{kind.version}/namespaces/{document['metadata']['namespace']}/{kind.plural}"
    query = "dryRun=All&fieldValidation=Strict&fieldManager=kubectl-client-side-apply"
    with sent(cluster, "POST", f"{path}?{query}", document) as answer:
        answer.read()
        return answer.status


@pytest.mark.parametrize("mode", ["annotate", "manage"])
def test_plan_prints_manifests_that_the_server_takes(cluster: Cluster, tmp_path: Path, mode: str) -> None:
    flags = ["--manage"] if mode == "manage" else []
    done = command(
        cluster,
        tmp_path,
        "pytest_nriperf",
        "plan",
        "--node=xeon2",
        "--balloon=cpus=4,hyperthreads=hidden,replicas=2",
        *flags,
    )
    assert done.returncode == 0, done.stderr
    documents = list(yaml.safe_load_all(done.stdout))
    assert [each["kind"] for each in documents] == [*(["BalloonsPolicy"] * len(flags)), "ConfigMap", "Pod", "Pod"]
    for schema in schemas():
        cluster.api.schemas.custom[POLICIES] = schema
        for document in documents:
            assert dry_run(cluster, document) == 201
    assert "4 allocated / 2 visible" in done.stdout
    assert cluster.leftovers() == []


def test_plan_leaves_to_the_policy_what_is_the_policys(cluster: Cluster, tmp_path: Path) -> None:
    done = command(cluster, tmp_path, "pytest_nriperf", "plan", "--node=xeon2", "--balloon=cpus=2", "--allowed=0-3")
    assert done.returncode == 2
    assert "its balloons policy decides" in done.stderr


def test_yaml_survives_the_round_trip() -> None:
    value = {
        "text": "a: b # c\n\n  d\n",
        "long": "first\n  second\n\nthird\n",
        "odd": ["", "x\ty\nz\n", "no", "1", True, None, 1.5, [], {}, [["a"], {"b": [{"c": 1}]}]],
        "config.nri/group": {"x": {}},
        "on": "off",
    }
    assert yaml.safe_load(to_yaml(value)) == value


SUITE = """
import pytest

@pytest.mark.requires_node(threads_per_core=2)
@pytest.mark.llm(model="sim:itl=2ms,ttft=5ms")
@pytest.mark.balloon(cpus=2, replicas=2)
@pytest.mark.gate("itl")
def test_chat(llm, baseline):
    m = llm.measure("hello", max_new_tokens=4, requests=2)
    assert len(m.runs) == 2
    baseline.check(m)
"""


def test_a_session_on_two_nodes_one_after_the_other(cluster: Cluster, tmp_path: Path) -> None:
    cluster.add_node("xeon3", simulated_topology("sim:1s4c2t"))
    (tmp_path / "test_suite.py").write_text(SUITE)
    done = command(
        cluster,
        tmp_path,
        "pytest",
        "-q",
        "--nri-node=xeon2,xeon3",
        "--nri-runs=2",
        "--nri-manage",
        "--nri-accept=missing",
        "-p",
        "no:cacheprovider",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    accepted = sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.glob("baselines/**/*.json"))
    assert accepted == [f"baselines/{node}-simulated/test_suite.json" for node in ("xeon2", "xeon3")]
    assert "node xeon2" in done.stdout
    assert "node xeon3" in done.stdout
    assert re.search(r"^nodes side by side +xeon2 +xeon3\ntest_suite.py::test_chat +itl +", done.stdout, re.MULTILINE)
    assert cluster.leftovers() == []


def test_collecting_starts_nothing(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    before = len([change for change in cluster.store.history if change.kind is PODS])
    done = command(cluster, tmp_path, "pytest", "-q", "--collect-only", "--nri-node=xeon2", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len([change for change in cluster.store.history if change.kind is PODS]) == before


def test_a_real_model_without_an_image_names_the_setting(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE.replace("sim:itl=2ms,ttft=5ms", "smollm2"))
    done = command(cluster, tmp_path, "pytest", "-q", "--nri-node=xeon2", "--nri-runs=1", "-p", "no:cacheprovider")
    assert done.returncode == 1
    assert 'set image = "..." in [tool.nriperf.nodes.xeon2]' in done.stdout
    assert cluster.leftovers() == []
