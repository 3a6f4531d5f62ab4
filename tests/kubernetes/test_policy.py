"""The node's policy: changed for a session, refused, restored; dead containers that a change brings back."""

from __future__ import annotations

import contextlib
import copy
import json
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nriperf.balloons import BalloonSpec, Placement
from pytest_nriperf.errors import ProvisionError
from pytest_nriperf.provision import manifests, node_policy
from pytest_nriperf.provision.balloon_types import TypePlan, mark, plan_types, with_types
from pytest_nriperf.provision.pod_grant import PodGrant
from pytest_nriperf.topology import Topology
from pytest_nriperf.units import format_cpus
from tests.kubernetes.conftest import Make
from tests.kubernetes.double.api import Request
from tests.kubernetes.double.balloons_policy import Container
from tests.kubernetes.double.cluster import Cluster, default_policy
from tests.kubernetes.double.kinds import NODES, PODS, POLICIES, ZONES, Json
from tests.kubernetes.test_provisioner import policies

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

OWNER = {"apiVersion": "v1", "kind": "ConfigMap", "name": "gitops", "uid": "1"}
METADATA: Json = {
    "labels": {"team": "a"},
    "annotations": {"why": "because"},
    "ownerReferences": [OWNER],
    "finalizers": ["example.org/keep"],
}


