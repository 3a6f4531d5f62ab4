from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pytest_nriperf.balloons import BalloonSpec, Placement, most_replicas, place
from pytest_nriperf.errors import PlacementError, SpecError
from pytest_nriperf.topology import Topology, simulated_topology
from pytest_nriperf.units import format_cpus, parse_cpus

DATA = Path(__file__).parents[1] / "data" / "balloons" / "placements.json"
CASES = json.loads(DATA.read_text())


def placed(balloon: str, node: str, *, reserved: str = "", allowed: str | None = None) -> Placement:
    topology = simulated_topology(node)
    return place(
        BalloonSpec.parse(balloon),
        topology,
        allowed=topology.online if allowed is None else parse_cpus(allowed),
        reserved=parse_cpus(reserved),
    )


def allocated(placement: Placement) -> list[str]:
    return [format_cpus(replica.allocated) for replica in placement.replicas]


# ------------------------------------------------------------------------------------------ the policy's placements


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_cpus_are_those_of_the_balloons_policy(case: dict[str, object]) -> None:
    topology = simulated_topology(str(case["node"]))
    spec = BalloonSpec.parse(str(case["balloon"]))
    expected = case["replicas"]
    assert isinstance(expected, list)
    reserved = parse_cpus(str(case["reserved"])) | parse_cpus(str(case.get("taken", "")))
    if case.get("refused"):
        with pytest.raises(PlacementError, match=f"replica {len(expected) + 1} of {spec.replicas}"):
            place(spec, topology, allowed=topology.online, reserved=reserved)
        spec = BalloonSpec(**{**spec.as_dict(), "replicas": len(expected)})
    placement = place(spec, topology, allowed=topology.online, reserved=reserved)
    seen = [[format_cpus(replica.allocated), format_cpus(replica.visible)] for replica in placement.replicas]
    assert seen == expected


def test_numeric_ties_take_cpu_2_before_cpu_10() -> None:
    topology = simulated_topology("sim:1s16c2t")
    spec = BalloonSpec(cpus=2, replicas=3)
    upstream = place(spec, topology, allowed=topology.online)
    numeric = place(spec, topology, allowed=topology.online, ties="numeric")
    assert allocated(upstream) == ["0,16", "1,17", "10,26"]
    assert allocated(numeric) == ["0,16", "1,17", "2,18"]


# --------------------------------------------------------------------------------------------------- what holds always

