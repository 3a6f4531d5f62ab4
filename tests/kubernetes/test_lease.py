"""One measurement a node: leases are renewed through outages, lost by name, and name what killed sessions have left."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.errors import NodeBusyError, ProvisionError, WorkerError
from pytest_nriperf.provision import cluster as provision_cluster
from pytest_nriperf.provision import lease as provision_lease
from pytest_nriperf.provision.kubernetes import KubernetesProvisioner
from pytest_nriperf.recording import finished_runs
from pytest_nriperf.seams import Launch, Prompt, Work
from pytest_nriperf.sessions import find_recordings
from tests.kubernetes.conftest import Make
from tests.kubernetes.double.api import Request
from tests.kubernetes.double.cluster import Cluster
from tests.kubernetes.double.faults import Fault
from tests.kubernetes.double.kinds import CONFIG_MAPS, LEASES, PODS, POLICIES, Json
from tests.kubernetes.test_provisioner import run
from tests.kubernetes.test_rights import USER, roles
from tests.kubernetes.typed import typed

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def micro(seconds_ago: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000001Z", time.gmtime(time.time() - seconds_ago))


def lease_of(holder: Json, renewed: str, *, duration: int = 30, namespace: str = "default", **spec: Any) -> Json:
    """A node's lease as somebody has left it; `holderIdentity=None` for nobody."""
    words: Json = {
        "holderIdentity": "somebody@elsewhere process 1",
        "leaseDurationSeconds": duration,
        "acquireTime": renewed,
        "renewTime": renewed,
        **spec,
    }
    labels = {"app.kubernetes.io/managed-by": "pytest-nriperf", "nriperf/session": "gone", "nriperf/node": "xeon2"}
    metadata = {
        "name": "nriperf-xeon2",
        "namespace": namespace,
        "annotations": {"nriperf/holder": json.dumps(holder)},
        "labels": labels,
    }
    return {"metadata": metadata, "spec": {key: value for key, value in words.items() if value is not None}}


def stored(cluster: Cluster) -> Json:
    return cluster.store.get(LEASES, "nriperf-xeon2", "default")


def take_over(cluster: Cluster) -> None:
    """As another session does, when ours seems to be gone."""
    old = stored(cluster)
    new = lease_of({"boot": "other"}, micro(0))
    metadata = {**old["metadata"], "labels": new["metadata"]["labels"], "annotations": new["metadata"]["annotations"]}
    cluster.store.replace(LEASES, {**old, "metadata": metadata, "spec": new["spec"]})


