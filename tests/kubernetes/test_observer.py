"""One observer pod a node, outside the balloons, reads its counters; losing it costs counters and no run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.errors import CollectorError, NodeBusyError, ProvisionError
from pytest_nriperf.experiment.counting import Counting, Sampling, counting_there
from pytest_nriperf.generate.models import parse_model
from pytest_nriperf.generate.process import WorkerGenerator
from pytest_nriperf.provision.kubernetes import KubernetesProvisioner
from pytest_nriperf.seams import Grant, Prompt, RunData, Target, TargetReplica, Work
from pytest_nriperf.topology import read_topology
from tests.kubernetes.conftest import Make
from tests.kubernetes.double.cluster import Cluster
from tests.kubernetes.double.faults import Fault
from tests.kubernetes.double.kinds import NAMESPACES, PODS, Json
from tests.kubernetes.test_cluster_commands import command
from tests.kubernetes.test_rights import USER, roles
from tests.pcm_double import PcmDouble

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SPEC = BalloonSpec(cpus=1, hyperthreads="spread")
WORK = Work((Prompt("p", "hello"),), max_new_tokens=8, requests=2)


@pytest.fixture
def native(cluster: Cluster, make: Make) -> Callable[..., KubernetesProvisioner]:
    """Makes provisioners of a node that is this machine, with no more rights than the documented ones."""
    cluster.add_node("native", read_topology())
    cluster.access.add_user(USER, "t")
    cluster.access.load(roles("manage"))
    return lambda **words: make(node="native", token="t", policy="manage", python=sys.executable, **words)


def run(counting: Counting, grant: Grant, hz: float = 5) -> tuple[RunData, Sampling]:
    """A run of the simulated engine under the counters."""
    generator = WorkerGenerator(parse_model("sim:itl=5ms,ttft=20ms"))
    try:
        infos = generator.load(grant)
        granted = grant.placement.replicas
        replicas = [
            TargetReplica(one.replica, one.pid, granted[one.replica].allocated, granted[one.replica].visible)
            for one in infos
        ]
        where = {cpu: 0 for each in replicas for cpu in each.allocated}
        sampler = counting.sampler(Target(tuple(replicas), where, where), hz)
        with sampler:
            data = generator.measure(WORK, lambda _: None)
        return data, sampler
    finally:
        generator.close()


def names(sampler: Sampling) -> set[tuple[str, str]]:
    return {(row.source, row.name) for row in sampler.rows}


def observers(cluster: Cluster) -> list[Json]:
    return [pod for pod in cluster.store.all(PODS) if "observer" in pod["metadata"]["name"]]


def role(pod: Json) -> str:
    return str((pod["metadata"].get("labels") or {}).get("nriperf/role", ""))


@contextmanager
def granted(provisioner: KubernetesProvisioner) -> Iterator[Grant]:
    with provisioner.session([SPEC]), provisioner.provision(SPEC) as grant:
        yield grant


def test_with_host_pid_each_replicas_tasks_are_counted(
    cluster: Cluster, native: Callable[..., KubernetesProvisioner]
) -> None:
    provisioner = native(host_pid=True)
    with granted(provisioner) as grant:
        counting = counting_there(provisioner, "native", "auto", "")
        data, sampler = run(counting, grant)
        (observer,) = observers(cluster)
        workers = [pod for pod in cluster.store.all(PODS) if role(pod).startswith("balloon")]
    assert counting.line.startswith("counters on native: proc")
    assert "host_pid" not in counting.line
    assert {("proc", "run_queue_wait"), ("proc", "cpu_busy_time"), ("perf", "context_switches")} <= names(sampler)
    stamps = [row.t_ns for row in sampler.rows if row.name == "run_queue_wait"]
    measured = [row for row in data.requests if row.phase == "measure"]
    assert min(stamps) < measured[0].submit_ns < (measured[-1].end_ns or 0) < max(stamps)
    assert not [text for text in sampler.warnings if "observer" in text or "tasks" in text]
    assert observer["spec"]["hostPID"] is True
    assert "reserved" in str(observer["metadata"]["annotations"])
    assert workers
    assert not any(pod["spec"].get("hostPID") for pod in workers)
    assert cluster.leftovers() == []


def test_without_host_pid_the_node_is_counted_and_the_line_says_what_is_missing(
    cluster: Cluster, native: Callable[..., KubernetesProvisioner]
) -> None:
    provisioner = native()
    with granted(provisioner) as grant, PcmDouble() as server:
        counting = counting_there(provisioner, "native", "auto", server.url)
        _, sampler = run(counting, grant)
        assert not observers(cluster)[0]["spec"].get("hostPID")
        with pytest.raises(CollectorError, match=r"collector resctrl: .*leave it out of --nri-collect"):
            counting_there(provisioner, "native", "proc,resctrl", "")
    reason = "host_pid is not set in the profile of native"
    assert f"proc without what it tells of each replica's tasks ({reason})" in counting.line
    assert ", pcm" in counting.line
    assert {("proc", "cpu_busy_time"), ("pcm", "DRAM_Reads")} <= names(sampler)
    assert ("proc", "run_queue_wait") not in names(sampler)
    assert cluster.leftovers() == []


def test_an_observer_that_dies_is_a_mark_on_one_run_and_replaced_once(
    cluster: Cluster, native: Callable[..., KubernetesProvisioner]
) -> None:
    provisioner = native(host_pid=True)
    with granted(provisioner) as grant:
        counting = counting_there(provisioner, "native", "proc", "")
        generator = WorkerGenerator(parse_model("sim:itl=5ms,ttft=20ms"))
        try:
            generator.load(grant)
            sampler = counting.sampler(Target(()), 5)
            with sampler:
                wait_for(lambda: sampler.rows)
                cluster.nodes["native"].order(observers(cluster)[0]["metadata"]["name"], "evict")
                wait_for(lambda: sampler.warnings)
                data = generator.measure(WORK, lambda _: None)
        finally:
            generator.close()
        assert len(data.requests) == 3
        assert sampler.rows
        assert "observer: lost, counters of this run are missing or end early" in sampler.warnings[0]
        assert "Evicted" in sampler.warnings[0]

        _, again = run(counting, grant)
        assert ("proc", "run_queue_wait") in names(again)
        assert not any("observer" in text for text in again.warnings)

        cluster.nodes["native"].order(observers(cluster)[-1]["metadata"]["name"], "evict")
        wait_for(lambda: provisioner._access.why_gone(observers(cluster)[-1]["metadata"]["name"]))
        for _ in range(2):
            data, without = run(counting, grant)
            assert len(data.requests) == 3
            assert without.rows == []
            assert "the one before it went too" in without.warnings[0] or "Evicted" in without.warnings[0]
        assert len(observers(cluster)) == 2
    assert cluster.leftovers() == []


def test_a_dropped_connection_loses_no_reading(cluster: Cluster, native: Callable[..., KubernetesProvisioner]) -> None:
    provisioner = native(host_pid=True)
    with granted(provisioner) as grant:
        counting = counting_there(provisioner, "native", "proc", "")
        cluster.faults.add(Fault("cut", r"observer/exec\?.*(run|attach)", value=0.3, times=2))
        _, sampler = run(counting, grant, hz=10)
        assert any("observer" in text for text in cluster.faults.seen)
    assert not any("observer" in text for text in sampler.warnings)
    assert "observer_cpu_s" in sampler.cost
    assert len([row for row in sampler.rows if row.name == "local_memory"]) == 2


@pytest.mark.parametrize("label", ["pod-security.kubernetes.io/enforce", "example.org/policies"])
def test_where_the_namespace_forbids_host_pids_the_observer_goes_without(
    cluster: Cluster, make: Make, label: str
) -> None:
    labels = {label: "baseline"}
    cluster.store.update(NAMESPACES, "perf", "", lambda stored: stored["metadata"].update(labels=labels))
    provisioner = make(host_pid=True)
    counting = counting_there(provisioner, "xeon2", "auto", "")
    assert "each replica's tasks (hostPID is not allowed in namespace perf)" in counting.line
    provisioner.close()
    assert cluster.leftovers() == []


def test_a_server_that_only_we_reach_is_read_from_here(
    cluster: Cluster, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_nriperf.experiment import counting as module

    provisioner = make()
    chosen = (["proc"], "counters: proc; no pcm (nothing listens there)")
    monkeypatch.setattr(module, "choose_there", lambda observer, words, address: chosen)
    with PcmDouble() as server:
        counting = counting_there(provisioner, "xeon2", "auto", server.url)
        with counting.sampler(Target(()), 5) as _:
            pass
    assert [each.name for each in counting.collectors] == ["pcm"]
    assert counting.line.endswith("; pcm from here")


def test_without_an_observer_pcm_is_all_there_is_and_the_line_says_why(cluster: Cluster, make: Make) -> None:
    cluster.nodes["xeon2"].images = set()
    provisioner = make()
    with PcmDouble() as server:
        counting = counting_there(provisioner, "xeon2", "auto", server.url)
    assert "counters on xeon2: none of the node itself" in counting.line
    assert "has no image" in counting.line
    assert counting.line.endswith("; pcm from here")
    assert [each.name for each in counting.collectors] == ["pcm"]
    with pytest.raises(NodeBusyError):
        counting_there(make(), "xeon2", "auto", "")
    provisioner.close()
    with pytest.raises(ProvisionError, match="has no image"):
        counting_there(make(), "xeon2", "proc", "")


SUITE = """
import pytest

