from __future__ import annotations

import pytest

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.errors import PlacementError, SpecError
from pytest_nriperf.topology import simulated_topology
from pytest_nriperf.units import parse_cpus


@pytest.mark.parametrize(
    ("balloon", "reserved", "cpus", "replicas"),
    [
        # 2 sockets x 4 NUMA nodes x 8 cores x 2 threads; core 0 reserved leaves 14 in NUMA node 0.
        ("cpus=numa", "", 16, 1),
        ("cpus=numa", "0,64", 16, 1),
        ("cpus=numa,replicas=8", "0,64", 14, 8),
        ("cpus=numa,replicas=numa", "0,64", 14, 8),
        ("cpus=socket", "0,64", 64, 1),
        ("cpus=socket,replicas=2", "0,64", 62, 2),
        ("cpus=socket,numa=socket,replicas=2", "0,64", 56, 2),
        ("cpus=all", "0", 126, 1),
        ("cpus=all,numa=all", "0", 112, 1),
        ("cpus=25%", "", 32, 1),
        ("cpus=25%", "0", 30, 1),
        ("cpus=33.3%", "", 42, 1),
        ("cpus=25%,numa=all", "", 32, 1),
        ("cpus=30%,numa=all", "", 32, 1),
        ("cpus=all,hyperthreads=spread", "", 64, 1),
        ("cpus=numa,hyperthreads=spread", "", 8, 1),
        ("cpus=numa,hyperthreads=hidden", "", 16, 1),
        ("hyperthreads=hidden", "", 128, 1),
        ("numa=single", "0,64", 16, 1),
        ("replicas=numa", "0,64", 14, 8),
        ("numa=socket", "0,64", 64, 1),
        ("numa=all", "0,64", 112, 1),
        ("cpus=4,replicas=numa", "0-7,64-71", 4, 7),
    ],
)
def test_portable_sizes_become_numbers(balloon: str, reserved: str, cpus: int, replicas: int) -> None:
    topology = simulated_topology("sim:2s32c2t-snc4")
    resolved = BalloonSpec.parse(balloon).resolve(topology, topology.online, parse_cpus(reserved))
    assert (resolved.cpus, resolved.replicas) == (cpus, replicas)


def test_cpus_outside_the_allowed_do_not_count() -> None:
    topology = simulated_topology("sim:2s4c2t")
    assert BalloonSpec(cpus="all").resolve(topology, {0, 1, 8}).cpus == 2
    assert BalloonSpec(cpus="50%").resolve(topology, {0, 1, 2, 8, 9}).cpus == 2


def test_a_share_of_less_than_a_core_is_refused() -> None:
    topology = simulated_topology("sim:1s4c2t")
    with pytest.raises(PlacementError, match=r"cpus='10%' of its 8 CPUs to give \(0-7\) is less than a core"):
        BalloonSpec(cpus="10%").resolve(topology, topology.online)


def test_a_number_that_does_not_divide_is_refused_before_anything_is_placed() -> None:
    topology = simulated_topology("sim:1s4c2t")
    with pytest.raises(SpecError, match="nearest sizes are 2 and 4"):
        BalloonSpec(cpus=3).resolve(topology, topology.online)
