"""`plan` and `doctor` on Kubernetes nodes, permissions, and whole pytest sessions through the double."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.provision.manifests import to_yaml
from pytest_nriperf.provision.rights import missing
from pytest_nriperf.settings import NodeProfile
from pytest_nriperf.topology import simulated_topology
from tests.kubernetes.conftest import Make
from tests.kubernetes.double import validation
from tests.kubernetes.double.cluster import Cluster
from tests.kubernetes.double.kinds import CONFIG_MAPS, PODS, POLICIES, Json

ROOT = Path(__file__).parents[2]
ROLES = ROOT / "docs/kubernetes-rbac.yaml"
USER = "system:serviceaccount:perf:nriperf"


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
    for document in documents:
        kind = {"BalloonsPolicy": POLICIES, "ConfigMap": CONFIG_MAPS, "Pod": PODS}[document["kind"]]
        assert cluster.api.schemas.unknown(kind, document) == []
        validation.check(kind, document, cluster.api.schemas)
    assert "4 allocated / 2 visible" in done.stdout
    assert cluster.leftovers() == []


def test_yaml_survives_the_round_trip() -> None:
    value = {
        "text": "a: b # c\n\n  d\n",
        "long": "first\n  second\n\nthird\n",
        "odd": ["", "x\ty\nz\n", "no", "1", True, None, 1.5, [], {}, [["a"], {"b": [{"c": 1}]}]],
        "config.nri/group": {"x": {}},
        "on": "off",
    }
    assert yaml.safe_load(to_yaml(value)) == value


def test_doctor_says_all_in_one_go(cluster: Cluster, tmp_path: Path) -> None:
    done = command(cluster, tmp_path, "pytest_nriperf", "doctor", "--node=xeon2", "--json")
    found = {each["check"]: each for each in json.loads(done.stdout)["findings"]}
    assert {"node", "permissions", "balloons plugin", "balloons policy", "a pod"} <= set(found)
    assert found["a pod"]["level"] == "good"
    assert found["counters"]["found"].startswith("proc without what it tells of each replica's tasks (host_pid is not")
    assert "hardware counters" in found
    cluster.store.remove(PODS, "nri-resource-policy-balloons-xeon2", "kube-system")
    cluster.access.add_user(USER, "t")
    done = command(cluster, tmp_path, "pytest_nriperf", "doctor", "--node=nosuch")
    assert done.returncode == 2
    assert "no profile and no node" in done.stderr
    assert "xeon2" in done.stderr
    assert cluster.leftovers() == []


def roles(mode: str) -> list[Json]:
    """The documents of the Roles that a mode needs, in the namespaces of the tests."""
    documents = [each for each in yaml.safe_load_all(ROLES.read_text()) if each]
    for each in documents:
        metadata = each["metadata"]
        if metadata.get("namespace") == "perf-tests":
            metadata["namespace"] = "perf"
        for subject in each.get("subjects", ()):
            subject["namespace"] = "perf"
    return [each for each in documents if mode == "manage" or "manage" not in each["metadata"]["name"]]


@pytest.mark.parametrize("mode", ["annotate", "manage"])
def test_the_documented_roles_are_enough_for_a_whole_session(cluster: Cluster, make: Make, mode: str) -> None:
    cluster.access.add_user(USER, "t")
    cluster.access.load(roles(mode))
    provisioner = make(token="t", policy=mode)
    assert missing(provisioner.cluster, NodeProfile(name="x", namespace="perf", policy=mode)) == []
    spec = BalloonSpec(cpus=2)
    with provisioner.session([spec]), provisioner.provision(spec) as grant:
        assert grant.placement.cpus == 2
    assert cluster.leftovers() == []


@pytest.mark.parametrize(
    ("resource", "verb", "text"),
    [
        ("pods/exec", "create", "probably for lack of the verb create on pods/exec"),
        ("pods/exec", "get", "may not get pods/exec in namespace perf.*kubectl auth can-i get pods/exec -n perf"),
        ("leases", "create", "may not create leases.coordination.k8s.io in namespace default"),
        ("configmaps", "create", "may not create configmaps in namespace perf"),
    ],
)
def test_a_missing_verb_is_named(cluster: Cluster, make: Make, resource: str, verb: str, text: str) -> None:
    documents = roles("annotate")
    for document in documents:
        for rule in document.get("rules", ()):
            if resource in rule["resources"]:
                rule["verbs"] = [each for each in rule["verbs"] if each != verb]
    cluster.access.add_user(USER, "t")
    cluster.access.load(documents)
    provisioner = make(token="t")
    spec = BalloonSpec(cpus=2)
    from pytest_nriperf.errors import ProvisionError

    with pytest.raises(ProvisionError, match=text), provisioner.session([spec]), provisioner.provision(spec):
        pass
    assert any(f"{verb} {resource}" in each for each in missing(provisioner.cluster, provisioner.profile))


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
    assert re.search(r"^nodes side by side +xeon2 +xeon3\ntest_suite.py::test_chat +ttft +", done.stdout, re.MULTILINE)
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