HYPERTHREADS = ("paired", "spread", "hidden")
NODES = (
    "sim:1s4c",
    "sim:1s8c2t",
    "sim:2s4c2t-adjacent",
    "sim:2s8c2t-snc2",
    "sim:1s16c2t-l3x4",
    "sim:2s6c2t-snc3-l3x2",
    "sim:2s4c4t",
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[BalloonSpec, Topology, frozenset[int], frozenset[int]]:
    topology = simulated_topology(draw(st.sampled_from(NODES)))
    cpus = sorted(topology.online)
    refused = draw(st.sets(st.sampled_from(cpus), max_size=5))
    reserved = draw(st.sets(st.sampled_from(cpus), max_size=3))
    spec = BalloonSpec(
        cpus=draw(st.one_of(st.integers(1, 8).map(lambda n: 2 * n), st.sampled_from(["numa", "socket", "all", "25%"]))),
        hyperthreads=draw(st.sampled_from(HYPERTHREADS)),
        numa=draw(st.sampled_from(["any", "single", "socket", "all"])),
        memory=draw(st.sampled_from(["local", "any", "interleave"])),
        replicas=draw(st.integers(1, 6)),
        placement=draw(st.sampled_from(["balance", "pack"])),
    )
    return spec, topology, topology.online - refused, frozenset(reserved)


@settings(max_examples=300, deadline=None)
@given(requests(), st.sampled_from(["upstream", "numeric"]))
def test_what_is_placed_keeps_every_promise(
    request_: tuple[BalloonSpec, Topology, frozenset[int], frozenset[int]], ties: str
) -> None:
    spec, topology, allowed, reserved = request_
    try:
        placement = place(spec, topology, allowed=allowed, reserved=reserved, ties=ties)
    except (PlacementError, SpecError):
        return
    assert placement == place(spec, topology, allowed=allowed, reserved=reserved, ties=ties)
    assert len(placement.replicas) == spec.replicas
    resolved = spec.resolve(topology, allowed, reserved)
    assert placement.cpus == resolved.cpus
    given = Counter(cpu for replica in placement.replicas for cpu in replica.allocated)
    assert set(given.values()) == {1}
    assert set(given) <= allowed - reserved
    for replica in placement.replicas:
        assert len(replica.allocated) == placement.cpus
        assert replica.visible <= replica.allocated
        _check_cores(spec, topology, replica.allocated, replica.visible)
        _check_nodes(spec, topology, replica.allocated)
        expected = () if spec.memory == "any" else topology.nodes_of(replica.allocated)
        assert replica.memory_nodes == expected


def _check_cores(spec: BalloonSpec, topology: Topology, cpus: frozenset[int], visible: frozenset[int]) -> None:
    per_core = Counter(topology.cpu(cpu).core for cpu in cpus)
    if spec.hyperthreads == "spread":
        assert set(per_core.values()) == {1}
        assert visible == cpus
        return
    assert set(per_core.values()) == {topology.threads_per_core}
    if spec.hyperthreads == "paired":
        assert visible == cpus
    else:
        assert visible == {min(topology.siblings(cpu)) for cpu in cpus}


def _check_nodes(spec: BalloonSpec, topology: Topology, cpus: frozenset[int]) -> None:
    per_node = Counter(topology.cpu(cpu).node for cpu in cpus)
    sockets = {topology.cpu(cpu).socket for cpu in cpus}
    if spec.numa == "single":
        assert len(per_node) == 1
    elif spec.numa == "socket":
        assert len(sockets) == 1
        assert set(per_node) == set(topology.socket_nodes(sockets.pop()))
    elif spec.numa == "all":
        assert set(per_node) == set(topology.cpu_nodes)
    if spec.numa != "any":
        assert len(set(per_node.values())) == 1


@settings(max_examples=60, deadline=None)
@given(requests())
def test_what_is_said_to_fit_does_fit(
    request_: tuple[BalloonSpec, Topology, frozenset[int], frozenset[int]],
) -> None:
    spec, topology, allowed, reserved = request_
    try:
        place(spec, topology, allowed=allowed, reserved=reserved)
    except SpecError:
        assume(False)
    except PlacementError as error:
        assume("what fits" in error.next_step)
        arguments = spec.resolve(topology, allowed, reserved).as_dict()
        for idea in error.next_step.removeprefix("what fits: ").split(", or "):
            changed = dict(arguments)
            words = idea.split()
            if "such" in words:
                changed["replicas"] = int(words[0])
            elif words[-1] == "CPUs":
                changed["cpus"] = int(words[-2])
            else:
                changed["numa"] = "any"
            place(BalloonSpec(**changed), topology, allowed=allowed, reserved=reserved)
        return


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NODES), st.data())
def test_without_a_mark_one_replica_gets_every_cpu_that_may_be_used(node: str, data: st.DataObject) -> None:
    topology = simulated_topology(node)
    allowed = data.draw(st.frozensets(st.sampled_from(sorted(topology.online)), min_size=1))
    placement = place(BalloonSpec(), topology, allowed=allowed)
    assert [replica.allocated for replica in placement.replicas] == [allowed]
    assert placement.replicas[0].visible == allowed
    assert placement.cpus == len(allowed)


@settings(max_examples=60, deadline=None)
@given(requests())
def test_the_most_replicas_fit_and_one_more_does_not(
    request_: tuple[BalloonSpec, Topology, frozenset[int], frozenset[int]],
) -> None:
    spec, topology, allowed, reserved = request_
    try:
        spec = spec.resolve(topology, allowed, reserved)
    except (PlacementError, SpecError):
        assume(False)
    most = most_replicas(spec, topology, allowed=allowed, reserved=reserved)
    arguments = spec.as_dict()
    if most:
        granted = place(BalloonSpec(**{**arguments, "replicas": most}), topology, allowed=allowed, reserved=reserved)
        assert len(granted.replicas) == most
    with pytest.raises(PlacementError):
        place(BalloonSpec(**{**arguments, "replicas": most + 1}), topology, allowed=allowed, reserved=reserved)


# ------------------------------------------------------------------------------------------------------- hyperthreads


