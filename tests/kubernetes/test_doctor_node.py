"""`nriperf doctor --node`: all that a session would stumble over, in one go."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_nriperf.provision.checkup import Fact, checkup
from tests.kubernetes.conftest import Make
from tests.kubernetes.double.cluster import Cluster
from tests.kubernetes.double.kinds import CONFIG_MAPS, DAEMON_SETS, LEASES, NODES, PODS, POLICIES, ZONES, Json
from tests.kubernetes.test_lease import kill, lease_of, micro
from tests.kubernetes.test_rights import USER, roles, without
from tests.kubernetes.typed import typed

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

NAMES = [
    *("node", "container runtime", "permissions", "definitions", "balloons DaemonSet", "balloons plugin"),
    *("balloons policy", "other measurements", "leftovers", "other workloads", "ended pods", "topology"),
]


def facts(make: Make, **words: Any) -> dict[str, Fact]:
    """Of a node, by name; what is held for them is released."""
    provisioner = make(**words)
    try:
        return {fact.name: fact for fact in checkup(provisioner)}
    finally:
        provisioner.close()


def test_doctor_says_all_in_one_go(cluster: Cluster, tmp_path: Path) -> None:
    done = typed(cluster, tmp_path, ["pytest_nriperf", "doctor", "--node=xeon2", "--json"])
    found = {each["check"]: each for each in json.loads(done.stdout)["findings"]}
    assert [*NAMES, "a pod", "CPUs"] == [name for name in found if name in (*NAMES, "a pod", "CPUs")]
    assert {found[name]["level"] for name in (*NAMES, "a pod", "CPUs")} == {"good"}
    assert "in context double (https://127.0.0.1" in found["node"]["found"]
    assert found["CPUs"]["found"].startswith("15 of 16 can be given to balloons; reserved: ")
    assert found["topology"]["found"].startswith("not read in this boot")
    assert found["counters"]["found"].startswith("proc without what it tells of each replica's tasks (host_pid is not")
    assert "hardware counters" in found
    assert "pcm" in found["counters"]["found"]
    assert cluster.leftovers() == []


def test_doctor_of_an_unknown_node_is_a_mistake(cluster: Cluster, tmp_path: Path) -> None:
    done = typed(cluster, tmp_path, ["pytest_nriperf", "doctor", "--node=nosuch"])
    assert done.returncode == 2
    assert "no profile and no node" in done.stderr
    assert "xeon2" in done.stderr
    done = typed(cluster, tmp_path, ["pytest_nriperf", "doctor", "--node=sim:1s4c2t"])
    assert done.returncode == 2
    assert "node sim:1s4c2t is simulated" in done.stderr


def test_what_is_good_is_told_and_one_pod_looks(cluster: Cluster, make: Make) -> None:
    found = facts(make, policy="manage")
    assert [*found] == [*NAMES, "a pod", "CPUs"]
    assert {fact.level for fact in found.values()} == {"good"}
    assert found["balloons policy"].found == "default, mode manage, balloon types: dedicated-cpus, shared-local-cpus"
    again = facts(make)
    assert again["topology"].found.startswith("read in this boot, kept in /")
    assert cluster.leftovers() == []


def not_ready(cluster: Cluster) -> None:
    def change(node: Json) -> None:
        node["status"]["conditions"][0] |= {"status": "False", "message": "PLEG is not healthy"}

    cluster.store.update(NODES, "xeon2", "", change)


def cordoned(cluster: Cluster) -> None:
    cluster.store.update(NODES, "xeon2", "", lambda node: node["spec"].update(unschedulable=True))


def old(cluster: Cluster) -> None:
    info = {"containerRuntimeVersion": "containerd://1.6.33"}
    cluster.store.update(NODES, "xeon2", "", lambda node: node["status"]["nodeInfo"].update(info))


def no_definition(cluster: Cluster) -> None:
    cluster.api.kinds.remove(POLICIES)


def no_plugin(cluster: Cluster) -> None:
    cluster.store.remove(PODS, "nri-resource-policy-balloons-xeon2", "kube-system")


def rejected(cluster: Cluster) -> None:
    nodes = {"xeon2": {"status": "Failure", "generation": 1, "errors": "no such thing"}}
    cluster.store.update(POLICIES, "default", "kube-system", lambda policy: policy.update(status={"nodes": nodes}))


def busy(cluster: Cluster) -> None:
    cluster.store.create(LEASES, lease_of({"boot": "other"}, micro(0)))


@pytest.mark.parametrize(
    ("spoil", "name", "text", "mend"),
    [
        (not_ready, "node", "xeon2 is not ready: PLEG", "kubectl describe node xeon2"),
        (cordoned, "node", "xeon2 is cordoned", "kubectl uncordon xeon2"),
        (old, "container runtime", "containerd://1.6.33: it has no NRI", "upgrade containerd to 1.7"),
        (no_definition, "definitions", "does not know balloonspolicies.config.nri", "helm install nri-resource-policy"),
        (no_plugin, "balloons plugin", "its DaemonSet has no pod on this node", "kubectl describe ds"),
        (rejected, "balloons policy", "default is rejected: no such thing", "kubectl edit balloonspolicy default"),
        (
            busy,
            "other measurements",
            "somebody@elsewhere process 1 since 20",
            "kubectl delete lease nriperf-xeon2 -n default",
        ),
    ],
)
def test_what_keeps_a_session_from_starting_comes_with_its_mend_and_all_else_is_told_too(
    cluster: Cluster, make: Make, spoil: Callable[[Cluster], None], name: str, text: str, mend: str
) -> None:
    spoil(cluster)
    found = facts(make)
    assert [*found] == NAMES
    assert found[name].level == "spoils"
    assert text in found[name].found
    assert mend in found[name].mend


def test_a_missing_permission_spoils_and_one_that_only_explains_does_not(cluster: Cluster, make: Make) -> None:
    from pytest_nriperf.provision.rights import ANNOTATE

    events = next(right for right in ANNOTATE if right.resource == "events")
    leases = next(right for right in ANNOTATE if right.resource == "leases")
    cluster.access.add_user(USER, "t")
    cluster.access.load(without(roles("annotate"), events, "list"))
    found = facts(make, token="t")
    assert found["permissions"].level == "notice"
    assert "list events in namespace perf" in found["permissions"].found
    assert found["a pod"].level == "good"
    other = f"{USER}-other"
    cluster.access.add_user(other, "t2")
    documents = without(roles("annotate"), leases, "update")
    for document in documents:
        for subject in document.get("subjects", ()):
            subject["name"] = "nriperf-other"
    cluster.access.load(documents)
    found = facts(make, token="t2")
    assert found["permissions"].level == "spoils"
    assert found["permissions"].found == "missing: update leases.coordination.k8s.io in namespace default"
    assert "kubectl auth can-i update leases.coordination.k8s.io -n default" in found["permissions"].mend
    assert "a pod" not in found


def test_leases_are_told_by_what_they_mean(cluster: Cluster, make: Make) -> None:
    cluster.store.create(LEASES, lease_of({}, micro(0), holderIdentity=None))
    assert (
        facts(make)["other measurements"].found
        == "none: the lease that is there has no holder, the next session takes it"
    )
    cluster.store.create(LEASES, lease_of({"boot": "other"}, micro(5), duration=1))
    found = facts(make)["other measurements"]
    assert found.level == "notice"
    assert "none lives: somebody@elsewhere process 1 since 20" in found.found


def test_what_killed_sessions_left_is_named_wherever_it_is(cluster: Cluster, make: Make) -> None:
    first = make(namespace="default", lease_namespace="perf")
    pod = first.observer()
    kill(cluster, first)
    body = {"nriperf/original": "null"}
    cluster.put_policy(
        "node.xeon2", cluster.store.get(POLICIES, "default", "kube-system")["spec"], {"annotations": body}
    )
    found = facts(make)["leftovers"]
    assert found.level == "notice"
    for name in (
        f"pods default/{pod}",
        "configmaps default/nriperf-",
        "leases perf/nriperf-xeon2",
        "kube-system/node.xeon2",
    ):
        assert name in found.found
    with make(policy="manage").session([]):
        pass
    assert facts(make)["leftovers"].found == "none"
    assert cluster.leftovers() == []


def test_an_account_that_is_bound_to_a_namespace_sees_what_the_lease_names(cluster: Cluster, make: Make) -> None:
    cluster.access.add_user(USER, "t")
    cluster.access.load(roles("annotate"))
    labels = lease_of({}, "")["metadata"]["labels"]
    cluster.store.create(
        CONFIG_MAPS, {"metadata": {"name": "nriperf-gone-files", "namespace": "perf", "labels": labels}}
    )
    cluster.store.create(LEASES, lease_of({"boot": "other", "namespaces": ["perf"]}, micro(1000)))
    assert "configmaps perf/nriperf-gone-files" in facts(make, token="t")["leftovers"].found


def test_ended_pods_and_other_workloads_are_named_where_the_policy_is_changed(cluster: Cluster, make: Make) -> None:
    cluster.add_pod("job", "xeon2")
    cluster.end_pod("job")
    cluster.add_pod("shop", "xeon2")
    found = facts(make, policy="manage")
    assert (found["ended pods"].level, found["ended pods"].mend) == ("notice", "kubectl delete pod job -n default")
    assert (found["other workloads"].level, found["other workloads"].found) == ("spoils", "default/shop")
    found = facts(make)
    assert found["ended pods"].level == found["other workloads"].level == "good"


def test_a_cluster_without_published_topologies_or_a_daemon_set_is_told(cluster: Cluster, make: Make) -> None:
    cluster.api.kinds.remove(ZONES)
    cluster.store.remove(DAEMON_SETS, "nri-resource-policy-balloons", "kube-system")
    found = facts(make)
    assert found["definitions"].level == found["balloons DaemonSet"].level == "notice"
    assert "the kernel's view alone" in found["definitions"].found
    assert found["a pod"].level == "good"
