"""What happens to pods in the middle of a measurement, and their memory: clear errors with events and last words."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.errors import MemoryFault, NriperfError, WorkerError
from pytest_nriperf.generate.models import parse_model
from pytest_nriperf.generate.process import WorkerGenerator
from pytest_nriperf.provision.pod_grant import PodGrant
from pytest_nriperf.seams import Progress, Prompt, Work
from pytest_nriperf.topology import read_topology
from tests.kubernetes.conftest import Make
from tests.kubernetes.double.cluster import Cluster
from tests.kubernetes.double.kinds import NODES, PODS, Json
from tests.kubernetes.double.pod_status import condition

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

LONG = Work((Prompt("p", "hello"),), max_new_tokens=50, requests=100)
Fate = Callable[[Cluster, str], None]


def evict(cluster: Cluster, pod: str) -> None:
    cluster.nodes["xeon2"].order(pod, "evict")


def out_of_memory(cluster: Cluster, pod: str) -> None:
    """cgroup v2: whichever process it hits, the whole container goes."""
    cluster.nodes["xeon2"].order(pod, "oom")


def lose_node(cluster: Cluster, pod: str) -> None:
    """Kubelet is silent: its node is marked, its pod gets an event, connections into it are dead."""
    kubelet = cluster.nodes["xeon2"]
    kubelet.event(cluster.store.get(PODS, pod, "perf"), "Warning", "NodeNotReady", "Node is not ready")
    kubelet.lost.set()
    unknown = condition("Ready", False, "NodeStatusUnknown", "Kubelet stopped posting node status.")

    def mark(node: Json) -> None:
        node["status"]["conditions"] = [{**unknown, "status": "Unknown"}]

    cluster.store.update(NODES, "xeon2", "", mark)
    cluster.server.drop_connections()


def lose_node_and_pod(cluster: Cluster, pod: str) -> None:
    """The node stays away, and the pod's garbage collection comes."""
    lose_node(cluster, pod)
    cluster.store.remove(PODS, pod, "perf")


def remove_node(cluster: Cluster, pod: str) -> None:
    lose_node(cluster, pod)
    cluster.store.remove(NODES, "xeon2")


@pytest.mark.parametrize(
    ("fate", "error", "words"),
    [
        (evict, WorkerError, r"was ended: Evicted: The node was low on resource.*event Evicted: .*log ready"),
        (out_of_memory, MemoryFault, r"OOMKilled.*log ready"),
        (lose_node, WorkerError, r"node xeon2 is not ready \(NodeStatusUnknown: Kubelet stopped.*event NodeNotReady"),
        (lose_node_and_pod, WorkerError, r"is gone: .*node xeon2 is not ready.*event NodeNotReady: Node is not ready"),
        (remove_node, WorkerError, r"node xeon2 is no longer in the cluster"),
    ],
)
def test_the_end_of_a_pod_while_it_measures_is_told_with_its_events(
    cluster: Cluster, make: Make, fate: Fate, error: type[NriperfError], words: str
) -> None:
    provisioner, spec = make(), BalloonSpec(cpus=2)
    generator = WorkerGenerator(parse_model("sim:itl=2ms,ttft=2ms"))
    met: list[float] = []
    with provisioner.session([spec]):
        balloon = provisioner.provision(spec)
        grant = balloon.__enter__()
        assert isinstance(grant, PodGrant)

        def meet(progress: Progress) -> None:
            # One request is the warm-up's.
            if not met and progress.requests > 1:
                met.append(time.monotonic())
                fate(cluster, grant.pods[0])

        try:
            generator.load(grant)
            with pytest.raises(error) as failed:
                generator.measure(LONG, meet)
        finally:
            # The node comes back: what was started there ends, and the pod goes.
            cluster.nodes["xeon2"].lost.clear()
            generator.close()
            balloon.__exit__(None, None, None)
    assert re.search(f"(?s)replica 0 ended while measuring.*{words}", failed.value.fact), failed.value.fact
    assert cluster.leftovers() == []


def test_memory_is_interleaved_in_the_pod(cluster: Cluster, make: Make) -> None:
    cluster.add_node("native", read_topology())
    provisioner = make(policy="manage", node="native")
    spec = BalloonSpec(cpus=1, hyperthreads="spread", memory="interleave")
    generator = WorkerGenerator(parse_model("sim:"))
    with provisioner.session([spec]), provisioner.provision(spec) as grant:
        info = generator.load(grant)[0]
        assert info.stream is not None
        assert grant.verify(0, info.stream)["memory_by"] == "interleave"
        assert b" interleave:0 " in (generator.read("/proc/self/numa_maps") or b"")
        generator.close()


@pytest.mark.parametrize(
    ("spec", "profile", "limit"),
    [
        # Nine tenths of a NUMA node of 8 GiB (of two for parts of a socket), shared by the replicas there.
        (BalloonSpec(cpus=2, numa="single"), {}, "7372Mi"),
        (BalloonSpec(cpus=4, numa="socket"), {}, "14745Mi"),
        (BalloonSpec(cpus=2, memory="any"), {}, None),
        (BalloonSpec(cpus=2, numa="single"), {"memory_limit": "2Gi"}, "2Gi"),
    ],
)
def test_pinned_memory_has_a_limit(
    cluster: Cluster, make: Make, spec: BalloonSpec, profile: Json, limit: str | None
) -> None:
    provisioner = make(policy="manage", **profile)
    with provisioner.session([spec]), provisioner.provision(spec) as grant:
        assert isinstance(grant, PodGrant)
        resources = cluster.store.get(PODS, grant.pods[0], "perf")["spec"]["containers"][0]["resources"]
        assert resources["limits"].get("memory") == limit
        assert resources["requests"]["cpu"] == resources["limits"]["cpu"] == str(spec.cpus)
