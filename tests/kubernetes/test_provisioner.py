"""Balloons on a Kubernetes node, against the double: granted, verified, measured in, and gone."""

from __future__ import annotations

import json
import os
import select
import shutil
from pathlib import Path
from typing import Any

import pytest

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.errors import (
    EnvironmentFault,
    MemoryFault,
    NriperfError,
    PlacementError,
    ProvisionError,
    SettingsError,
    WorkerError,
)
from pytest_nriperf.generate.models import parse_model
from pytest_nriperf.generate.process import WorkerGenerator
from pytest_nriperf.provision.pod_grant import PodGrant
from pytest_nriperf.provision.pod_stream import PodStream
from pytest_nriperf.seams import Launch, Prompt, RunData, Work
from tests.kubernetes.conftest import Make
from tests.kubernetes.double.cluster import Cluster
from tests.kubernetes.double.faults import Fault
from tests.kubernetes.double.kinds import CONFIG_MAPS, NAMESPACES, NODES, PODS, POLICIES, Json

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

WORK = Work((Prompt("p", "hello"),), max_new_tokens=8, requests=2)


def run(grant: Any, work: Work = WORK) -> RunData:
    """One run of the simulated engine in a grant, every replica verified."""
    generator = WorkerGenerator(parse_model("sim:itl=5ms,ttft=20ms"))
    try:
        for info in generator.load(grant):
            assert info.stream is not None
            grant.verify(info.replica, info.stream)
        return generator.measure(work, lambda progress: None)
    finally:
        generator.close()


def policies(cluster: Cluster) -> str:
    """The policies' content as canonical JSON: spec, labels, annotations."""
    found = {
        value["metadata"]["name"]: [
            value["spec"],
            value["metadata"].get("labels"),
            value["metadata"].get("annotations"),
        ]
        for value in cluster.store.all(POLICIES)
    }
    return json.dumps(found, sort_keys=True)


@pytest.mark.parametrize("policy", ["annotate", "manage"])
def test_a_balloon_is_granted_measured_in_and_gone(cluster: Cluster, make: Make, policy: str) -> None:
    before = policies(cluster)
    provisioner = make(policy=policy)
    spec = BalloonSpec(cpus=2, replicas=2, numa="single")
    with provisioner.session([spec]):
        with provisioner.provision(spec) as grant:
            data = run(grant)
        assert len(data.requests) == 6
        assert {row.replica for row in data.requests} == {0, 1}
        assert not [
            pod
            for pod in cluster.store.all(PODS)
            if "balloon" in str(pod["metadata"].get("labels"))
            and pod["metadata"]["namespace"] == "perf"
            and "observer" not in pod["metadata"]["name"]
        ]
    assert cluster.leftovers() == []
    assert policies(cluster) == before


@pytest.mark.parametrize(
    "spec",
    [
        BalloonSpec(cpus=4, hyperthreads="hidden"),
        BalloonSpec(cpus=4, hyperthreads="spread", replicas=2),
        BalloonSpec(cpus=2, replicas="numa", placement="pack"),
        BalloonSpec(cpus=4, numa="socket", replicas=2),
        BalloonSpec(cpus=8, numa="all"),
        BalloonSpec(cpus="25%", memory="any"),
        BalloonSpec(cpus=1, hyperthreads="spread", replicas=3, placement="pack"),
        BalloonSpec(),
    ],
    ids=lambda spec: spec.canonical(),
)
def test_managed_types_give_what_was_asked_for(make: Make, spec: BalloonSpec) -> None:
    provisioner = make(policy="manage")
    others = [BalloonSpec(cpus=2, replicas="numa"), spec]
    with provisioner.session(others), provisioner.provision(spec) as grant:
        description = provisioner.describe()
        assert grant.placement.allocated <= description.allowed - description.reserved
        assert grant.mechanism == "balloons policy"


def test_the_topology_is_read_once_a_boot(cluster: Cluster, make: Make) -> None:
    first = make()
    assert first.topology().snc == 2
    first.close()
    created = len([change for change in cluster.store.history if change.kind is PODS])
    assert make().topology().cpus == first.topology().cpus
    assert len([change for change in cluster.store.history if change.kind is PODS]) == created
    cluster.store.update(NODES, "xeon2", "", lambda node: node["status"]["nodeInfo"].update(bootID="another"))
    again = make()
    again.topology()
    assert len([change for change in cluster.store.history if change.kind is PODS]) > created


