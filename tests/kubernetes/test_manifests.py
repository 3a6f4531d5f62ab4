"""Documents are valid for the server's schemas, and types say what balloons ask for."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_nriperf.balloons import BalloonSpec, Placement, place
from pytest_nriperf.errors import NotHonouredError, NriperfError, SettingsError
from pytest_nriperf.provision import manifests
from pytest_nriperf.provision.balloon_types import choose_type, plan_types, with_types
from pytest_nriperf.provision.honoured import Seen, granted_placement, shares_cores
from pytest_nriperf.provision.policy_zones import Published
from pytest_nriperf.settings import NodeProfile
from pytest_nriperf.topology import simulated_topology
from tests.kubernetes.double.balloons_policy import Container, Policy
from tests.kubernetes.double.cluster import default_policy
from tests.kubernetes.double.kinds import PODS, POLICIES, Json
from tests.kubernetes.double.policy_config import read_config
from tests.kubernetes.double.schema import unknown_fields, violations
from tests.kubernetes.double.validation import Schemas, check

ROOT = Path(__file__).parents[2]
REAL = next((p for p in (ROOT.parents[1] / "shared/data", ROOT.parent / "shared/data") if p.is_dir()), None)
ONLY_SIMPLE = {
    "cpuClass",
    "preferSpreadOnPhysicalCores",
    "allocatorTopologyBalancing",
    "preferCloseToDevices",
    "preferIsolCpus",
    "preferCoreType",
}
MACHINE = simulated_topology("sim:2s8c2t-snc2")

specs = st.builds(
    BalloonSpec,
    cpus=st.sampled_from([2, 4, 8, "25%", "numa"]),
    hyperthreads=st.sampled_from(["paired", "spread", "hidden"]),
    numa=st.sampled_from(["any", "single", "socket", "all"]),
    memory=st.sampled_from(["local", "any", "interleave"]),
    replicas=st.sampled_from([1, 2, 3]),
    placement=st.sampled_from(["balance", "pack"]),
)


@cache
def schemas() -> list[Json]:
    """The policy's schema, by hand, and the real one where it is beside the project."""
    found = [Schemas().of(POLICIES)]
    if REAL is not None:
        document = yaml.safe_load((REAL / "balloons-crd.yaml").read_text())
        found += [version["schema"]["openAPIV3Schema"] for version in document["spec"]["versions"]]
    return found


def not_honoured(placement: Placement, seen: list[Seen]) -> str:
    """What is said against a grant, empty when nothing is."""
    try:
        granted_placement(placement, seen, MACHINE, frozenset([0]))
    except NotHonouredError as error:
        return str(error)
    return ""


@settings(max_examples=60, deadline=None)
@given(spec=specs)
@example(spec=BalloonSpec(cpus="25%", hyperthreads="spread", replicas=3))
def test_managed_policies_are_valid_and_grant_what_was_planned(spec: BalloonSpec) -> None:
    try:
        placement = place(spec, MACHINE, allowed=MACHINE.online, reserved=[0])
    except NriperfError:
        return
    plan = plan_types(placement, MACHINE, "abcd1234")
    body = manifests.policy("xeon1", "kube-system", with_types(default_policy(), [plan], "0"), {}, "abcd1234", "null")
    composites = [entry for entry in plan.types if "components" in entry]
    assert not any(ONLY_SIMPLE & entry.keys() for entry in composites), "the plugin rejects these of a composite"
    for schema in schemas():
        checked = {key: value for key, value in body.items() if key != "metadata"}
        assert list(unknown_fields(checked, schema)) == []
        assert list(violations(checked, schema)) == []
    policy = Policy(read_config(body["spec"], MACHINE), MACHINE)
    seen = []
    for number, choice in enumerate(plan.replicas):
        annotations = {manifests.BALLOON: choice.name}
        container = Container("perf", f"p{number}", str(number), "c", placement.cpus * 1000, annotations=annotations)
        policy.add(container)
        assert container.pinned is not None
        zone = next(b for b in policy.balloons if container in b.containers)
        told = Published(policy.tree.cpus(zone.mask), container.pinned)
        memory = frozenset(range(4) if container.memory is None else container.memory)
        seen.append(Seen(f"p{number}", container.pinned, memory, told))
    if plan.roams and shares_cores(placement, MACHINE):
        # The policy would rather keep off cores of others than off a balloon's own; that is found and told.
        found = not_honoured(placement, seen)
        assert not found or "two threads of a core are among them; replicas share cores here" in found
        return
    granted = granted_placement(placement, seen, MACHINE, frozenset([0]))
    planned = [MACHINE.nodes_of(replica.allocated) for replica in placement.replicas]
    # Where a replica of numa="any" needs several NUMA nodes, which ones is a prediction.
    if spec.numa != "any" or all(len(nodes) == 1 for nodes in planned):
        assert [MACHINE.nodes_of(replica.allocated) for replica in granted.replicas] == planned


