from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nriperf.balloons import BalloonSpec, place
from pytest_nriperf.balloons.allocator import Cpus, allocate, best, pick
from pytest_nriperf.balloons.tree import CpuTree, cpu_tree
from pytest_nriperf.errors import UsageError
from pytest_nriperf.topology import Cpu, NumaNode, Topology, simulated_topology
from pytest_nriperf.units import format_cpus, parse_cpus


def machine(packages: int, dies: int, nodes: int, cores: int, threads: int) -> Topology:
    """Dies per package, NUMA nodes per die, cores per node; siblings side by side."""
    cpus = []
    shape = product(range(packages), range(dies), range(nodes), range(cores), range(threads))
    for number, (package, die, node, _, thread) in enumerate(shape):
        numa = (package * dies + die) * nodes + node
        cpus.append(Cpu(number, package, die, number // threads, thread, numa, number // threads, package))
    numbers = range(packages * dies * nodes)
    return Topology(
        "made",
        tuple(cpus),
        tuple(NumaNode(n, frozenset(cpu.id for cpu in cpus if cpu.node == n)) for n in numbers),
    )


def plainly_best(
    topology: Topology, usable: frozenset[int], current: frozenset[int], count: int, *, balancing: bool
) -> frozenset[int]:
    """The policy's rule written down without any short cut: every element of every level, compared by its key."""
    elements: dict[tuple[str, ...], set[int]] = {}
    for cpu in topology.cpus:
        first = min(topology.siblings(cpu.id))
        die = f"p{cpu.socket}d{cpu.die}"
        node = f"{die}n{cpu.node}"
        core = f"{node}cpu{first}"
        path = ("system", f"p{cpu.socket}", die, node, f"{node}${cpu.l2}", core, f"{core}t{cpu.id}")
        for depth in range(1, len(path) + 1):
            elements.setdefault(path[:depth], set()).add(cpu.id)

    def key(path: tuple[str, ...]) -> tuple[object, ...]:
        above = [elements[path[:depth]] for depth in range(1, len(path) + 1)]
        held = [-len(current & cpus) for cpus in above]
        free = [len(usable & cpus) * (-1 if balancing else 1) for cpus in above]
        return -len(path), held, free, path[-1]

    fitting = [path for path, cpus in elements.items() if len(cpus & usable) >= count]
    return usable & elements[min(fitting, key=key)]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([(2, 1, 2, 3, 2), (2, 2, 1, 2, 2), (1, 1, 1, 12, 1), (3, 1, 1, 4, 3), (1, 2, 2, 2, 1)]),
    st.data(),
    st.booleans(),
)
def test_the_best_element_is_that_of_the_rule_without_short_cuts(
    shape: tuple[int, int, int, int, int], data: st.DataObject, balancing: bool
) -> None:
    topology = machine(*shape)
    cpus = sorted(topology.online)
    usable = data.draw(st.frozensets(st.sampled_from(cpus), min_size=1))
    current = data.draw(st.frozensets(st.sampled_from(cpus), max_size=4)) - usable
    count = data.draw(st.integers(1, len(usable)))
    tree = cpu_tree(topology)
    mask = tree.mask(usable)
    found = best(tree.root, mask, mask, tree.mask(current), count, balancing=balancing)
    assert tree.cpus(found) == plainly_best(topology, usable, current, count, balancing=balancing)


@pytest.fixture
def tree() -> CpuTree:
    return cpu_tree(machine(2, 2, 2, 2, 2))


@pytest.mark.parametrize(
    ("count", "size"),
    [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (7, 8), (8, 8), (9, 16), (15, 16), (16, 16), (17, 32), (32, 32)],
)
def test_the_deepest_element_that_can_hold_a_request_is_chosen(tree: CpuTree, count: int, size: int) -> None:
    everything = tree.root.mask
    assert best(tree.root, everything, everything, 0, count, balancing=False).bit_count() == size


def one_by_one(tree: CpuTree, count: int, *, balancing: bool) -> list[int]:
    free = tree.root.mask
    cpus: list[int] = []
    for _ in range(count):
        chosen = allocate(tree, Cpus(free, free), 1, balancing=balancing)
        assert chosen is not None
        free &= ~chosen
        cpus.extend(tree.cpus(chosen))
    return cpus


def test_balanced_single_cpus_go_to_packages_dies_and_nodes_in_turn(tree: CpuTree) -> None:
    topology = machine(2, 2, 2, 2, 2)
    cpus = [topology.cpu(cpu) for cpu in one_by_one(tree, 8, balancing=True)]
    assert {cpu.socket for cpu in cpus[:2]} == {0, 1}
    assert len({(cpu.socket, cpu.die) for cpu in cpus[:4]}) == 4
    assert len({cpu.node for cpu in cpus}) == 8


def test_packed_single_cpus_fill_a_core_then_a_node_then_a_die(tree: CpuTree) -> None:
    topology = machine(2, 2, 2, 2, 2)
    cpus = [topology.cpu(cpu) for cpu in one_by_one(tree, 5, balancing=False)]
    assert len({cpu.core for cpu in cpus[:2]}) == 1
    assert len({cpu.node for cpu in cpus[:4]}) == 1
    assert len({(cpu.socket, cpu.die) for cpu in cpus}) == 1


def test_too_few_cpus_are_no_answer(tree: CpuTree) -> None:
    assert allocate(tree, Cpus(0b111, 0b111), 4, balancing=True) is None


def test_what_is_better_avoided_is_taken_only_when_nothing_else_is_enough(tree: CpuTree) -> None:
    first_half = tree.mask(range(16))
    everything = tree.root.mask
    away = allocate(tree, Cpus(everything, everything, (first_half,)), 4, balancing=False)
    assert away is not None
    assert away & first_half == 0
    both = allocate(tree, Cpus(everything, everything, (first_half,)), 20, balancing=False)
    assert both is not None
    assert both & first_half


def test_exact_cpus_are_whole_cores_first_then_the_emptiest_cores(tree: CpuTree) -> None:
    candidates = tree.mask({1, 2, 3, 5, 6, 7})
    assert tree.cpus(pick(tree, candidates, 4)) == {2, 3, 6, 7}
    assert tree.cpus(pick(tree, candidates, 5)) == {1, 2, 3, 6, 7}
    assert tree.cpus(pick(tree, candidates, 6)) == {1, 2, 3, 5, 6, 7}


def test_text_order_is_upstreams_and_numbers_are_an_alternative() -> None:
    topology = simulated_topology("sim:1s12c")
    assert cpu_tree(topology, "upstream").order == (0, 10, 11, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    assert cpu_tree(topology, "numeric").order == tuple(range(12))
    with pytest.raises(UsageError, match="ties='random'"):
        cpu_tree(topology, "random")


def test_cores_sharing_an_l2_cache_stay_together() -> None:
    base = simulated_topology("sim:1s8c")
    cpus = tuple(Cpu(c.id, c.socket, c.die, c.core, c.thread, c.node, c.id // 4, 0) for c in base.cpus)
    topology = Topology("modules", cpus, base.nodes)
    granted = place(BalloonSpec(cpus=3, replicas=2), topology, allowed=topology.online)
    assert [format_cpus(r.allocated) for r in granted.replicas] == ["0-2", "4-6"]


def test_a_numa_node_over_two_sockets_is_still_one_node() -> None:
    base = machine(2, 1, 2, 2, 2)
    cpus = tuple(Cpu(c.id, c.socket, c.die, c.core, c.thread, 0, c.l2, c.l3) for c in base.cpus)
    topology = Topology("nonuma", cpus, (NumaNode(0, base.online),))
    assert topology.snc == 1
    for numa in ("any", "single", "all"):
        granted = place(BalloonSpec(cpus=12, numa=numa), topology, allowed=topology.online)
        assert len(granted.replicas[0].allocated) == 12
    socket = place(BalloonSpec(cpus=8, numa="socket", replicas=2), topology, allowed=topology.online)
    assert [format_cpus(r.allocated) for r in socket.replicas] == ["0-7", "8-15"]


def test_a_tree_without_cache_information_has_its_cores_below_the_numa_nodes() -> None:
    base = simulated_topology("sim:1s4c2t")
    cpus = tuple(Cpu(c.id, c.socket, c.die, c.core, c.thread, c.node) for c in base.cpus)
    topology = Topology("bare", cpus, base.nodes)
    granted = place(BalloonSpec(cpus=4), topology, allowed=topology.online, reserved=parse_cpus("0"))
    assert format_cpus(granted.replicas[0].allocated) == "1-2,5-6"
