"""`place`: which CPUs a balloon's replicas get.

On top of the policy's allocator: cores are whole where `paired` and `hidden` promise it, a `spread` replica never has
two threads of a core and stays off the cores of other replicas while there are idle ones, and `numa` picks the
NUMA nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from pytest_nriperf.balloons.allocator import Cpus, allocate, allocate_spread, cores_of, count_cores, lowest_cpu
from pytest_nriperf.balloons.sizes import Sizes, resolve_sizes
from pytest_nriperf.balloons.spec import BalloonSpec, Placement, ReplicaPlacement
from pytest_nriperf.balloons.tree import CpuTree, bits_of, cpu_tree
from pytest_nriperf.errors import PlacementError
from pytest_nriperf.topology import Topology
from pytest_nriperf.units import format_cpus


def place(
    spec: BalloonSpec,
    topology: Topology,
    *,
    allowed: Iterable[int],
    reserved: Iterable[int] = frozenset(),
    ties: str = "upstream",
) -> Placement:
    """The CPUs of every replica. Deterministic; the same on every machine of the same topology.

    `allowed` are the CPUs that may be given, `reserved` those of them that may not; `ties="upstream"` breaks ties by
    element names as text as the balloons policy does, `"numeric"` by their numbers. Raises SpecError for sizes that do
    not divide, PlacementError with numbers and what would fit.
    """
    attempt = _attempt(spec, topology, frozenset(allowed), frozenset(reserved), ties)
    masks = attempt.run()
    if masks is None:
        raise _refusal(attempt)
    return Placement(
        spec=spec,
        cpus=attempt.sizes.cpus,
        replicas=tuple(_replica(spec, topology, attempt.tree, mask) for mask in masks),
        topology=topology.name,
    )


def most_replicas(
    spec: BalloonSpec,
    topology: Topology,
    *,
    allowed: Iterable[int],
    reserved: Iterable[int] = frozenset(),
    ties: str = "upstream",
) -> int:
    """How many replicas of the size that `place` would give fit on the node."""
    attempt = _attempt(spec, topology, frozenset(allowed), frozenset(reserved), ties)
    if attempt.sizes.as_is:
        return 1
    attempt = attempt.again(replace(attempt.sizes, replicas=len(topology.cpus) + 1))
    attempt.run()
    return len(attempt.masks)


def _attempt(
    spec: BalloonSpec, topology: Topology, allowed: frozenset[int], reserved: frozenset[int], ties: str
) -> _Attempt:
    if missing := spec.boot_needed(topology):
        mode = "SNC off" if topology.snc == 1 else f"SNC-{topology.snc}"
        raise PlacementError(f"node {topology.name} is booted with {mode}", missing)
    sizes = resolve_sizes(spec, topology, allowed, reserved)
    tree = cpu_tree(topology, ties)
    return _Attempt(spec, topology, tree, sizes, tree.mask((allowed & topology.online) - reserved))


def _replica(spec: BalloonSpec, topology: Topology, tree: CpuTree, mask: int) -> ReplicaPlacement:
    allocated = tree.cpus(mask)
    visible = tree.cpus(_first_threads(tree, mask)) if spec.hyperthreads == "hidden" else allocated
    memory = () if spec.memory == "any" else topology.memory_near(allocated)
    return ReplicaPlacement(allocated, visible, memory)


def _first_threads(tree: CpuTree, mask: int) -> int:
    """The lowest-numbered CPU of every core."""
    visible = 0
    for core in {tree.core_of[bit] for bit in bits_of(mask)}:
        visible |= lowest_cpu(tree, core & mask)
    return visible


class _Attempt:
    """The replicas of one balloon, placed one after the other."""

    def __init__(self, spec: BalloonSpec, topology: Topology, tree: CpuTree, sizes: Sizes, given: int) -> None:
        self.spec = spec
        self.topology = topology
        self.tree = tree
        self.sizes = sizes
        self.given = self.free = given
        self.usable = tree.mask(sizes.usable)
        self.loaded = 0
        self.spread = spec.hyperthreads == "spread"
        self.balancing = spec.placement == "balance"
        self.isolated = tree.mask(topology.isolated)
        self.masks: list[int] = []
        self._taken_nodes: set[int] = set()

    def again(self, sizes: Sizes) -> _Attempt:
        """The same request with other sizes, from the beginning."""
        return _Attempt(self.spec, self.topology, self.tree, sizes, self.given)

    def run(self) -> list[int] | None:
        """The CPUs of every replica, None when one does not fit (`masks` then holds those that do)."""
        one = self._rule()
        for _ in range(self.sizes.replicas):
            mask = one()
            if mask is None:
                return None
            self.masks.append(mask)
            self.usable &= ~mask
            self.free &= ~mask
            if self.spread:
                self.loaded |= cores_of(self.tree, mask)
        return self.masks

    def _rule(self) -> Callable[[], int | None]:
        if self.sizes.as_is:
            return lambda: self.usable
        if self.spec.replicas == "numa" or self.spec.numa == "single":
            return self._inside_a_node
        if self.spec.numa == "socket":
            return self._inside_a_socket
        if self.spec.numa == "all":
            return lambda: self._equal_parts(list(self.tree.nodes.values()))
        return self._anywhere

    def room(self, region: int) -> int:
        """How many CPUs one replica can get from a set of CPUs."""
        region &= self.usable
        return count_cores(self.tree, region) if self.spread else region.bit_count()

    def _take(self, region: int, count: int) -> int | None:
        cpus = Cpus(self.usable & region, self.free, (self.isolated, self.loaded))
        choose = allocate_spread if self.spread else allocate
        return choose(self.tree, cpus, count, balancing=self.balancing)

    def _anywhere(self) -> int | None:
        if not self.spread:
            return self._take(self.usable, self.sizes.cpus)
        # The smallest kind of element that has enough idle cores, else the smallest that has enough cores.
        kinds = [list(self.tree.nodes.values()), list(self.tree.packages), [self.usable]]
        for unwanted in (self.loaded, 0):
            for regions in kinds:
                fitting = [region for region in regions if self.room(region & ~unwanted) >= self.sizes.cpus]
                if fitting:
                    return self._in_best_of(fitting)
        return None

    def _inside_a_node(self) -> int | None:
        nodes = [mask for node, mask in self.tree.nodes.items() if node not in self._taken_nodes]
        fitting = self._fitting(nodes, lambda node: [node])
        chosen = self._in_best_of(fitting) if fitting else None
        if self.spec.replicas == "numa" and chosen is not None:
            self._taken_nodes.update(node for node, mask in self.tree.nodes.items() if mask & chosen)
        return chosen

    def _in_best_of(self, regions: list[int]) -> int | None:
        """The replica inside that one of the regions which the policy would choose; each has room for it."""
        union = 0
        for region in regions:
            union |= region
        first = self._take(union, 1 if self.spread else self.sizes.cpus)
        if first is None:
            return None
        lowest = lowest_cpu(self.tree, first)
        return self._take(next(region for region in regions if region & lowest), self.sizes.cpus)

    def _inside_a_socket(self) -> int | None:
        def parts(package: int) -> list[int]:
            return [mask & package for mask in self.tree.nodes.values() if mask & package]

        core = 1 if self.spread else self.topology.threads_per_core
        packages = [p for p in self.tree.packages if self.sizes.cpus % (len(parts(p)) * core) == 0]
        fitting = self._fitting(packages, parts)
        if not fitting:
            return None
        sign = -1 if self.balancing else 1
        package = min(fitting, key=lambda p: sign * (p & self.free & ~self.loaded).bit_count())
        return self._equal_parts(parts(package))

    def _fitting(self, regions: list[int], parts: Callable[[int], list[int]]) -> list[int]:
        """Those regions of which every part has room for its share; when spreading, only those with idle cores for
        it if there is one."""
        fitting, idle = [], []
        for region in regions:
            pieces = parts(region)
            share = self.sizes.cpus // len(pieces)
            if min(self.room(piece) for piece in pieces) >= share:
                fitting.append(region)
                if self.loaded and min(self.room(piece & ~self.loaded) for piece in pieces) >= share:
                    idle.append(region)
        return idle or fitting

    def _equal_parts(self, regions: list[int]) -> int | None:
        chosen = 0
        for region in regions:
            part = self._take(region, self.sizes.cpus // len(regions))
            if part is None:
                return None
            chosen |= part
        return chosen


# ---------------------------------------------------------------------------------------------------- what is said


def _refusal(attempt: _Attempt) -> PlacementError:
    spec, sizes, topology = attempt.spec, attempt.sizes, attempt.topology
    where = {
        "any": "",
        "single": " inside one NUMA node",
        "socket": " inside one socket, in equal parts",
        "all": f" in equal parts of its {len(topology.cpu_nodes)} NUMA nodes",
    }["single" if spec.replicas == "numa" else spec.numa]
    which = f"replica {len(attempt.masks) + 1} of {sizes.replicas} needs" if sizes.replicas > 1 else "the balloon needs"
    given = f"{attempt.given.bit_count()} of {len(topology.cpus)} CPUs may be given"
    return PlacementError(
        f"node {topology.name}: {which} {_need(attempt)}{where}; {_left(attempt)}; {given}", _what_fits(attempt)
    )


def _need(attempt: _Attempt) -> str:
    count = attempt.sizes.cpus
    if attempt.spread:
        return f"{count} CPUs on different cores"
    threads = attempt.topology.threads_per_core
    return f"{count} CPUs" + (f" ({count // threads} whole cores)" if threads > 1 else "")


def _left(attempt: _Attempt) -> str:
    """Free room by NUMA node; nodes with the same room are told together."""
    if attempt.spread:
        head, unit = "left", "cores"
    else:
        head, unit = "left" if attempt.topology.threads_per_core == 1 else "left in whole cores", "CPUs"
    nodes_by_room: dict[int, list[int]] = {}
    for node, mask in attempt.tree.nodes.items():
        nodes_by_room.setdefault(attempt.room(mask), []).append(node)
    rooms = sorted(nodes_by_room.items(), key=lambda item: item[1])
    texts = [f"{room} {unit} in NUMA node{'s' if len(nodes) > 1 else ''} {format_cpus(nodes)}" for room, nodes in rooms]
    return f"{head}: {', '.join(texts)}"


def _what_fits(attempt: _Attempt) -> str:
    topology, count, placed = attempt.topology, attempt.sizes.replicas, len(attempt.masks)
    ideas = [f"{placed} such replica{'s' if placed > 1 else ''}"] if placed else []
    if largest := _largest_size(attempt):
        ideas.append(f"{count} replicas of {largest} CPUs" if count > 1 else f"{largest} CPUs")
    if attempt.spec.numa != "any" and attempt.spec.replicas != "numa":
        spec = replace(attempt.spec, numa="any")
        if _Attempt(spec, topology, attempt.tree, attempt.sizes, attempt.given).run() is not None:
            ideas.append("numa='any'")
    return f"what fits: {', or '.join(ideas)}" if ideas else "nothing of this kind fits: allow more CPUs"


def _largest_size(attempt: _Attempt) -> int:
    """The largest number of CPUs per replica with which all replicas fit, 0 when none does."""
    unit = attempt.sizes.unit
    low, high = 0, (attempt.sizes.cpus - 1) // unit
    while low < high:
        middle = (low + high + 1) // 2
        if attempt.again(replace(attempt.sizes, cpus=middle * unit)).run() is None:
            high = middle - 1
        else:
            low = middle
    return low * unit
