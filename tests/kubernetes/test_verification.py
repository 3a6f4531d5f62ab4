"""What a pod really got is believed only when the kernel, the plugin's zones and the mark agree."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.errors import NotHonouredError, ProvisionError, WorkerError
from pytest_nriperf.generate.models import parse_model
from pytest_nriperf.generate.process import WorkerGenerator
from pytest_nriperf.provision import policy_zones
from pytest_nriperf.provision.pod_grant import PodGrant
from pytest_nriperf.seams import Launch
from pytest_nriperf.topology import read_topology
from pytest_nriperf.units import format_cpus
from tests.kubernetes.conftest import Make
from tests.kubernetes.double.cluster import Cluster, default_policy
from tests.kubernetes.double.kinds import PODS, POLICIES, ZONES, Json
from tests.tools import missing, needs

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SPEC = BalloonSpec(cpus=2)
OWN: Json = {"name": "own", "minCPUs": 2, "maxCPUs": 2, "namespaces": ["default"]}


def follow(cluster: Cluster, spec: Json, says: str = "Success") -> None:
    """A default policy, once the plugin has spoken of it."""
    generation = cluster.put_policy("default", spec)["metadata"]["generation"]

    def told() -> bool:
        status = cluster.store.get(POLICIES, "default", "kube-system").get("status") or {}
        entry = (status.get("nodes") or {}).get("xeon2") or {}
        return (entry.get("generation"), entry.get("status")) == (generation, says)

    cluster.store.until(told)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not published is not waited for long: in the double it is at once."""
    monkeypatch.setattr(policy_zones, "ZONE_S", 0.5)


@pytest.mark.parametrize("policy", ["annotate", "manage"])
def test_an_unpinned_pod_is_not_believed(cluster: Cluster, make: Make, policy: str) -> None:
    provisioner = make(policy=policy)
    with provisioner.session([SPEC]):
        cluster.plugins["xeon2"].kill()
        text = "not connected to the container runtime"
        with pytest.raises(NotHonouredError, match=text), provisioner.provision(SPEC):
            pass
        cluster.plugins["xeon2"].start()


@pytest.mark.parametrize("policy", ["annotate", "manage"])
def test_what_kubelets_cpu_manager_gives_is_no_balloon(cluster: Cluster, make: Make, policy: str) -> None:
    # Both threads of the last core: as good as any by count, cores and NUMA nodes.
    cluster.nodes["xeon2"].exclusive = frozenset([7, 15])
    provisioner = make(policy=policy)
    with (
        provisioner.session([SPEC]),
        pytest.raises(NotHonouredError, match=r"granted were CPUs 7,15: .*CPU manager \(set cpuManagerPolicy: none\)"),
        provisioner.provision(SPEC),
    ):
        pass
    assert cluster.leftovers() == []


def test_zones_of_a_plugin_that_is_gone_speak_against_what_kubelet_gives(cluster: Cluster, make: Make) -> None:
    provisioner = make()
    with provisioner.session([SPEC]):
        cluster.plugins["xeon2"].kill()
        cluster.nodes["xeon2"].exclusive = frozenset([7, 15])
        text = "no published balloon has them"
        with pytest.raises(NotHonouredError, match=text), provisioner.provision(SPEC):
            pass


def test_zones_that_a_policy_no_longer_has_published_count_for_nothing(cluster: Cluster, make: Make) -> None:
    follow(cluster, default_policy() | {"agent": {"nodeResourceTopology": False}})
    assert cluster.store.all(ZONES)
    provisioner = make()
    with provisioner.session([SPEC]), provisioner.provision(SPEC) as grant:
        assert len(grant.placement.allocated) == 2


def test_a_balloon_that_holds_others_too_is_not_ours(cluster: Cluster, make: Make) -> None:
    follow(cluster, {"reservedResources": {"cpu": "1"}, "showContainersInNrt": True, "balloonTypes": [OWN]})
    cluster.add_pod("shop", "xeon2", cpu="0")
    provisioner = make(balloon_types={"paired": "own"})
    with (
        provisioner.session([SPEC]),
        pytest.raises(NotHonouredError, match=r"other containers too \(default/shop/c\); .*preferNewBalloons"),
        provisioner.provision(SPEC),
    ):
        pass