def kill(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    """As if its process were gone: nothing is undone, nobody renews."""
    assert provisioner._lease is not None
    provisioner._lease._stop.set()
    provisioner._undo.pop_all()
    for lease in cluster.store.all(LEASES):
        lease["spec"]["renewTime"] = micro(1000)
        cluster.store.replace(LEASES, lease)


# ------------------------------------------------------------------------------------------------------- who has it


def test_one_measurement_per_node(cluster: Cluster, make: Make) -> None:
    first, second = make(), make()
    busy = pytest.raises(NodeBusyError, match=r"node xeon2 is being measured by .* process \d+ since 20")
    with first.session([]), busy, second.session([]):
        pass
    with second.session([]):
        assert stored(cluster)["spec"]["leaseDurationSeconds"] == 30
    assert cluster.store.all(LEASES) == []


def test_a_lease_that_nobody_renews_is_taken_over(cluster: Cluster, make: Make) -> None:
    cluster.store.create(LEASES, lease_of({"boot": "other"}, micro(1000)))
    with make().session([]):
        pass
    cluster.store.create(LEASES, lease_of({"boot": "other"}, micro(2), duration=1))
    with make().session([]):
        assert stored(cluster)["spec"]["leaseTransitions"] == 1
    assert cluster.store.all(LEASES) == []


def test_a_lease_of_a_dead_process_of_this_machine_is_taken_over_at_once(cluster: Cluster, make: Make) -> None:
    holder = {**provision_lease._this_process(), "started": "1"}
    cluster.store.create(LEASES, lease_of(holder, micro(0)))
    with make().session([]):
        pass


@pytest.mark.parametrize("holder", [None, ""])
def test_a_lease_without_a_holder_is_free(cluster: Cluster, make: Make, holder: str | None) -> None:
    cluster.store.create(LEASES, lease_of({}, micro(0), holderIdentity=holder))
    with make().session([]):
        assert stored(cluster)["spec"]["holderIdentity"]
    assert cluster.store.all(LEASES) == []


def test_a_lease_that_does_not_say_since_when_is_told_without(cluster: Cluster, make: Make) -> None:
    lease = lease_of({"boot": "other"}, micro(0), acquireTime=None, leaseDurationSeconds=None)
    cluster.store.create(LEASES, lease)
    with pytest.raises(NodeBusyError) as caught, make().session([]):
        pass
    assert "None" not in str(caught.value)
    assert f"somebody@elsewhere process 1 since {lease['spec']['renewTime']}" in str(caught.value)


def test_the_namespace_of_leases_must_be_there(cluster: Cluster, make: Make) -> None:
    with (
        pytest.raises(ProvisionError, match="kubectl create namespace nowhere"),
        make(lease_namespace="nowhere").session([]),
    ):
        pass
    assert cluster.leftovers() == []


# --------------------------------------------------------------------------------------------------- while it is held


def test_a_lease_is_renewed_while_it_is_held(cluster: Cluster, make: Make) -> None:
    with make(lease_s=1).session([]):
        first = stored(cluster)["spec"]["renewTime"]
        cluster.store.until(lambda: stored(cluster)["spec"]["renewTime"] != first)


def test_an_api_server_that_is_away_for_longer_than_the_lease_takes_nothing(
    cluster: Cluster, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provision_cluster, "PATIENCE_S", 0.1)
    provisioner = make(lease_s=1)
    with provisioner.session([]):
        cluster.faults.add(Fault("reset", "PUT .*/leases", times=5))
        last = stored(cluster)["spec"]["renewTime"]
        # Renewed each third of a second; five that fail are more than the second that it lasts.
        cluster.store.until(lambda: len(cluster.faults.seen) == 5 and stored(cluster)["spec"]["renewTime"] != last, 30)
        spec = BalloonSpec(cpus=2)
        with provisioner.provision(spec) as grant:
            assert len(run(grant).requests) == 3
    assert cluster.leftovers() == []


def test_an_api_server_that_is_away_during_a_run_costs_neither_the_run_nor_the_node(
    cluster: Cluster, make: Make
) -> None:
    provisioner = make(lease_s=1)
    spec = BalloonSpec(cpus=2)
    work = Work((Prompt("p", "hello"),), max_new_tokens=100, requests=3)
    with provisioner.session([spec]), provisioner.provision(spec) as grant:

        def goes_away(request: Request) -> None:
            if "attach" in request.target or "=run" in request.target:
                cluster.server.on_request = lambda request: None
                threading.Timer(0.5, away).start()

        def away() -> None:
            cluster.faults.add(Fault("reset", times=12))
            cluster.server.drop_connections()

        cluster.server.on_request = goes_away
        data = run(grant, work)
        cluster.store.until(lambda: len(cluster.faults.seen) == 12, 60)
        assert len(data.tokens) == 101 * 4
        assert len(run(grant).requests) == 3
    assert cluster.leftovers() == []


def test_a_lease_that_was_taken_over_is_told_by_name_and_left_to_its_holder(cluster: Cluster, make: Make) -> None:
    provisioner = make()
    spec = BalloonSpec(cpus=2)
    lost = (
        r"lease of node xeon2 was taken over while we measured, by somebody@elsewhere process 1 since 20.*when the node"
    )
    with provisioner.session([spec]):
        with provisioner.provision(spec) as grant:
            assert len(run(grant).requests) == 3
            take_over(cluster)
            with pytest.raises(ProvisionError, match=lost):
                run(grant)
        with pytest.raises(ProvisionError, match=lost), provisioner.provision(spec):
            pass
    assert cluster.leftovers() == ["leases/nriperf-xeon2"]
    assert stored(cluster)["spec"]["holderIdentity"] == "somebody@elsewhere process 1"


SUITE = """
import pytest

@pytest.mark.llm(model="sim:itl=2ms,ttft=5ms")
@pytest.mark.balloon(cpus=2)
@pytest.mark.parametrize("number", [1, 2])
def test_chat(llm, number):
    llm.measure("hello", max_new_tokens=4, requests=1)
"""


def test_a_session_that_lost_its_node_records_no_more_and_ends(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    starts: list[str] = []

    def second_run(request: Request) -> None:
        if "command=run" in request.target and "observer" not in request.target:
            starts.append(request.target)
            if len(starts) == 2:
                take_over(cluster)

    cluster.server.on_request = second_run
    command = ["pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.", "--nri-node=xeon2", "--nri-runs=3"]
    done = typed(cluster, tmp_path, [*command, "--nri-collect=none", "--nri-out=out"])
    assert done.returncode == 1
    assert "1 failed, 1 error" in done.stdout
    assert "taken over while we measured, by somebody@elsewhere process 1 since 20" in done.stdout
    assert "Traceback" not in done.stdout
    assert [finished_runs(folder) for folder in find_recordings(tmp_path / "out")] == [(1,)]
    assert cluster.leftovers() == ["leases/nriperf-xeon2"]


def test_the_policy_of_who_took_the_node_over_is_not_touched(cluster: Cluster, make: Make) -> None:
    provisioner = make(policy="manage")
    with provisioner.session([BalloonSpec(cpus=2)]):
        take_over(cluster)
        theirs = {"nriperf/session": "other", "nriperf/original": "null"}

        def replace(policy: Json) -> None:
            policy["metadata"]["annotations"] = theirs

        cluster.store.update(POLICIES, "node.xeon2", "kube-system", replace)
        with pytest.raises(ProvisionError, match="was taken over"), provisioner.provision(BalloonSpec(cpus=4)):
            pass
    assert cluster.store.get(POLICIES, "node.xeon2", "kube-system")["metadata"]["annotations"] == theirs


def test_a_lease_that_was_taken_over_at_the_very_end_is_left_to_its_holder(cluster: Cluster, make: Make) -> None:
    with make().session([]):
        take_over(cluster)
    assert stored(cluster)["spec"]["holderIdentity"] == "somebody@elsewhere process 1"


def test_a_lease_that_somebody_deleted_is_lost(cluster: Cluster, make: Make) -> None:
    provisioner = make(lease_s=1)
    with provisioner.session([]):
        cluster.store.remove(LEASES, "nriperf-xeon2", "default")
        with pytest.raises(ProvisionError, match="was deleted by somebody"), provisioner.provision(BalloonSpec(cpus=2)):
            pass
    assert cluster.leftovers() == []


def test_pods_that_the_next_holder_took_away_are_told_with_it(cluster: Cluster, make: Make) -> None:
    provisioner = make()
    spec = BalloonSpec(cpus=2)
    with provisioner.session([spec]), provisioner.provision(spec) as grant:
        stream = grant.start_worker(0, Launch(provisioner._archive))
        take_over(cluster)
        for pod in cluster.store.all(PODS, "perf"):
            cluster.store.remove(PODS, pod["metadata"]["name"], "perf")
        told = r"taken over while we measured, by somebody@elsewhere.*pod nriperf-.* is gone"
        with pytest.raises(WorkerError, match=told):
            list(iter(lambda: stream.receive(10), None))


# ------------------------------------------------------------------------------------- what killed sessions have left


def test_what_a_killed_session_left_in_another_namespace_is_taken_away(cluster: Cluster, make: Make) -> None:
    first = make(namespace="default")
    first.observer()
    kill(cluster, first)
    assert {pod["metadata"]["namespace"] for pod in cluster.store.all(PODS)} == {"kube-system", "default"}
    with make(namespace="perf").session([]):
        pass
    assert cluster.leftovers() == []


def test_namespaces_are_handed_on_through_several_killed_sessions(cluster: Cluster, make: Make) -> None:
    cluster.access.add_user(USER, "t")
    cluster.access.load(roles("annotate"))
    name = {
        "metadata": {
            "name": "nriperf-gone-files",
            "namespace": "default",
            "labels": lease_of({}, "")["metadata"]["labels"],
        }
    }
    cluster.store.create(CONFIG_MAPS, name)
    cluster.store.create(LEASES, lease_of({"boot": "other", "namespaces": ["default"]}, micro(1000)))
    # The account of the next ones is bound to a namespace: the first is killed, the second may not clean up.
    told = r"left pods in namespace default, and we may not take them away .*kubectl delete pods,configmaps -n default"
    for _ in range(2):
        with pytest.raises(ProvisionError, match=told), make(token="t").session([]):
            pass
        assert "holderIdentity" not in stored(cluster)["spec"]
    with make().session([]):
        pass
    assert cluster.leftovers() == []


def test_who_was_told_to_have_a_namespace_cleaned_up_can_go_on_after_it(cluster: Cluster, make: Make) -> None:
    cluster.access.add_user(USER, "t")
    cluster.access.load(roles("annotate"))
    cluster.store.create(LEASES, lease_of({"boot": "other", "namespaces": ["default"]}, micro(1000)))
    with pytest.raises(ProvisionError) as told, make(token="t").session([]):
        pass
    name, _, namespace = str(told.value).partition("kubectl delete lease ")[2].split()
    cluster.store.remove(LEASES, name, namespace)
    with make(token="t").session([]):
        pass
    assert cluster.leftovers() == []


def test_a_killed_sessions_lease_in_another_namespace_is_found_by_who_may_look(cluster: Cluster, make: Make) -> None:
    first = make(namespace="default", lease_namespace="perf")
    first.observer()
    kill(cluster, first)
    with make().session([]):
        assert [lease["metadata"]["namespace"] for lease in cluster.store.all(LEASES)] == ["default"]
    assert cluster.leftovers() == []


def test_a_session_that_holds_the_node_by_a_lease_elsewhere_is_not_disturbed(cluster: Cluster, make: Make) -> None:
    first = make(namespace="default", lease_namespace="perf")
    pod = first.observer()
    with (
        pytest.raises(NodeBusyError, match=r"being measured by .*kubectl delete lease nriperf-xeon2 -n perf"),
        make().session([]),
    ):
        pass
    assert cluster.store.get(PODS, pod, "default")["status"]["phase"] == "Running"
    first.close()
    assert cluster.leftovers() == []


def test_pods_without_any_lease_are_found_by_who_may_look(cluster: Cluster, make: Make) -> None:
    first = make(namespace="default")
    first.observer()
    kill(cluster, first)
    cluster.store.remove(LEASES, "nriperf-xeon2", "default")
    with make().session([]):
        pass
    assert cluster.leftovers() == []