@pytest.mark.parametrize("placement", ["balance", "pack"])
@pytest.mark.parametrize("numa", ["any", "single", "socket", "all"])
@pytest.mark.parametrize("reserved", ["", "0", "0,64"])
def test_spread_takes_idle_cores_before_second_threads(placement: str, numa: str, reserved: str) -> None:
    """With balancing the policy's own counts can prefer second threads early: class 1 has more free CPUs."""
    topology = simulated_topology("sim:2s32c2t-snc2")
    spec = BalloonSpec(cpus=4, hyperthreads="spread", numa=numa, replicas=14, placement=placement)
    granted = place(spec, topology, allowed=topology.online, reserved=parse_cpus(reserved))
    cores = [topology.cpu(cpu).core for replica in granted.replicas for cpu in replica.allocated]
    assert len(set(cores)) == len(cores) == 56
    second = {cpu for cpu in granted.allocated if topology.cpu(cpu).thread == 1}
    assert all(min(topology.siblings(cpu)) in parse_cpus(reserved) for cpu in second)


def test_spread_replicas_share_cores_only_when_no_core_is_idle() -> None:
    topology = simulated_topology("sim:1s8c2t")
    granted = place(BalloonSpec(cpus=4, hyperthreads="spread", replicas=3), topology, allowed=topology.online)
    assert allocated(granted) == ["0-3", "4-7", "8-11"]


def test_spread_stays_in_a_numa_node_that_has_the_idle_cores() -> None:
    topology = simulated_topology("sim:2s8c2t-snc2")
    spec = BalloonSpec(cpus=3, hyperthreads="spread", replicas=4, placement="pack")
    granted = place(spec, topology, allowed=topology.online)
    assert all(len(topology.nodes_of(replica.allocated)) == 1 for replica in granted.replicas)


def test_hidden_shows_one_thread_of_each_core_and_says_both_sizes() -> None:
    granted = placed("cpus=16,hyperthreads=hidden", "sim:2s64c2t-snc2")
    assert granted.sizes_text == "16 allocated / 8 visible"
    assert [format_cpus(r.visible) for r in granted.replicas] == ["0-7"]


def test_hidden_needs_siblings() -> None:
    with pytest.raises(PlacementError, match="one thread per core: hyperthreads='hidden' has nothing to hide"):
        placed("cpus=2,hyperthreads=hidden", "sim:1s4c")


def test_one_cpu_is_a_balloon_where_cores_have_one_thread() -> None:
    assert allocated(placed("cpus=1", "sim:1s2c")) == ["0"]


def test_half_cores_are_never_given_in_pairs() -> None:
    granted = placed("cpus=2,replicas=3", "sim:1s4c2t", allowed="0-3,5-7")
    assert allocated(granted) == ["1,5", "2,6", "3,7"]


# ------------------------------------------------------------------------------------------- NUMA nodes and sockets


def test_balance_goes_to_sockets_and_nodes_in_turn_and_pack_fills_one() -> None:
    topology = simulated_topology("sim:2s8c2t-snc2")

    def nodes(placement: str) -> list[tuple[int, ...]]:
        spec = BalloonSpec(cpus=2, replicas=4, placement=placement)
        return [topology.nodes_of(r.allocated) for r in place(spec, topology, allowed=topology.online).replicas]

    assert nodes("balance") == [(0,), (2,), (1,), (3,)]
    assert nodes("pack") == [(0,), (0,), (0,), (0,)]


def test_one_per_numa_node_is_one_in_each_even_when_packed() -> None:
    topology = simulated_topology("sim:2s8c2t-snc2")
    spec = BalloonSpec(cpus=2, replicas="numa", placement="pack")
    granted = place(spec, topology, allowed=topology.online)
    assert sorted(topology.nodes_of(r.allocated) for r in granted.replicas) == [(0,), (1,), (2,), (3,)]


def test_numa_all_takes_equal_parts_of_every_node() -> None:
    granted = placed("cpus=8,numa=all", "sim:2s8c2t-snc2")
    assert allocated(granted) == ["0,4,10,12,16,20,26,28"]
    assert granted.replicas[0].memory_nodes == (0, 1, 2, 3)


def test_numa_socket_takes_equal_parts_of_a_socket() -> None:
    granted = placed("cpus=8,numa=socket,replicas=2", "sim:2s8c2t-snc2")
    assert allocated(granted) == ["0-1,4-5,16-17,20-21", "8-9,12-13,24-25,28-29"]


def test_memory_follows_the_spec() -> None:
    node = "sim:2s4c2t"
    assert placed("cpus=4,memory=any", node).replicas[0].memory_nodes == ()
    assert placed("cpus=4,memory=local", node).replicas[0].memory_nodes == (0,)
    assert placed("cpus=16,memory=interleave", node).replicas[0].memory_nodes == (0, 1)


