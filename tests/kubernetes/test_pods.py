"""What became of a pod, as its status tells it: the cause, and what helps."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pytest_nriperf.provision import manifests
from pytest_nriperf.provision.pods import post_mortem
from tests.kubernetes.conftest import Make
from tests.kubernetes.double.cluster import Cluster
from tests.kubernetes.double.kinds import PODS, Json

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def container(state: str, **words: Any) -> Json:
    """A status whose container is in a state."""
    return {"containerStatuses": [{"name": manifests.CONTAINER, "state": {state: words}}]}


def told(type_: str, reason: str, message: str, status: str = "True") -> Json:
    """A status with a condition."""
    return {"conditions": [{"type": type_, "status": status, "reason": reason, "message": message}]}


def unschedulable(reason: str) -> Json:
    text = f"0/1 nodes are available: 1 {reason}. preemption: 0/1 nodes are available"
    return {"phase": "Pending", **told("PodScheduled", "Unschedulable", text, "False")}


DELETED = {"deletionTimestamp": "2026-11-24T09:00:00Z", "deletionGracePeriodSeconds": 5}
DRAINED = told("DisruptionTarget", "EvictionByEvictionAPI", "Eviction API: evicting")


@pytest.mark.parametrize(
    ("status", "deleted", "fact", "step"),
    [
        (
            unschedulable("Insufficient cpu"),
            False,
            "cannot be scheduled on node xeon2: .*Insufficient cpu",
            "ask for few",
        ),
        (unschedulable("Insufficient memory"), False, "Insufficient memory", "memory_limit"),
        (unschedulable('persistentvolumeclaim "weights" not found'), False, "weights", "model_claim"),
        (unschedulable("node(s) had untolerated taint {gpu: true}"), False, "taint", "tolerations"),
        (unschedulable("node(s) were unschedulable"), False, "were unschedulable", "kubectl uncordon xeon2"),
        (unschedulable("Insufficient hugepages-2Mi"), False, "hugepages", "kubectl describe pod p -n perf"),
        (
            container("running") | DRAINED,
            True,
            r"is taken away \(EvictionByEvictionAPI: Eviction API",
            "drains the node",
        ),
        (
            container("running") | told("DisruptionTarget", "PreemptionByScheduler", "default-scheduler: preempting"),
            True,
            "is taken away .PreemptionByScheduler",
            "higher priority",
        ),
        (container("running"), True, "is being deleted by somebody else", "start again"),
        (container("terminated", reason="Completed", exitCode=0) | DRAINED, True, "is taken away", "drains"),
        # Who died of lack of memory and was deleted then died of lack of memory.
        (container("terminated", reason="OOMKilled", exitCode=137), True, "lack of memory .OOMKilled", "memory_limit"),
        ({"phase": "Failed", "reason": "NodeLost", "message": "gone"}, True, "was ended: NodeLost", "kubectl get node"),
        ({"phase": "Failed", "reason": "OutOfcpu", "message": "used: 16"}, False, "OutOfcpu: used: 16", "other pods"),
        (container("terminated", reason="Error", exitCode=139), False, "ended by itself: Error, exit code 139", "log"),
        (container("waiting", reason="ImagePullBackOff", message="not found"), False, "has no image", "pull_secret"),
        (
            container("waiting", reason="CreateContainerError", message='x: balloons: no balloon for annotation "b"'),
            False,
            'names an unknown balloon type: no balloon for annotation "b"',
            "balloon_types",
        ),
    ],
)
def test_why_a_pod_does_not_run_is_told_by_its_status(
    cluster: Cluster, make: Make, status: Json, deleted: bool, fact: str, step: str
) -> None:
    cluster.add_pod("p", "xeon2", namespace="perf")

    def change(pod: Json) -> None:
        pod["status"] = status
        pod["metadata"].update(DELETED if deleted else {})

    cluster.store.update(PODS, "p", "perf", change)
    found = post_mortem(make().cluster, "xeon2", "perf", "p")
    assert found is not None
    assert re.search(fact, found.fact), found.fact
    assert step in found.next_step


def test_a_pod_that_runs_has_no_trouble(cluster: Cluster, make: Make) -> None:
    cluster.add_pod("p", "xeon2", namespace="perf")
    cluster.store.update(PODS, "p", "perf", lambda pod: pod.update(status=container("running")))
    assert post_mortem(make().cluster, "xeon2", "perf", "p") is None