def test_cpus_that_went_offline_in_this_boot_make_the_topology_be_read_anew(
    cluster: Cluster, make: Make, tmp_path: Path
) -> None:
    first = make()
    assert first.describe().read("/proc/sys/kernel/osrelease")
    first.close()
    kubelet = cluster.nodes["xeon2"]
    kubelet.sysfs = shutil.copytree(kubelet.sysfs, tmp_path / "sys")
    (kubelet.sysfs / "devices/system/cpu/online").write_text("0-14\n")
    again = make()
    with pytest.raises(ProvisionError, match=r"node xeon2: CPUs 0-14 are online, 0-15 were when .*start again"):
        again.describe().read("/proc/sys/kernel/osrelease")
    again.close()
    anew = make()
    assert len(anew.topology().online) == 15
    assert anew.describe().read("/proc/sys/kernel/osrelease")


@pytest.mark.parametrize(
    ("words", "fault", "error", "text"),
    [
        (
            {},
            {"images": set()},
            ProvisionError,
            r"has no image \((ErrImagePull|ImagePullBackOff)\).*check `image` and `pull_secret`",
        ),
        ({"python": "/no/python"}, {}, ProvisionError, "cannot start.*no such file.*needs Python"),
        ({}, {"order": "oom"}, MemoryFault, "OOMKilled.*memory_limit"),
        ({}, {"order": "evict"}, WorkerError, "Evicted: The node was low"),
        ({}, {"delete": True}, WorkerError, "is gone"),
    ],
)
def test_failures_of_pods_say_what_and_what_now(
    cluster: Cluster, make: Make, words: Json, fault: Json, error: type[NriperfError], text: str
) -> None:
    provisioner = make(**words)
    spec = BalloonSpec(cpus=2)
    # The topology is known, so that the balloon's pod is the first one.
    first = make()
    first.topology()
    first.close()
    cluster.nodes["xeon2"].images = fault.get("images")

    def use() -> None:
        with provisioner.session([spec]), provisioner.provision(spec) as grant:
            assert isinstance(grant, PodGrant)
            stream = grant.start_worker(0, Launch(provisioner._archive))
            if "order" in fault:
                cluster.nodes["xeon2"].order(grant.pods[0], fault["order"])
            if "delete" in fault:
                cluster.store.remove(PODS, grant.pods[0], "perf")
            for _ in range(60):
                if stream.receive(5) is None:
                    break

    with pytest.raises(error, match=f"(?s){text}"):
        use()
    assert cluster.leftovers() == []


def test_what_fits_into_no_balloon_is_waited_for_and_then_told_in_the_policys_words(
    cluster: Cluster, make: Make
) -> None:
    types = [{"name": "own", "preferNewBalloons": True, "maxBalloons": 1, "minCPUs": 2, "maxCPUs": 2}]
    followed = {"reservedResources": {"cpu": "1"}, "allocatorTopologyBalancing": True, "balloonTypes": types}
    cluster.put_policy("default", followed)
    provisioner = make(balloon_types={"paired": "own"})
    spec = BalloonSpec(cpus=2, replicas=2)
    with (
        pytest.raises(
            ProvisionError, match=r"(?s)fits into no balloon: no suitable balloon instance available.*event Failed"
        ),
        provisioner.session([spec]),
        provisioner.provision(spec),
    ):
        pass
    assert cluster.leftovers() == []


def test_a_container_that_a_service_mesh_adds_is_not_taken_for_ours(cluster: Cluster, make: Make) -> None:
    labels = {"istio-injection": "enabled"}
    cluster.store.update(NAMESPACES, "perf", "", lambda stored: stored["metadata"].update(labels=labels))
    provisioner = make()
    spec = BalloonSpec(cpus=2)
    with provisioner.session([spec]), provisioner.provision(spec) as grant:
        assert len(cluster.store.all(PODS, "perf")[0]["spec"]["containers"]) == 2
        assert len(run(grant).requests) == 3
        assert isinstance(grant, PodGrant)
        assert provisioner.cluster.log(grant.pods[0], "perf", "worker") == "ready\n"
    assert cluster.leftovers() == []


def test_what_the_node_cannot_hold_is_refused_before_pods_are_made(cluster: Cluster, make: Make) -> None:
    provisioner = make()
    spec = BalloonSpec(cpus=64)
    with provisioner.session([spec]), pytest.raises(PlacementError), provisioner.provision(spec):
        pass
    assert cluster.leftovers() == []


