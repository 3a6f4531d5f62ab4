"""The double places as a real node of the policy did: tests/data/kubernetes/placements.json.

Recorded on 2 sockets x SNC-2 x 2 cores x 2 threads, siblings 0-1, 2-3, ...: pods one after the other as type, CPUs
requested and CPUs that their container may use at first (null where none has room).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_nriperf.topology import Cpu, NumaNode, Topology, simulated_topology
from pytest_nriperf.units import format_cpus, parse_cpus
from tests.kubernetes.double.balloons_policy import Container, NoBalloon, Policy
from tests.kubernetes.double.kinds import Json
from tests.kubernetes.double.policy_config import read_config

BALLOON = "balloon.balloons.resource-policy.nri.io"
CASES = json.loads((Path(__file__).parents[1] / "data/kubernetes/placements.json").read_text())


def machine() -> Topology:
    """The recorded node."""
    cpus = tuple(Cpu(n, n // 8, 0, n // 2, n % 2, n // 4) for n in range(16))
    nodes = tuple(NumaNode(n, frozenset(range(4 * n, 4 * n + 4)), 1 << 30, sockets=(n // 2,)) for n in range(4))
    return Topology("xeon2", cpus, nodes)


def container(number: int, type_: str, cpus: int) -> Container:
    annotations = {BALLOON: type_} if type_ else {}
    return Container("perf", f"p{number}", f"uid{number}", "c", 1000 * cpus, 1000 * cpus, annotations)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "+".join(pod[0] or "default" for pod in case["pods"]))
def test_pods_get_the_recorded_cpus(case: Json) -> None:
    topology = machine()
    policy = Policy(read_config(case["config"], topology), topology)
    for number, (type_, cpus, pinned) in enumerate(case["pods"]):
        pod = container(number, type_, cpus)
        if pinned is None:
            with pytest.raises(NoBalloon):
                policy.add(pod)
        else:
            policy.add(pod)
            assert format_cpus(pod.pinned or ()) == pinned


def test_idle_cpus_are_shared_until_somebody_gets_them() -> None:
    topology = machine()
    close = ["/sys/devices/system/node/node0"]
    types = [
        {"name": "n0", "minCPUs": 2, "maxCPUs": 2, "preferCloseToDevices": close},
        {"name": "default", "shareIdleCPUsInSame": "numa"},
    ]
    policy = Policy(read_config({"reservedResources": {"cpu": "1"}, "balloonTypes": types}, topology), topology)
    first, second = container(0, "", 0), container(1, "n0", 2)
    policy.add(first)
    zone = next(zone for zone in policy.zones() if zone["name"] == "default[0]")
    own, shared = (entry["value"] for entry in zone["attributes"][:2])
    node = next(node for node in topology.nodes if int(own) in node.cpus)
    assert first.pinned == parse_cpus(own) | parse_cpus(shared)
    assert first.pinned <= node.cpus
    before = first.pinned
    policy.add(second)
    assert second.pinned is not None
    assert first.pinned == before - second.pinned
    policy.release(second)
    # As the policy does it: CPUs of a balloon that goes are shared again with the next allocation.
    assert first.pinned == before - second.pinned
    policy.add(container(2, "", 0))
    assert first.pinned == before


def spread_pods(balancing: bool) -> list[str]:
    """The CPUs of two spread pods of two CPUs on one socket of eight cores."""
    topology = simulated_topology("sim:1s8c2t")
    types = [{"name": "a", "minCPUs": 2, "maxCPUs": 2, "preferSpreadOnPhysicalCores": True, "preferNewBalloons": True}]
    spec = {"reservedResources": {"cpu": "cpuset:0"}, "balloonTypes": types, "allocatorTopologyBalancing": balancing}
    policy = Policy(read_config(spec, topology), topology)
    pods = [container(number, "a", 2) for number in range(3)]
    for pod in pods:
        policy.add(pod)
    return [format_cpus(pod.pinned or ()) for pod in pods]


def test_with_balancing_second_threads_come_early_without_it_first_threads_come_first() -> None:
    # CPU 0 is reserved, so more second threads (8-15) than first ones are free; then there are more first ones, and so
    # on: each pod shares a core with the one before it, while whole cores are idle.
    assert spread_pods(balancing=True) == ["8-9", "1-2", "10-11"]
    assert spread_pods(balancing=False) == ["1-2", "3-4", "5-6"]
