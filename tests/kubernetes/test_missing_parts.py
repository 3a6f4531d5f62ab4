"""What is missing between here and a balloon: each named, with the command that mends it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import yaml

from pytest_nriperf.errors import EnvironmentFault, ProvisionError, SettingsError
from pytest_nriperf.provision import cluster as provision_cluster
from pytest_nriperf.provision.cluster import NODES
from pytest_nriperf.provision.kubernetes import kubernetes_provisioner
from pytest_nriperf.provision.node_files import files_of
from pytest_nriperf.settings import NodeProfile, Settings
from tests.kubernetes.conftest import Make
from tests.kubernetes.double.cluster import Cluster
from tests.kubernetes.double.faults import Fault
from tests.kubernetes.double.kinds import PODS, Json
from tests.kubernetes.double.server import make_certificate


def test_without_a_kubeconfig_the_way_to_one_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    with pytest.raises(SettingsError, match=r"no cluster is configured.*set KUBECONFIG, .*kubectl get nodes"):
        kubernetes_provisioner("xeon2", Settings())


@pytest.mark.parametrize(
    "content",
    [
        "",
        "hello",
        "- a\n- b\n",
        "contexts: [",
        "apiVersion: v1\nkind: Config\n",
        "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n",
    ],
    ids=["empty", "a word", "a list", "broken", "without contexts", "without its cluster"],
)
def test_a_file_that_is_no_kubeconfig_is_told_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str
) -> None:
    (tmp_path / "config").write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(SettingsError, match=r"no cluster is configured: .*set KUBECONFIG"):
        kubernetes_provisioner("xeon2", Settings())


def test_credentials_that_cannot_be_had_are_told(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cluster.kubeconfig()
    document = yaml.safe_load(path.read_text())
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "/no/such/plugin"}
    document["users"][0]["user"] = {"exec": plugin}
    path.write_text(yaml.safe_dump(document))
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(ProvisionError, match=r"takes us for nobody: .*kubectl auth whoami"):
        kubernetes_provisioner("xeon2", Settings())


@pytest.mark.parametrize("context", ["", "double"])
def test_pods_run_in_the_namespace_of_the_context_unless_the_profile_names_one(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, context: str
) -> None:
    path = cluster.kubeconfig()
    document = yaml.safe_load(path.read_text())
    document["contexts"][0]["context"]["namespace"] = "perf"
    if context:
        # A profile's context needs no current one.
        del document["current-context"]
    path.write_text(yaml.safe_dump(document))
    monkeypatch.setenv("KUBECONFIG", str(path))
    for given, used in (("", "perf"), ("other", "other")):
        nodes = {"xeon2": NodeProfile(name="xeon2", context=context, namespace=given)}
        with contextlib.closing(kubernetes_provisioner("xeon2", Settings(nodes=nodes))) as found:
            assert found.profile.namespace == used
            assert found.cluster.context == "double"


def test_a_server_that_never_answered_is_not_waited_for_as_long_as_one_that_did(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig()))
    monkeypatch.setattr(provision_cluster, "FIRST_S", 0.5)
    cluster.faults.add(Fault("reset", times=1 << 30))
    with pytest.raises(
        ProvisionError, match=r"API server https://127.0.0.1:\d+ does not answer .*kubectl cluster-info"
    ):
        kubernetes_provisioner("xeon2", Settings())
    cluster.faults.clear()
    with contextlib.closing(kubernetes_provisioner("xeon2", Settings())) as node:
        monkeypatch.setattr(provision_cluster, "FIRST_S", 0.05)
        cluster.faults.seen.clear()
        cluster.faults.add(Fault("reset", times=3))
        assert node.cluster.get(NODES, "xeon2") is not None
        assert len(cluster.faults.seen) == 3
        # Once it has been waited for in vain, nothing else waits as long.
        monkeypatch.setattr(provision_cluster, "PATIENCE_S", 0.5)
        cluster.faults.add(Fault("reset", times=1 << 30))
        for _ in range(2):
            cluster.faults.seen.clear()
            with pytest.raises(ProvisionError, match="does not answer"):
                node.cluster.get(NODES, "xeon2")
        assert len(cluster.faults.seen) == 1
        cluster.faults.clear()


def test_a_server_that_is_not_the_kubeconfigs_is_told_at_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = cluster.kubeconfig()
    _, other = make_certificate(tmp_path)
    path.write_text(path.read_text().replace(str(cluster.certificate), str(other)))
    monkeypatch.setenv("KUBECONFIG", str(path))
    asked: list[str] = []
    cluster.server.on_request = lambda request: asked.append(request.target)
    with pytest.raises(ProvisionError, match=r"does not answer .*certificate.*is not what the kubeconfig expects"):
        kubernetes_provisioner("xeon2", Settings())
    assert asked == []


def test_an_unknown_context_is_named(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig()))
    nodes = {"xeon2": NodeProfile(name="xeon2", context="elsewhere")}
    with pytest.raises(SettingsError, match=r"no context 'elsewhere'.*kubectl config get-contexts"):
        kubernetes_provisioner("xeon2", Settings(nodes=nodes))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_unknown_node_is_named_with_those_that_there_are(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig()))
    with pytest.raises(SettingsError, match=r"'xeno2' is no profile and no node .*its nodes: xeon2"):
        kubernetes_provisioner("xeno2", Settings())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_plugin_that_is_not_ready_is_named(cluster: Cluster, make: Make) -> None:
    def not_ready(pod: Json) -> None:
        pod["status"]["conditions"][0]["status"] = "False"

    cluster.store.update(PODS, "nri-resource-policy-balloons-xeon2", "kube-system", not_ready)
    with (
        pytest.raises(EnvironmentFault, match=r"-balloons-xeon2 is not ready .*kubectl describe pod .*kubectl logs"),
        make().session([]),
    ):
        pass


def test_pods_in_a_time_namespace_of_their_own_are_refused() -> None:
    answer = {"groups": [{}], "timens_offsets": "monotonic           86400         0\nboottime 0 0\n"}
    with pytest.raises(ProvisionError, match=r"time namespace of their own .*off by 86400 s.*would join with nothing"):
        files_of(json.dumps(answer).encode(), ("/sys",), "xeon1")
    answer["timens_offsets"] = "monotonic           0         0\n"
    assert files_of(json.dumps(answer).encode(), ("/sys",), "xeon1") == {}