def test_a_type_that_is_not_there_is_a_matter_of_settings(make: Make) -> None:
    provisioner = make(balloon_types={"paired": "nosuch"})
    spec = BalloonSpec(cpus=2)
    with provisioner.session([spec]):
        with (
            pytest.raises(SettingsError, match=r"no balloon type 'nosuch'.*dedicated-cpus"),
            provisioner.provision(spec),
        ):
            pass
        spread = BalloonSpec(cpus=2, hyperthreads="spread")
        with pytest.raises(SettingsError, match=r'policy = "manage"'), provisioner.provision(spread):
            pass


def test_a_dropped_connection_loses_no_stamps(cluster: Cluster, make: Make) -> None:
    provisioner = make()
    spec = BalloonSpec(cpus=2)
    with provisioner.session([spec]), provisioner.provision(spec) as grant:
        assert isinstance(grant, PodGrant)
        cluster.faults.add(Fault("short", r"/exec\?.*(run|attach)", value=1200, times=4))
        data = run(grant, Work((Prompt("p", "hello"),), max_new_tokens=60, requests=3))
        assert sum(row.output_tokens for row in data.requests) == 60 * 4
        assert len(data.tokens) == 61 * 4
        assert list(data.tokens.t_ns) == sorted(set(data.tokens.t_ns))
        assert len(cluster.faults.seen) == 4
        # The relay has spoken within the first 1200 bytes.
        assert sum(stream.reconnections for stream in grant._streams) >= 1


def test_the_api_may_stumble(cluster: Cluster, make: Make) -> None:
    cluster.faults.add(
        *(Fault(effect, times=2, chance=0.1) for effect in ("reset", "500", "503", "lost")),
        Fault("lost", "POST .*/pods"),
        Fault("lost", "POST .*/balloonspolicies"),
        Fault("429", "PUT .*/balloonspolicies", value=1),
        Fault("lost", "POST .*/leases"),
        Fault("lost", "DELETE .*/pods"),
        Fault("latency", value=0.2, times=5, chance=0.3),
    )
    before = policies(cluster)
    provisioner = make(policy="manage")
    spec = BalloonSpec(cpus=2)
    with provisioner.session([spec]), provisioner.provision(spec) as grant:
        assert len(run(grant).requests) == 3
    assert cluster.faults.seen
    assert cluster.leftovers() == []
    assert policies(cluster) == before


def test_an_archive_that_is_not_in_the_configmap_is_brought_by_exec(cluster: Cluster, make: Make) -> None:
    provisioner = make(archive=b"")
    spec = BalloonSpec(cpus=2)
    with provisioner.session([spec]), provisioner.provision(spec) as grant:
        assert (
            "binaryData" not in cluster.store.all(CONFIG_MAPS)[0] or not cluster.store.all(CONFIG_MAPS)[0]["binaryData"]
        )
        assert len(run(grant).requests) == 3


def test_a_worker_whose_host_is_gone_ends(cluster: Cluster, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_nriperf.provision import pod_grant

    # Counted from the relay's beginning: on a busy machine the first connection takes its time.
    monkeypatch.setattr(pod_grant, "HOST_GONE_S", 4)
    provisioner = make()
    spec = BalloonSpec(cpus=2)
    with provisioner.session([spec]), provisioner.provision(spec) as grant:
        stream = grant.start_worker(0, Launch(provisioner._archive))
        assert isinstance(stream, PodStream)
        assert stream.receive(10)
        assert stream._channel is not None
        worker = os.pidfd_open(stream.inner_pid)
        stream._channel.close()
        assert select.select([worker], [], [], 30)[0], "the worker goes on without its host"
        os.close(worker)


def test_missing_parts_are_named_with_the_command_that_mends_them(cluster: Cluster, make: Make) -> None:
    provisioner = make()
    cluster.store.remove(PODS, "nri-resource-policy-balloons-xeon2", "kube-system")
    with pytest.raises(EnvironmentFault, match="DaemonSet has no pod on this node"), provisioner.session([]):
        pass
    cluster.api.kinds.remove(POLICIES)
    with (
        pytest.raises(EnvironmentFault, match=r"does not know balloonspolicies.*helm install"),
        provisioner.session([]),
    ):
        pass