def test_a_type_that_shares_idle_cpus_gives_more_than_was_asked_for(cluster: Cluster, make: Make) -> None:
    provisioner = make(balloon_types={"paired": "shared-local-cpus"})
    with (
        provisioner.session([SPEC]),
        pytest.raises(NotHonouredError, match=r"that is \d allocated CPUs; the balloon type .* shareIdleCPUsInSame"),
        provisioner.provision(SPEC),
    ):
        pass


def test_a_policy_that_the_plugin_rejects_is_told_as_the_cause(cluster: Cluster, make: Make) -> None:
    # The policy in force does not hide hyperthreads; the one that the cluster shows would.
    hiding = {"name": "dedicated-cpus", "preferNewBalloons": True, "hideHyperthreads": True}
    follow(cluster, default_policy() | {"balloonTypes": [hiding, {**OWN, "maxCPUs": 1}]}, "Failure")
    provisioner = make()
    spec = BalloonSpec(cpus=4, hyperthreads="hidden")
    with (
        provisioner.session([spec]),
        pytest.raises(NotHonouredError, match=r"since the plugin rejects it \(balloons: .*MinCpus \(2\) > MaxCpus"),
        provisioner.provision(spec),
    ):
        pass


def test_memory_that_a_type_pins_is_not_any(cluster: Cluster, make: Make) -> None:
    provisioner = make()
    spec = BalloonSpec(cpus=2, memory="any")
    with (
        provisioner.session([spec]),
        pytest.raises(NotHonouredError, match=r"memory='any', granted was memory of NUMA nodes \d alone.*pinMemory"),
        provisioner.provision(spec),
    ):
        pass
    follow(cluster, default_policy() | {"pinMemory": False})
    with provisioner.session([spec]), provisioner.provision(spec) as grant:
        assert grant.placement.replicas[0].memory_nodes == ()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("cpus", r"task \d+ of process \d+ in pod \S+ may run on CPUs \S+, granted were"),
        ("memory", r"may take memory from NUMA nodes 0-3, granted were"),
    ],
)
def test_a_policy_that_changes_while_we_measure_is_found_in_every_task(
    cluster: Cluster, make: Make, change: str, text: str
) -> None:
    provisioner, kubelet = make(), cluster.nodes["xeon2"]
    with provisioner.session([SPEC]), provisioner.provision(SPEC) as grant:
        assert isinstance(grant, PodGrant)
        stream = grant.start_worker(0, Launch(provisioner._archive))
        assert grant.verify(0, stream)["cpus"] == format_cpus(grant.placement.allocated)
        without = {"availableResources": {"cpu": f"exclude-cpuset:{format_cpus(grant.placement.allocated)}"}}
        follow(cluster, default_policy() | (without if change == "cpus" else {"pinMemory": False}))
        uid = cluster.store.get(PODS, grant.pods[0], "perf")["metadata"]["uid"]
        container = cluster.runners[uid].container
        assert container is not None
        kubelet.pin(kubelet.processes[uid], container)
        with pytest.raises(NotHonouredError, match=text):
            grant.verify(0, stream)


@pytest.fixture
def shifted(tmp_path: Path) -> str:
    """An interpreter for pods whose processes have a monotonic clock of their own, a day ahead; PID 1 has not."""
    unshare = needs("unshare", package="util-linux")
    apart = f"{unshare} --user --map-root-user --time --monotonic 86400 --fork {sys.executable}"
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\ncase "$2" in wait) exec {sys.executable} "$@";; esac\nexec {apart} "$@"\n')
    script.chmod(0o755)
    if subprocess.run([script, "-c", "pass"], capture_output=True, check=False).returncode:
        missing("time namespaces are not permitted here")
    return str(script)


def test_a_pod_with_a_clock_of_its_own_is_refused(cluster: Cluster, make: Make, shifted: str) -> None:
    cluster.add_node("native", read_topology())
    own = r"in a time namespace of (its|their) own \(monotonic clock off by 86400 s\)"
    provisioner = make(node="native", python=shifted)
    with pytest.raises(ProvisionError, match=own):
        provisioner.topology()
    provisioner.close()
    # Where the node's files are known already, the worker tells it.
    known = make(node="native", python=sys.executable)
    known.topology()
    known.close()
    provisioner = make(node="native", policy="manage", python=shifted)
    spec = BalloonSpec(cpus=1, hyperthreads="spread")
    with (
        provisioner.session([spec]),
        provisioner.provision(spec) as grant,
        contextlib.closing(WorkerGenerator(parse_model("sim:"))) as generator,
        pytest.raises(WorkerError, match=own),
    ):
        generator.load(grant)
    assert cluster.leftovers() == []