@pytest.mark.parametrize(
    "profile",
    [
        NodeProfile(name="x"),
        NodeProfile(
            name="x",
            image="registry.example/llm:1",
            pull_secret="s",
            service_account="a",
            tolerations=({"key": "k", "operator": "Exists"},),
            memory_limit="8Gi",
            model_path="/models",
            model_claim="weights",
            resources={"hugepages-2Mi": "1Gi"},
        ),
        NodeProfile(name="x", model_path="/models", model_host_path="/srv/models"),
    ],
)
def test_pods_are_valid_and_ask_for_what_is_allocated(profile: NodeProfile) -> None:
    from pytest_nriperf.provision.balloon_types import TypeChoice

    plan = manifests.PodPlan("nriperf-a-1-0", "balloon-1", 16, TypeChoice("t", hide=True), "512Mi")
    body = manifests.pod(plan, profile, "xeon1", "a", "files", manifests.Owner("files", "uid"))
    assert Schemas().unknown(PODS, body) == []
    check(PODS, body, Schemas())
    container = body["spec"]["containers"][0]
    assert container["resources"]["requests"]["cpu"] == container["resources"]["limits"]["cpu"] == "16"
    assert body["metadata"]["annotations"] == {
        "balloon.balloons.resource-policy.nri.io/container.worker": "t",
        "hide-hyperthreads.resource-policy.nri.io/container.worker": "true",
    }
    assert body["spec"]["terminationGracePeriodSeconds"] >= 1
    assert body["spec"]["activeDeadlineSeconds"] > 0


def test_only_a_pod_that_is_planned_so_sees_the_nodes_processes() -> None:
    profile = NodeProfile(name="x", host_pid=True)
    bodies = [
        manifests.pod(plan, profile, "xeon1", "a", "files", None)
        for plan in (manifests.PodPlan("w", "balloon-1", 2), manifests.PodPlan("o", "observer", host_pid=True))
    ]
    assert ["hostPID" in body["spec"] for body in bodies] == [False, True]
    assert Schemas().unknown(PODS, bodies[1]) == []


def choice(spec: BalloonSpec, types: list[Json], **mapping: str) -> Any:
    return choose_type(spec, 4, {"balloonTypes": types}, mapping, "x", "x")


def test_a_type_of_the_node_is_found_by_what_it_does() -> None:
    own: Json = {"name": "own", "preferNewBalloons": True}
    sharing = {**own, "name": "sharing", "shareIdleCPUsInSame": "package"}
    small = {**own, "name": "small", "maxCPUs": 2}
    hiding = {**own, "name": "hiding", "hideHyperthreads": True}
    spreading = {**own, "name": "spreading", "preferSpreadOnPhysicalCores": True}
    types = [sharing, small, spreading, hiding, own]
    assert choice(BalloonSpec(cpus=4), types).name == "own"
    assert choice(BalloonSpec(cpus=4, hyperthreads="hidden"), types).name == "hiding"
    assert choice(BalloonSpec(cpus=4, hyperthreads="spread"), types).name == "spreading"
    hidden = choice(BalloonSpec(cpus=4, hyperthreads="hidden"), [own])
    assert (hidden.name, hidden.hide) == ("own", True)
    with pytest.raises(SettingsError, match="cannot have exactly 4 CPUs"):
        choice(BalloonSpec(cpus=4), types, paired="small")
    with pytest.raises(SettingsError, match="gives 4 CPUs of a balloon's own"):
        choice(BalloonSpec(cpus=4), [sharing, small])


def told(balloon: Any, pinned: Any = None, *others: str) -> Published:
    """What a plugin publishes of a container."""
    return Published(frozenset(balloon), None if pinned is None else frozenset(pinned), others)


@pytest.mark.parametrize(
    ("spec", "cpus", "published", "text"),
    [
        (BalloonSpec(cpus=2), range(32), None, "not pinned at all"),
        (BalloonSpec(cpus=2), [1, 2], None, "not whole cores"),
        (BalloonSpec(cpus=2), [1, 17, 2], None, "3 allocated CPUs"),
        (BalloonSpec(cpus=2, hyperthreads="spread"), [1, 17], None, "two threads of a core"),
        (BalloonSpec(cpus=4, hyperthreads="hidden"), [1, 17], told([1, 17]), "2 allocated CPUs"),
        (BalloonSpec(cpus=4, hyperthreads="hidden"), [1, 2], told([1, 2, 17]), "published balloon has CPUs 1-2,17"),
        (BalloonSpec(cpus=4, numa="single"), [3, 19, 4, 20], None, "span several NUMA nodes"),
        (BalloonSpec(cpus=2), [0, 16], told([0, 16]), "CPUs 0 are reserved for system pods"),
        (BalloonSpec(cpus=2), [4, 5], told([1, 17], [1, 17]), "the plugin gave it CPUs 1,17: .*static CPU manager"),
        (BalloonSpec(cpus=2), [4, 20], told([4, 20], [1, 17]), "says that it gave CPUs 1,17; .*static CPU manager"),
        (BalloonSpec(cpus=2), [4, 20], told([]), "no published balloon has them; .*static CPU manager"),
        (BalloonSpec(cpus=2), [4, 20], told([4, 5, 20, 21]), "the published balloon has CPUs 4-5,20-21"),
        (
            BalloonSpec(cpus=2),
            [4, 20],
            told([4, 20], [4, 20], "default/shop/c"),
            r"holds other containers too \(default/shop/c\); .*preferNewBalloons",
        ),
    ],
)
def test_what_was_not_honoured_is_told_with_its_likely_cause(
    spec: BalloonSpec, cpus: Any, published: Published | None, text: str
) -> None:
    placement = place(spec, MACHINE, allowed=MACHINE.online, reserved=[0])
    view = Seen("p", frozenset(cpus), frozenset([0]), published)
    with pytest.raises(NotHonouredError, match=text):
        granted_placement(placement, [view], MACHINE, frozenset([0]))


