"""The double serves the official client, unpatched, and its nodes behave as recorded."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import stream
from urllib3.exceptions import HTTPError

from pytest_nriperf.provision import cluster as provision_cluster
from pytest_nriperf.topology import Topology
from tests.kubernetes.double.api import Request
from tests.kubernetes.double.balloons_policy import Container
from tests.kubernetes.double.cluster import Cluster
from tests.kubernetes.double.faults import Fault
from tests.kubernetes.double.kinds import CONFIG_MAPS, EVENTS, PODS, POLICIES, ZONES, Json
from tests.kubernetes.double.kubelet import Process
from tests.kubernetes.double.validation import fill

# The official client leaves sockets of unfinished responses to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

BALLOON = "balloon.balloons.resource-policy.nri.io"
WAIT = "import signal,sys;signal.signal(15,lambda *a:sys.exit(0));print('up',flush=True);signal.pause()"
GROUP = ("config.nri", "v1alpha1", "kube-system", "balloonspolicies")


def pod_of(name: str, balloon: str = "", cpu: str = "2", **spec: Any) -> Json:
    """A pod that waits, of a balloon type."""
    resources = {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}
    container = {"name": "c", "image": "x:1", "command": ["python3", "-c", WAIT], "resources": resources}
    metadata: Json = {"name": name, **({"annotations": {BALLOON: balloon}} if balloon else {})}
    return {"metadata": metadata, "spec": {"restartPolicy": "Never", "containers": [container], **spec}}


def policy_of(**changes: Any) -> Json:
    """A policy with a type of each kind."""
    types = [
        {"name": "a", "minCPUs": 2, "maxCPUs": 2, "preferSpreadOnPhysicalCores": True, "preferNewBalloons": True},
        {"name": "b", "minCPUs": 2, "maxCPUs": 2, "preferNewBalloons": True, "maxBalloons": 1},
        {"name": "c", "minCPUs": 4, "maxCPUs": 4, "hideHyperthreads": True, "preferNewBalloons": True},
    ]
    return {
        "reservedResources": {"cpu": "1"},
        "pinMemory": False,
        "showContainersInNrt": True,
        "allocatorTopologyBalancing": True,
        "balloonTypes": types,
        **changes,
    }


def phase(cluster: Cluster, name: str) -> str:
    pod = cluster.store.find(PODS, name, "perf")
    return "gone" if pod is None else str(pod["status"]["phase"])


def runs(cluster: Cluster, name: str) -> bool:
    return phase(cluster, name) == "Running"


def state(cluster: Cluster, name: str) -> Json:
    pod = cluster.store.find(PODS, name, "perf")
    statuses = (pod or {}).get("status", {}).get("containerStatuses") or [{"state": {}}]
    found: Json = statuses[0]["state"]
    return found


def zones(cluster: Cluster) -> dict[str, str]:
    """Zone -> cpuset."""
    found = cluster.store.get(ZONES, "xeon2")["zones"]
    return {zone["name"]: zone["attributes"][0]["value"] for zone in found}


def verdict(cluster: Cluster, generation: int, name: str = "node.xeon2") -> Json:
    """The verdict about a generation."""

    def seen() -> Any:
        nodes = (cluster.store.get(POLICIES, name, "kube-system").get("status") or {}).get("nodes") or {}
        entry = nodes.get("xeon2", {})
        return entry if entry.get("generation", 0) >= generation else None

    found: Json = cluster.store.until(seen)
    return found


def test_the_client_lists_creates_and_watches(cluster: Cluster, official: Any) -> None:
    core = client.CoreV1Api(official)
    assert [node.metadata.name for node in core.list_node().items] == ["xeon2"]
    version = core.list_namespaced_pod("perf").metadata.resource_version
    core.create_namespaced_pod("perf", pod_of("p"))
    seen = []
    for event in watch.Watch().stream(core.list_namespaced_pod, "perf", resource_version=version, timeout_seconds=5):
        seen.append((event["type"], event["object"].status.phase))
        if event["object"].status.phase == "Running":
            break
    assert seen[0] == ("ADDED", "Pending")
    assert seen[-1] == ("MODIFIED", "Running")


def test_the_three_placements_are_pinned_and_published(cluster: Cluster, official: Any) -> None:
    generation = cluster.put_policy("node.xeon2", policy_of())["metadata"]["generation"]
    assert verdict(cluster, generation)["status"] == "Success"
    core = client.CoreV1Api(official)
    for name, balloon, cpu in (("va", "a", "2"), ("vb", "b", "2"), ("vc", "c", "4")):
        core.create_namespaced_pod("perf", pod_of(name, balloon, cpu))
        cluster.store.until(functools.partial(runs, cluster, name))
    found = zones(cluster)
    topology = cluster.nodes["xeon2"].topology
    cores = {topology.cpu(int(cpu)).core for cpu in found["perf/va/c"].replace("-", ",").split(",")}
    assert len(cores) == 2
    assert found["perf/vb/c"] == found["b[0]"]
    assert found["c[0]"] == "6-7,14-15"
    assert found["perf/vc/c"] == "6-7"


def test_exec_has_channels_and_an_exit_status(cluster: Cluster, official: Any) -> None:
    core = client.CoreV1Api(official)
    core.create_namespaced_pod("perf", pod_of("p"))
    cluster.store.until(lambda: phase(cluster, "p") == "Running")

    def run(*command: str) -> Any:
        arguments = {"command": list(command), "stdin": False, "stdout": True, "stderr": True, "tty": False}
        found = stream(core.connect_get_namespaced_pod_exec, "p", "perf", _preload_content=False, **arguments)
        found.run_forever(10)
        found.close()
        return found

    both = run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (both.read_stdout(), both.read_stderr(), both.returncode) == ("out\n", "err\n", 3)
    large = run("python3", "-c", "print('x' * 300000)")
    assert len(large.read_stdout()) == 300001
    with pytest.raises(ValueError, match="unable to st"):
        run("/no/such").returncode  # noqa: B018
    with pytest.raises(ApiException, match="404 Not Found"):
        stream(core.connect_get_namespaced_pod_exec, "nosuch", "perf", command=["ls"], stdout=True)


def test_a_balloon_that_is_taken_is_not_yet_and_comes_free(cluster: Cluster, official: Any) -> None:
    verdict(cluster, cluster.put_policy("node.xeon2", policy_of())["metadata"]["generation"])
    core = client.CoreV1Api(official)
    core.create_namespaced_pod("perf", pod_of("first", "b"))
    cluster.store.until(lambda: phase(cluster, "first") == "Running")
    core.create_namespaced_pod("perf", pod_of("second", "b"))
    waiting = cluster.store.until(
        lambda: state(cluster, "second").get("waiting", {}).get("message") and state(cluster, "second")
    )
    assert waiting["waiting"]["reason"] == "CreateContainerError"
    assert waiting["waiting"]["message"].endswith(
        "balloon allocation for container perf/second/c failed: balloons: no suitable balloon instance available"
    )
    core.delete_namespaced_pod("first", "perf", grace_period_seconds=1)
    cluster.store.until(lambda: phase(cluster, "second") == "Running")


def test_a_dead_container_comes_back_as_a_ghost_when_the_policy_changes(cluster: Cluster, official: Any) -> None:
    verdict(cluster, cluster.put_policy("node.xeon2", policy_of())["metadata"]["generation"])
    core = client.CoreV1Api(official)
    body = pod_of("g1", "b")
    body["spec"]["containers"][0]["command"] = ["python3", "-c", "pass"]
    core.create_namespaced_pod("perf", body)
    cluster.store.until(lambda: phase(cluster, "g1") == "Succeeded")
    assert "perf/g1/c" not in zones(cluster)
    verdict(cluster, cluster.put_policy("node.xeon2", policy_of(pinMemory=True))["metadata"]["generation"])
    assert "perf/g1/c" in zones(cluster)
    core.delete_namespaced_pod("g1", "perf")
    cluster.store.until(lambda: "perf/g1/c" not in zones(cluster))
    assert "b[0]" in zones(cluster), "its balloon stays until the next change"
    verdict(cluster, cluster.put_policy("node.xeon2", policy_of())["metadata"]["generation"])
    assert "b[0]" not in zones(cluster)


def test_a_gracefully_deleted_pod_leaves_no_ghost(cluster: Cluster, official: Any) -> None:
    verdict(cluster, cluster.put_policy("node.xeon2", policy_of())["metadata"]["generation"])
    core = client.CoreV1Api(official)
    core.create_namespaced_pod("perf", pod_of("g", "b"))
    cluster.store.until(lambda: phase(cluster, "g") == "Running")
    core.delete_namespaced_pod("g", "perf", grace_period_seconds=2)
    cluster.store.until(lambda: phase(cluster, "g") == "gone")
    verdict(cluster, cluster.put_policy("node.xeon2", policy_of(pinMemory=True))["metadata"]["generation"])
    assert "b[0]" not in zones(cluster)


def test_a_killed_plugin_leaves_its_success_and_pods_start_unpinned(cluster: Cluster, official: Any) -> None:
    verdict(cluster, cluster.put_policy("node.xeon2", policy_of())["metadata"]["generation"])
    cluster.plugins["xeon2"].kill()
    assert verdict(cluster, 1)["status"] == "Success"
    client.CoreV1Api(official).create_namespaced_pod("perf", pod_of("p", "b"))
    cluster.store.until(lambda: phase(cluster, "p") == "Running")
    assert "b[0]" not in zones(cluster)


def test_a_plugin_that_comes_back_pins_what_started_without_it(cluster: Cluster, official: Any) -> None:
    verdict(cluster, cluster.put_policy("node.xeon2", policy_of())["metadata"]["generation"])
    cluster.plugins["xeon2"].kill()
    client.CoreV1Api(official).create_namespaced_pod("perf", pod_of("p", "b"))
    cluster.store.until(lambda: phase(cluster, "p") == "Running")
    cluster.plugins["xeon2"].start()
    cluster.store.until(lambda: "b[0]" in zones(cluster))
    assert zones(cluster)["perf/p/c"] == zones(cluster)["b[0]"]


def test_a_container_that_starts_while_the_double_ends_is_ended_too(
    node_topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[Process] = []
    with Cluster() as cluster:
        kubelet = cluster.add_node("xeon2", node_topology)
        launch = kubelet.launch

        def while_it_ends(pod: Json, mounts: dict[str, Path], container: Container) -> Process:
            launched.append(launch(pod, mounts, container))
            kubelet.close()
            return launched[-1]

        monkeypatch.setattr(kubelet, "launch", while_it_ends)
        body = pod_of("p")
        body["metadata"]["namespace"] = "perf"
        fill(PODS, body)
        cluster.store.create(PODS, body)
        cluster.store.until(lambda: any(event["reason"] == "Started" for event in cluster.store.all(EVENTS)))
    assert launched[0].main is not None
    assert launched[0].main.returncode is not None


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (
            {"balloonTypes": [{"name": "a", "minCPUs": 2, "maxCPUs": 1}]},
            'MinCpus (2) > MaxCpus (1) in balloon type "a"',
        ),
        ({"balloonTypes": [{"name": "a"}, {"name": "a"}]}, 'two balloon types with the same name: "a"'),
        ({"availableResources": {"cpu": "2"}}, "can't handle CPU resources given as resource.Quantity (2)"),
        (
            {"balloonTypes": [{"name": "a", "minCPUs": 12, "maxCPUs": 12, "minBalloons": 2}]},
            "not enough free CPUs (4) to resize current CPU set from 0 to 12 CPUs",
        ),
    ],
)
def test_the_plugin_rejects_in_its_own_words_and_keeps_the_old_configuration(
    cluster: Cluster, spec: Json, text: str
) -> None:
    verdict(cluster, cluster.put_policy("node.xeon2", policy_of())["metadata"]["generation"])
    entry = verdict(cluster, cluster.put_policy("node.xeon2", policy_of(**spec))["metadata"]["generation"])
    assert entry["status"] == "Failure"
    assert entry["errors"].endswith(text)
    assert cluster.plugins["xeon2"].policy is not None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"images": set()}, "ErrImagePull"),
        ({"command": "/no/such/thing"}, "StartError"),
        ({"cpu": "64"}, "Unschedulable"),
        ({"order": "oom"}, "OOMKilled"),
        ({"order": "evict"}, "Evicted"),
        ({"configmap": "nosuch"}, "FailedMount"),
    ],
)
def test_pods_fail_as_recorded(cluster: Cluster, official: Any, change: Json, reason: str) -> None:
    cluster.nodes["xeon2"].images = change.get("images")
    body = pod_of("p", cpu=change.get("cpu", "1"))
    container = body["spec"]["containers"][0]
    if "command" in change:
        container["command"] = [change["command"]]
    if "configmap" in change:
        container["volumeMounts"] = [{"name": "v", "mountPath": "/x"}]
        body["spec"]["volumes"] = [{"name": "v", "configMap": {"name": change["configmap"]}}]
    client.CoreV1Api(official).create_namespaced_pod("perf", body)
    if "order" in change:
        cluster.store.until(lambda: phase(cluster, "p") == "Running")
        cluster.nodes["xeon2"].order("p", change["order"])

    def words() -> bool:
        events = client.CoreV1Api(official).list_namespaced_event("perf").items
        pod = cluster.store.get(PODS, "p", "perf")
        return reason in str(pod["status"]) or any(event.reason == reason for event in events)

    cluster.store.until(words)


def test_faults_hit_the_requests_that_they_name(cluster: Cluster, official: Any) -> None:
    core = client.CoreV1Api(official)
    cluster.faults.add(Fault("500", "GET /api/v1/nodes"), Fault("429", "GET /api/v1/namespaces/perf/pods", value=1))
    with pytest.raises(ApiException) as failed:
        core.read_node("xeon2")
    assert failed.value.status == 500
    assert core.read_node("xeon2").metadata.name == "xeon2"
    cluster.faults.add(Fault("lost", "POST .*/configmaps"))
    with pytest.raises(HTTPError):
        core.create_namespaced_config_map("perf", {"metadata": {"name": "m"}})
    assert core.read_namespaced_config_map("m", "perf").metadata.name == "m"


def test_what_is_owned_goes_with_its_owner(cluster: Cluster, official: Any) -> None:
    core = client.CoreV1Api(official)
    owner = core.create_namespaced_config_map("perf", {"metadata": {"name": "m"}})
    body = pod_of("p")
    body["metadata"]["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "m", "uid": owner.metadata.uid}
    ]
    core.create_namespaced_pod("perf", body)
    cluster.store.until(lambda: phase(cluster, "p") == "Running")
    core.delete_namespaced_config_map("m", "perf")
    cluster.store.until(lambda: phase(cluster, "p") == "gone")


def test_a_watch_of_a_forgotten_version_is_gone_and_goes_on_after_a_new_list(cluster: Cluster, official: Any) -> None:
    core = client.CoreV1Api(official)
    old = core.list_namespaced_pod("perf").metadata.resource_version
    core.create_namespaced_config_map("perf", {"metadata": {"name": "m"}})
    cluster.store.forget()
    watching = watch.Watch()
    with pytest.raises(ApiException, match="Expired: too old resource version") as expired:
        list(watching.stream(core.list_namespaced_pod, "perf", resource_version=old, timeout_seconds=2))
    assert expired.value.status == 410
    new = core.list_namespaced_pod("perf").metadata.resource_version
    core.create_namespaced_pod("perf", pod_of("p"))
    events = watch.Watch().stream(core.list_namespaced_pod, "perf", resource_version=new, timeout_seconds=5)
    assert next(iter(events))["object"].metadata.name == "p"


def test_a_watch_that_the_server_closes_ends_and_can_go_on_where_it_was(cluster: Cluster, official: Any) -> None:
    core = client.CoreV1Api(official)
    version = core.list_namespaced_pod("perf").metadata.resource_version
    watching = watch.Watch()
    options = {"resource_version": version, "timeout_seconds": 1}
    assert list(watching.stream(core.list_namespaced_pod, "perf", **options)) == []
    core.create_namespaced_pod("perf", pod_of("p"))
    events = watching.stream(core.list_namespaced_pod, "perf", **{**options, "timeout_seconds": 5})
    assert next(iter(events))["type"] == "ADDED"


def test_a_list_whose_pages_are_forgotten_begins_anew(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig()))
    monkeypatch.setattr(provision_cluster, "PAGE", "1")
    for name in "abc":
        cluster.store.create(CONFIG_MAPS, {"metadata": {"name": name, "namespace": "perf"}})
    asked: list[str] = []

    def forget(request: Request) -> None:
        asked.append(request.one("continue"))
        if len(asked) == 2:
            cluster.store.create(CONFIG_MAPS, {"metadata": {"name": "d", "namespace": "perf"}})
            cluster.store.forget()

    cluster.server.on_request = forget
    with contextlib.closing(provision_cluster.Cluster()) as ours:
        found = ours.find(provision_cluster.CONFIG_MAPS, "perf")
    assert [entry["metadata"]["name"] for entry in found] == ["a", "b", "c", "d"]
    assert asked.count("") == 2