def test_memory_only_nodes_get_no_replica_and_no_binding() -> None:
    granted = placed("cpus=numa,replicas=numa", "sim:2s4c2t-cxl8g")
    assert [replica.memory_nodes for replica in granted.replicas] == [(0,), (1,)]


def test_isolated_cpus_are_left_alone_while_others_are_enough() -> None:
    base = simulated_topology("sim:1s4c2t")
    topology = Topology(base.name, base.cpus, base.nodes, isolated=frozenset({0, 1, 4, 5}))
    assert allocated(place(BalloonSpec(cpus=4), topology, allowed=topology.online)) == ["2-3,6-7"]
    assert place(BalloonSpec(cpus=8), topology, allowed=topology.online).cpus == 8


def test_whole_l3_caches_come_before_parts_of_two() -> None:
    granted = placed("cpus=8,replicas=4", "sim:1s16c2t-l3x4")
    assert allocated(granted) == ["0-3,16-19", "4-7,20-23", "8-11,24-27", "12-15,28-31"]


def test_small_replicas_get_an_l3_cache_of_their_own_first() -> None:
    topology = simulated_topology("sim:1s16c2t-l3x4")
    granted = place(BalloonSpec(cpus=6, replicas=4), topology, allowed=topology.online)
    caches = [{topology.cpu(cpu).l3 for cpu in replica.allocated} for replica in granted.replicas]
    assert caches == [{0}, {1}, {2}, {3}]


def test_a_request_larger_than_what_any_l3_has_left_takes_the_fullest_parts() -> None:
    topology = simulated_topology("sim:1s16c2t-l3x4")
    granted = place(BalloonSpec(cpus=6, replicas=5), topology, allowed=topology.online)
    assert len(granted.replicas[4].allocated) == 6


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("balloon", "says"),
    [
        ("cpus=15", "nearest sizes are 14 and 16"),
        ("cpus=1", "nearest size is 2"),
        ("cpus=20,numa=all", "nearest sizes are 16 and 32"),
        ("cpus=10,numa=socket", "equal parts of 4 NUMA nodes .*nearest sizes are 8 and 16"),
        ("cpus=9,numa=all,hyperthreads=spread", "nearest sizes are 8 and 16"),
    ],
)
def test_sizes_that_do_not_divide_are_refused_with_the_nearest_that_do(balloon: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        placed(balloon, "sim:2s32c2t-snc4")


def test_what_does_not_fit_is_refused_with_where_and_how_many() -> None:
    with pytest.raises(PlacementError) as caught:
        placed("cpus=16,hyperthreads=hidden,numa=single,replicas=8", "sim:2s32c2t-snc4", reserved="0")
    assert str(caught.value) == (
        "node sim:2s32c2t-snc4: replica 8 of 8 needs 16 CPUs (8 whole cores) inside one NUMA node; "
        "left in whole cores: 14 CPUs in NUMA node 0, 0 CPUs in NUMA nodes 1-7; 127 of 128 CPUs may be given; "
        "what fits: 7 such replicas, or 8 replicas of 14 CPUs"
    )


def test_a_refusal_offers_another_numa_when_that_fits() -> None:
    with pytest.raises(PlacementError, match=r"what fits: 3 replicas of 16 CPUs, or numa='any'"):
        placed("cpus=18,numa=single,replicas=3", "sim:2s32c2t-snc4")


def test_spreading_further_than_there_are_cores_is_refused() -> None:
    with pytest.raises(PlacementError, match=r"needs 9 CPUs on different cores; left: 8 cores in NUMA node 0"):
        placed("cpus=9,hyperthreads=spread", "sim:1s8c2t")


def test_another_sub_numa_mode_needs_a_boot() -> None:
    with pytest.raises(PlacementError, match=r"booted with SNC off; needs a boot with SNC-2"):
        placed("cpus=2,snc=2", "sim:2s4c2t")
    with pytest.raises(PlacementError, match=r"booted with SNC-2; needs a boot with SNC off"):
        placed("cpus=2,snc=1", "sim:2s4c2t-snc2")
    assert placed("cpus=2,snc=2", "sim:2s4c2t-snc2").cpus == 2


def test_a_node_that_may_give_nothing_says_so() -> None:
    with pytest.raises(PlacementError, match="no CPU to give"):
        placed("cpus=2", "sim:1s2c", reserved="0-1")