def test_a_policy_that_the_plugin_rejects_is_a_likely_cause() -> None:
    placement = place(BalloonSpec(cpus=2), MACHINE, allowed=MACHINE.online, reserved=[0])
    text = r"3 allocated CPUs; the node does not follow the policy .* rejects it \(balloons: MinCpus\): mend the policy"
    with pytest.raises(NotHonouredError, match=text):
        granted_placement(
            placement, [Seen("p", frozenset([1, 2, 3]), frozenset())], MACHINE, rejected="balloons: MinCpus"
        )


def test_several_replicas_need_a_type_that_lays_them_as_asked() -> None:
    packing: Json = {"name": "packing", "preferNewBalloons": True}
    balancing = {**packing, "name": "balancing", "allocatorTopologyBalancing": True}
    two, packed = BalloonSpec(cpus=4, replicas=2), BalloonSpec(cpus=4, replicas=2, placement="pack")
    assert choice(two, [packing, balancing]).name == "balancing"
    assert choice(packed, [packing, balancing]).name == "packing"
    with pytest.raises(SettingsError, match=r"type packing puts replicas into as few.*placement=\"pack\""):
        choice(two, [packing])
    with pytest.raises(SettingsError, match=r"type balancing spreads replicas.*asked for was placement='pack'"):
        choice(packed, [packing, balancing], paired="balancing")
    for spec in (
        BalloonSpec(cpus=4),
        BalloonSpec(cpus=4, replicas="numa"),
        BalloonSpec(cpus=4, replicas=2, numa="all"),
    ):
        assert choice(spec, [packing]).name == "packing"


@pytest.mark.parametrize(
    ("asked", "allowed", "text"),
    [
        ("local", [0], ""),
        # Not pinned, or widened for what the container may need: the worker binds itself to the nearest.
        ("local", [0, 1, 2, 3], ""),
        ("local", [2], r"asked for memory='local', granted was memory of NUMA nodes 2 alone, without 0; .*memoryTypes"),
        ("interleave", [0, 1], ""),
        ("interleave", [1], "asked for memory='interleave', .* without 0"),
        ("any", [0, 1, 2, 3], ""),
        ("any", [0], r"asked for memory='any', .*NUMA nodes 0 alone, without 1-3; the balloon type pins memory"),
        ("any", [], ""),
    ],
)
def test_memory_may_come_from_where_it_was_asked_for(asked: str, allowed: list[int], text: str) -> None:
    placement = place(BalloonSpec(cpus=2, memory=asked), MACHINE, allowed=MACHINE.online, reserved=[0])
    view = Seen("p", frozenset([1, 17]), frozenset(allowed), told([1, 17]))
    if text:
        with pytest.raises(NotHonouredError, match=text):
            granted_placement(placement, [view], MACHINE)
    else:
        granted = granted_placement(placement, [view], MACHINE)
        assert granted.replicas[0].memory_nodes == (() if asked == "any" else (0,))


def test_a_spread_replica_with_two_threads_of_a_core_is_told_where_replicas_share_cores() -> None:
    spec = BalloonSpec(cpus=7, hyperthreads="spread", replicas=3)
    placement = place(spec, MACHINE, allowed=MACHINE.online, reserved=[0])
    view = Seen("p", frozenset([15, 19, 26, 28, 29, 30, 31]), frozenset([2]))
    with pytest.raises(NotHonouredError, match=r"two threads of a core .*; replicas share cores here, .*ask for fewer"):
        granted_placement(placement, [view], MACHINE)


def test_replicas_that_share_a_cpu_are_not_honoured() -> None:
    placement = place(BalloonSpec(cpus=2, replicas=2), MACHINE, allowed=MACHINE.online)
    view = Seen("p", frozenset([1, 17]), frozenset([0]))
    with pytest.raises(NotHonouredError, match="replicas 0 and 1 share CPU 1"):
        granted_placement(placement, [view, view], MACHINE)