def wrong_for_four_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Types for balloons of 4 CPUs become such as the plugin rejects."""

    def planned(placement: Placement, topology: Topology, session: str) -> TypePlan:
        plan = plan_types(placement, topology, session)
        types = tuple({**entry, "minCPUs": 99} for entry in plan.types)
        return replace(plan, types=types) if placement.cpus == 4 else plan

    monkeypatch.setattr("pytest_nriperf.provision.policy_types.plan_types", planned)


def zones(cluster: Cluster) -> dict[str, str]:
    """Zone -> cpuset."""
    found = cluster.store.get(ZONES, "xeon2")["zones"]
    return {zone["name"]: zone["attributes"][0]["value"] for zone in found}


def in_force(cluster: Cluster) -> list[str]:
    """Names of the types that the plugin works with."""
    policy = cluster.plugins["xeon2"].policy
    assert policy is not None
    return [type_.name for type_ in policy.config.types]


def verdict(cluster: Cluster, name: str) -> Json:
    """The plugin's verdict in an object's status."""
    found = cluster.store.get(POLICIES, name, "kube-system")
    entry: Json = ((found.get("status") or {}).get("nodes") or {}).get("xeon2") or {}
    return {"generation": found["metadata"]["generation"], "says": entry.get("status"), "of": entry.get("generation")}


def removed_when_seen(cluster: Cluster, zone: str, remove: Callable[[], None]) -> list[str]:
    """The runtime removes a dead container after the client has looked at its ghost a few times; the looks."""
    looks: list[str] = []

    def look(request: Request) -> None:
        if "noderesourcetopologies" in request.path and zone in zones(cluster):
            looks.append(request.path)
            if len(looks) == 3:
                remove()

    cluster.server.on_request = look
    return looks


def test_types_that_exclude_each_other_are_written_one_after_the_other(cluster: Cluster, make: Make) -> None:
    # Four cores' threads reach over NUMA nodes of two cores; where others keep to a node each, the policy would put
    # them all into the last node, second threads included.
    spread, single = BalloonSpec(cpus=4, hyperthreads="spread"), BalloonSpec(cpus=2, replicas="numa")
    before = policies(cluster)
    provisioner = make(policy="manage")
    with provisioner.session([spread, single]):
        for spec in (spread, single, spread):
            with provisioner.provision(spec) as grant:
                assert len(grant.placement.replicas[0].allocated) == grant.placement.cpus
        with (
            provisioner.provision(single),
            pytest.raises(ProvisionError, match=r"balloon that is open .* exclude each other.*one after the other"),
            provisioner.provision(spread),
        ):
            pass
        # One that was not announced and reaches over nodes without spreading goes with either.
        with provisioner.provision(spread) as grant, provisioner.provision(BalloonSpec(cpus=6)) as other:
            assert grant.placement.cpus == 4
            assert other.placement.cpus == 6
    assert policies(cluster) == before


def test_a_balloon_that_nobody_announced_gets_its_types_too(cluster: Cluster, make: Make) -> None:
    before = policies(cluster)
    provisioner = make(policy="manage")
    with provisioner.session([]), provisioner.provision(BalloonSpec(cpus=2)) as grant:
        assert grant.placement.cpus == 2
    assert policies(cluster) == before


def test_types_that_the_plugin_rejects_do_not_stand_in_the_way_of_others(
    cluster: Cluster, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = policies(cluster)
    provisioner = make(policy="manage")

    wrong_for_four_cpus(monkeypatch)
    with provisioner.session([]):
        for cpus in (2, 4, 6, 4, 2):
            with contextlib.ExitStack() as undo:
                if cpus == 4:
                    undo.enter_context(pytest.raises(ProvisionError, match=r"rejects our change.*MinCpus \(99\)"))
                grant = undo.enter_context(provisioner.provision(BalloonSpec(cpus=cpus)))
                assert grant.placement.cpus == cpus
    assert policies(cluster) == before


@pytest.mark.parametrize("own", [False, True], ids=["default policy", "policy of the node"])
def test_what_was_there_is_back_and_in_force_when_the_session_ends(cluster: Cluster, make: Make, own: bool) -> None:
    if own:
        cluster.put_policy("node.xeon2", default_policy() | {"pinMemory": False}, METADATA)
        cluster.store.until(lambda: verdict(cluster, "node.xeon2")["says"])
    before, types = policies(cluster), in_force(cluster)
    with make(policy="manage").session([BalloonSpec(cpus=2)]):
        assert policies(cluster) != before
        ours = cluster.store.get(POLICIES, "node.xeon2", "kube-system")["metadata"]
        assert not own or (ours["ownerReferences"], ours["finalizers"]) == ([OWNER], METADATA["finalizers"])
        assert set(in_force(cluster)) > set(types)
    assert policies(cluster) == before
    assert in_force(cluster) == types
    name = "node.xeon2" if own else "default"
    found = verdict(cluster, name)
    assert (found["says"], found["of"]) == ("Success", found["generation"])
    assert not any(zone.startswith("nriperf-") for zone in zones(cluster))
    metadata = cluster.store.get(POLICIES, name, "kube-system")["metadata"]
    assert not own or {key: metadata[key] for key in METADATA} == METADATA


def test_pods_are_gone_gracefully_before_the_policy_changes_back(cluster: Cluster, make: Make) -> None:
    provisioner, spec = make(policy="manage"), BalloonSpec(cpus=2, replicas=2)
    with provisioner.session([spec]):
        provisioner.observer()
        # The session ends before the balloon does.
        balloon = provisioner.provision(spec)
        balloon.__enter__()
    balloon.__exit__(None, None, None)
    deleted = [change for change in cluster.store.history if change.type == "DELETED"]
    pods = [change for change in deleted if change.kind is PODS]
    (restored,) = (change.version for change in deleted if change.kind is POLICIES)
    assert len(pods) == 3
    assert all(change.version < restored for change in pods)
    assert {change.object["metadata"]["deletionGracePeriodSeconds"] for change in pods} == {manifests.GRACE_S}
    ended = [change.object["status"]["containerStatuses"][0]["state"]["terminated"] for change in pods]
    assert {state["exitCode"] for state in ended} == {0}, "PID 1 ends at once when it is asked to"


words = st.dictionaries(st.sampled_from(["a", "app.kubernetes.io/managed-by", "nriperf/session"]), st.text(max_size=3))


@given(labels=st.none() | words, annotations=st.none() | words, pin=st.booleans())
def test_whatever_an_object_was_it_is_again(labels: Json | None, annotations: Json | None, pin: bool) -> None:
    metadata: Json = {"name": "node.x", "namespace": "kube-system", "resourceVersion": "7", "ownerReferences": [OWNER]}
    metadata |= {key: value for key, value in (("labels", labels), ("annotations", annotations)) if value is not None}
    was = {"metadata": metadata, "spec": default_policy() | {"pinMemory": pin}}
    spec = with_types(was["spec"], [mark("1a2b", 1)], "0")
    ours = manifests.policy("x", "kube-system", spec, metadata, "1a2b", node_policy._original(was))
    stored = {**ours, "metadata": {**ours["metadata"], "resourceVersion": "9", "uid": "u", "generation": 2}}
    original = json.loads(stored["metadata"]["annotations"][manifests.ORIGINAL])
    again = node_policy._as_it_was(stored, original)
    assert again["spec"] == was["spec"]
    assert again["metadata"] == {**metadata, "resourceVersion": "9"}


def test_a_node_of_a_group_keeps_to_its_group_and_nothing_but_its_own_object_is_written(
    cluster: Cluster, make: Make
) -> None:
    cluster.put_policy("group.fast", default_policy() | {"pinMemory": False})
    labels = {"config.nri/group": "fast"}
    cluster.store.update(NODES, "xeon2", "", lambda node: node["metadata"]["labels"].update(labels))
    cluster.store.until(lambda: verdict(cluster, "group.fast")["says"])
    before, version = policies(cluster), cluster.store.version
    with make(policy="manage").session([BalloonSpec(cpus=2)]):
        ours = cluster.store.get(POLICIES, "node.xeon2", "kube-system")["spec"]
        assert ours["pinMemory"] is False
        assert in_force(cluster)[-2].startswith("nriperf-")
    assert policies(cluster) == before
    assert verdict(cluster, "group.fast")["says"] == "Success"
    changes, _ = cluster.store.since(version, POLICIES)
    others = [change.object["metadata"] for change in changes if change.object["metadata"]["name"] != "node.xeon2"]
    assert {each["generation"] for each in others} == {1}, "their status alone has changed"


@pytest.mark.parametrize("own", [False, True], ids=["default policy", "policy of the node"])
def test_a_refused_policy_is_told_in_the_plugins_words_and_taken_back(
    cluster: Cluster, make: Make, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    if own:
        cluster.put_policy("node.xeon2", default_policy() | {"pinMemory": False}, METADATA)
        cluster.store.until(lambda: verdict(cluster, "node.xeon2")["says"])
    before, types = policies(cluster), in_force(cluster)
    wrong_for_four_cpus(monkeypatch)
    text = r"rejects our change of node\.xeon2: balloons: invalid configuration: .*MinCpus \(99\) > MaxCpus"
    with pytest.raises(ProvisionError, match=text), make(policy="manage").session([BalloonSpec(cpus=4)]):
        pass
    assert policies(cluster) == before
    assert in_force(cluster) == types
    found = verdict(cluster, "node.xeon2" if own else "default")
    assert (found["says"], found["of"]) == ("Success", found["generation"])
    assert cluster.leftovers() == []


def test_a_definition_that_is_too_old_for_a_field_is_told_with_the_mend(cluster: Cluster, make: Make) -> None:
    schema = copy.deepcopy(cluster.api.schemas.of(POLICIES))
    del schema["properties"]["spec"]["properties"]["balloonTypes"]["items"]["properties"]["loads"]
    cluster.api.schemas.custom[POLICIES] = schema
    before = policies(cluster)
    session = make(policy="manage").session([BalloonSpec(cpus=2, hyperthreads="spread")])
    with pytest.raises(ProvisionError, match=r'unknown field "spec\.balloonTypes\[\d\]\.loads"; .*its CRDs'), session:
        pass
    assert policies(cluster) == before
    assert cluster.leftovers() == []


def test_a_policy_that_was_refused_before_is_told_beside_our_own_error(cluster: Cluster, make: Make) -> None:
    twice = [{"name": "same"}, {"name": "same"}]
    cluster.put_policy("default", {"reservedResources": {"cpu": "1"}, "balloonTypes": twice})
    cluster.store.until(lambda: verdict(cluster, "default")["says"] == "Failure")
    before = policies(cluster)
    text = r"rejects our change.*two balloon types .*and then: .*rejects the policy that was there before: .*\"same\""
    with pytest.raises(ProvisionError, match=text), make(policy="manage").session([]):
        pass
    assert policies(cluster) == before


def test_a_session_that_was_killed_while_its_policy_was_refused_is_cleaned_up(cluster: Cluster, make: Make) -> None:
    before = policies(cluster)
    wrong = default_policy() | {"balloonTypes": [{"name": "nriperf-dead-1", "minCPUs": 2, "maxCPUs": 1}]}
    annotations = {manifests.SESSION: "dead", manifests.ORIGINAL: "null"}
    cluster.put_policy("node.xeon2", wrong, {"labels": dict(manifests.MANAGED_BY), "annotations": annotations})
    cluster.store.until(lambda: verdict(cluster, "node.xeon2")["says"] == "Failure")
    provisioner = make(policy="manage")
    spec = BalloonSpec(cpus=2)
    with provisioner.session([spec]), provisioner.provision(spec) as grant:
        assert grant.placement.cpus == 2
    assert policies(cluster) == before
    assert cluster.leftovers() == []


def test_a_plugin_that_dies_while_we_measure_leaves_the_policy_unconfirmed_and_that_is_told(
    cluster: Cluster, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = policies(cluster)
    session = make(policy="manage").session([BalloonSpec(cpus=2)])
    session.__enter__()
    cluster.plugins["xeon2"].kill()
    monkeypatch.setattr(node_policy, "VERDICT_S", 0.5)
    with pytest.raises(ProvisionError, match=r"says nothing about the policy that was there before.*kubectl logs"):
        session.__exit__(None, None, None)
    assert policies(cluster) == before
    assert cluster.leftovers() == []


def test_a_dead_plugin_is_found_before_anything_is_measured(
    cluster: Cluster, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.plugins["xeon2"].kill()
    monkeypatch.setattr(node_policy, "VERDICT_S", 0.5)
    session = make(policy="manage").session([BalloonSpec(cpus=2)])
    with pytest.raises(ProvisionError, match="says nothing about our change"), session:
        pass
    assert cluster.leftovers() == []


def test_an_old_success_does_not_count_where_nothing_else_changes(
    cluster: Cluster, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Already as we would write it: without a change of ours there would be no verdict to wait for.
    spec = default_policy() | {"showContainersInNrt": True, "reservedResources": {"cpu": "cpuset:0"}}
    cluster.put_policy("node.xeon2", spec)
    cluster.store.until(lambda: verdict(cluster, "node.xeon2")["says"])
    cluster.plugins["xeon2"].kill()
    monkeypatch.setattr(node_policy, "VERDICT_S", 0.5)
    provisioner = make(policy="manage")
    with pytest.raises(ProvisionError, match="says nothing about our change"), provisioner.session([]):
        pass


def test_somebody_elses_change_right_after_ours_is_no_verdict_on_ours(cluster: Cluster, make: Make) -> None:
    def change(request: Request) -> None:
        found = cluster.store.find(POLICIES, "node.xeon2", "kube-system")
        if request.method == "GET" and found is not None and found["metadata"]["generation"] == 1:
            types = [{"name": "theirs"}]
            cluster.put_policy("node.xeon2", {**found["spec"], "balloonTypes": types})
            cluster.store.until(lambda: verdict(cluster, "node.xeon2")["of"] == 2)

    cluster.server.on_request = change
    session = make(policy="manage").session([BalloonSpec(cpus=2)])
    with pytest.raises(ProvisionError, match=r"somebody else changed node\.xeon2 right after us"), session:
        pass
    assert cluster.leftovers() == []


def test_manage_refuses_by_name_where_others_run(cluster: Cluster, make: Make) -> None:
    cluster.add_pod("shop", "xeon2")
    with (
        pytest.raises(ProvisionError, match=r"runs other workloads.*default/shop; drain them.*shared = true"),
        make(policy="manage").session([BalloonSpec(cpus=2)]),
    ):
        pass
    with make(policy="manage", shared=True).session([BalloonSpec(cpus=2)]):
        pass
    assert cluster.leftovers() == []


def test_only_pods_whose_cpus_would_move_count_as_others(cluster: Cluster, make: Make) -> None:
    spec = default_policy() | {"reservedPoolNamespaces": ["infra-*"]}
    spec["balloonTypes"] = [*spec["balloonTypes"], {"name": "reserved", "namespaces": ["dns"]}]
    cluster.put_policy("default", spec)
    for namespace in ("kube-system", "infra-logs", "dns", "calico-system"):
        cluster.add_pod("agent", "xeon2", namespace=namespace)
    cluster.add_pod("done", "xeon2")
    cluster.end_pod("done")
    policy = make(policy="manage").policy
    assert policy.foreign(policy.effective(), "1a2b") == ["calico-system/agent"]
    # The plugin's own pod stands aside in whatever namespace it is; its neighbours there do not.
    policy.namespace = "nri"
    cluster.add_pod("webhook", "xeon2", namespace="nri")
    cluster.add_pod("plugin", "xeon2", namespace="nri")
    labels = {"app.kubernetes.io/name": node_policy.PLUGIN}
    cluster.store.update(PODS, "plugin", "nri", lambda pod: pod["metadata"].update(labels=labels))
    assert policy.foreign({"spec": spec}, "1a2b") == ["calico-system/agent", "nri/webhook"]


@pytest.mark.parametrize(
    ("text", "publishes", "reserved", "guessed"),
    [
        ("cpuset:2,10", True, "2,10", "2,10"),
        ("exclude-cpuset:2-15", True, "0-1", "0-1"),
        # Two CPUs: the policy gives a whole core, a guess does not know that.
        ("1500m", True, "0,8", "0,8"),
        ("1500m", False, "", "0-1"),
    ],
)
def test_reserved_cpus_are_named_published_or_guessed_as_such(
    cluster: Cluster, make: Make, node_topology: Topology, text: str, publishes: bool, reserved: str, guessed: str
) -> None:
    spec = default_policy() | {"reservedResources": {"cpu": text}, "agent": {"nodeResourceTopology": publishes}}
    generation = cluster.put_policy("default", spec)["metadata"]["generation"]
    cluster.store.until(lambda: verdict(cluster, "default")["of"] == generation)
    policy = make().policy
    followed = policy.effective()["spec"]
    assert format_cpus(policy.reserved(node_topology, followed, guess=False)) == reserved
    assert format_cpus(policy.reserved(node_topology, followed)) == guessed


@pytest.mark.parametrize("publish_s", [0.0, 0.3], ids=["published before the verdict", "published after the verdict"])
def test_a_ghost_of_others_is_outlived(cluster: Cluster, make: Make, publish_s: float) -> None:
    cluster.plugins["xeon2"].publish_s = publish_s
    cluster.add_pod("job", "xeon2")
    cluster.end_pod("job")
    looks = removed_when_seen(cluster, "default/job/c", lambda: cluster.remove_pod("job"))
    spec = BalloonSpec(cpus=2)
    provisioner = make(policy="manage")
    with provisioner.session([spec]), provisioner.provision(spec) as grant:
        assert grant.placement.cpus == 2
        assert "default/job/c" not in zones(cluster)
        assert zones(cluster)["default[0]"] == ""
    assert len(looks) >= 3


def test_a_pod_of_others_that_has_ended_and_stays_is_named(
    cluster: Cluster, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_policy, "GHOST_S", 0.5)
    cluster.add_pod("job", "xeon2")
    cluster.end_pod("job")
    before = policies(cluster)
    text = r"dead containers hold CPUs after its policy was changed: default/job/c; delete their pods"
    with pytest.raises(ProvisionError, match=text), make(policy="manage").session([]):
        pass
    assert policies(cluster) == before
    # Where others may run, their ended pods are no worse than their running ones.
    with make(policy="manage", shared=True).session([]):
        pass


def test_a_system_pod_that_has_done_its_work_is_in_nobodys_way(cluster: Cluster, make: Make) -> None:
    cluster.add_pod("install", "xeon2", namespace="kube-system")
    cluster.end_pod("install", "kube-system")
    spec = BalloonSpec(cpus=2)
    provisioner = make(policy="manage")
    with provisioner.session([spec]), provisioner.provision(spec) as grant:
        assert "kube-system/install/c" in zones(cluster)
        assert grant.placement.cpus == 2


def test_a_ghost_of_our_own_dead_pod_is_outlived_before_the_next_balloon(
    cluster: Cluster, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin, seen = cluster.plugins["xeon2"], threading.Event()
    remove = plugin.remove

    def when_seen(container: Container) -> None:
        assert seen.wait(20)
        remove(container)

    provisioner = make(policy="manage")
    first, second = BalloonSpec(cpus=2), BalloonSpec(cpus=4, numa="single")
    with provisioner.session([first]):
        with provisioner.provision(first) as grant:
            assert isinstance(grant, PodGrant)
            (pod,) = grant.pods
            cluster.nodes["xeon2"].order(pod, "oom")
            cluster.store.until(lambda: cluster.store.get(PODS, pod, "perf")["status"]["phase"] == "Failed")
            ghost = f"perf/{pod}/worker"
            monkeypatch.setattr(plugin, "remove", when_seen)
            looks = removed_when_seen(cluster, ghost, seen.set)
        with provisioner.provision(second) as grant:
            assert grant.placement.cpus == 4
            assert len(looks) >= 3
            balloons = [name for name in zones(cluster) if name.startswith("nriperf-") and zones(cluster)[name]]
            assert ghost not in zones(cluster)
            assert len(balloons) == 1, "the balloon of the dead pod is gone too"


@pytest.mark.parametrize("shown", [False, True], ids=["containers hidden", "containers shown"])
def test_a_ghost_that_restoring_brings_back_is_outlived_too(cluster: Cluster, make: Make, shown: bool) -> None:
    cluster.put_policy("default", default_policy() | {"showContainersInNrt": shown})
    before = policies(cluster)
    with make(policy="manage").session([BalloonSpec(cpus=2)]):
        # A pod of others came, ended and was deleted; the runtime still has its container.
        uid = cluster.add_pod("job", "xeon2")["metadata"]["uid"]
        cluster.end_pod("job")
        cluster.store.remove(PODS, "job", "default")
        gone = cluster.static[uid]
        looks = removed_when_seen(cluster, "default/job/c", lambda: cluster.plugins["xeon2"].remove(gone))
    assert len(looks) == 3
    assert policies(cluster) == before
    assert zones(cluster)["default[0]"] == ""
    assert "default/job/c" not in zones(cluster)
    assert cluster.leftovers() == []
