"""What is missing between here and a balloon: each named, with the command that mends it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_nriperf.errors import EnvironmentFault, ProvisionError, SettingsError
from pytest_nriperf.provision.kubernetes import kubernetes_provisioner
from pytest_nriperf.provision.node_files import files_of
from pytest_nriperf.settings import NodeProfile, Settings
from tests.kubernetes.conftest import Make
from tests.kubernetes.double.cluster import Cluster
from tests.kubernetes.double.kinds import PODS, Json


def test_without_a_kubeconfig_the_way_to_one_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    with pytest.raises(SettingsError, match=r"no cluster is configured.*set KUBECONFIG, .*kubectl get nodes"):
        kubernetes_provisioner("xeon2", Settings())


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