@pytest.mark.llm(model="sim:itl=5ms,ttft=20ms")
@pytest.mark.balloon(cpus=1, hyperthreads="spread")
@pytest.mark.gate("itl", "run_queue_wait")
def test_chat(llm):
    m = llm.measure("hello", max_new_tokens=40, requests=2)
    assert 0 <= m.pcm.run_queue_wait.value <= 1
    row = m.requests.to_pylist()[-1]
    cost = m.counters_between(row["run"], row["submit_ns"] - 10**9, row["end_ns"] + 10**9)
    assert "run_queue_wait" in cost
    assert {row["replica"] for row in m.counters.to_pylist() if row["name"] == "run_queue_wait"} == {0}
"""


def test_a_suite_uses_counters_of_the_node_as_those_of_this_machine(cluster: Cluster, tmp_path: Path) -> None:
    cluster.add_node("native", read_topology())
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "nriperf.toml").write_text(
        f"repeats = 0\n[nodes.here]\nnode = 'native'\nnamespace = 'perf'\npolicy = 'manage'\nhost_pid = true\n"
        f"python = {json.dumps(sys.executable)}\n"
    )
    words = ["--nri-node=here", "--nri-runs=1", "--nri-sample-hz=10", "--nri-collect=proc", "-p", "no:cacheprovider"]
    done = command(cluster, tmp_path, "pytest", "-q", "--rootdir=.", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "counters on here: proc" in done.stdout
    (session,) = (tmp_path / ".nriperf").glob("*/session.json")
    assert json.loads(session.read_text())["collectors"].startswith("counters on here: proc")
    assert cluster.leftovers() == []


def wait_for(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)
