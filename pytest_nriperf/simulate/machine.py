"""How fast a simulated server serves replicas that run at the same time: the timing model, SIMULATED.

Four limits, each a cause that can be switched off: memory bandwidth, the threads of a core, the way to other NUMA
nodes, and what neighbours take. docs/simulation.md derives the formulas and says where the constants come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pytest_nriperf.balloons import Placement
from pytest_nriperf.errors import UsageError
from pytest_nriperf.simulate.llm import ModelSize
from pytest_nriperf.topology import Topology

Floats = NDArray[np.float64]

# cause -> what is true when it is switched off
CAUSES = {
    "bandwidth": "memory, core ports and the link between sockets deliver without limit",
    "hyperthreads": "both threads of a core run as if they were cores of their own",
    "remote": "memory of other NUMA nodes is as near as the own",
    "interference": "a replica does not notice what the others read",
    "synchronisation": "threads wait for each other in no time",
    "noise": "every token takes the expected time",
}


@dataclass(frozen=True)
class Machine:
    """A made-up server: where each CPU lies, and what its parts deliver.

    `core_of`, `node_of` and `socket_of` map CPU numbers. Rates are bytes or floating-point operations per second,
    times seconds, gains shares. The defaults describe a two-socket server with eight channels of DDR5-4800 a
    socket; `off` names the causes that are switched off.
    """

    core_of: Mapping[int, int]
    node_of: Mapping[int, int]
    socket_of: Mapping[int, int]
    socket_bandwidth: float = 250e9
    core_bandwidth: float = 9e9
    link_bandwidth: float = 45e9
    core_flops: float = 60e9
    prefill_gain: float = 8.0
    hyperthread_gain: float = 0.15
    sibling_waste: float = 0.10
    neighbour_waste: float = 0.45
    contention: float = 0.08
    queueing: float = 0.15
    sub_numa_gain: float = 0.05
    node_latency: float = 0.25
    socket_latency: float = 0.90
    barrier_s: float = 0.35e-6
    node_barrier_s: float = 0.4e-6
    socket_barrier_s: float = 0.8e-6
    barriers_per_layer: int = 5
    disturbance: float = 0.12
    off: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        unknown = sorted(self.off - set(CAUSES))
        if unknown:
            raise UsageError(f"simulated machine: no cause {unknown[0]!r}", f"causes are {', '.join(CAUSES)}")

    @cached_property
    def socket_of_node(self) -> Mapping[int, int]:
        """Socket of each NUMA node that has CPUs."""
        return {node: self.socket_of[cpu] for cpu, node in self.node_of.items()}

    @cached_property
    def nodes(self) -> tuple[int, ...]:
        """NUMA nodes that have CPUs, in order."""
        return tuple(sorted(self.socket_of_node))

    @cached_property
    def links(self) -> tuple[tuple[int, int], ...]:
        """Ways between sockets: (socket of the memory, socket of the CPU)."""
        sockets = sorted(set(self.socket_of.values()))
        return tuple((memory, cpu) for memory in sockets for cpu in sockets if memory != cpu)

    @cached_property
    def sub_numa(self) -> bool:
        """Whether a socket holds several NUMA nodes."""
        return len(self.nodes) > len(set(self.socket_of.values()))


@dataclass(frozen=True)
class Load:
    """A running replica: the CPUs it sees (a spinning thread on each) and the NUMA nodes of its memory.

    Weights lie on those nodes in proportion to the CPUs there (first touch by all threads), or in equal parts when
    `interleaved`; every thread reads all of them.
    """

    visible: frozenset[int]
    memory: frozenset[int]
    batch: int = 1
    interleaved: bool = False

    def homes(self, node_of: Mapping[int, int]) -> dict[int, float]:
        """NUMA node to the share of the weights that lies there."""
        touched = {node: count for node, count in _counts(node_of, self.visible).items() if node in self.memory}
        if self.interleaved or not touched:
            return dict.fromkeys(self.memory, 1 / len(self.memory))
        return {node: count / sum(touched.values()) for node, count in touched.items()}


@dataclass(frozen=True)
class Speed:
    """What a replica gets while all run.

    `compute_s` per token of batch one, `wait_s` for barriers per step, `rate` bytes per second, `waste` the factor
    of extra bytes that shared cores cost, `disturbed` the share of its memory's rate that others take (0 to 1).
    """

    compute_s: float
    prefill_s: float
    wait_s: float
    rate: float
    waste: float
    disturbed: float
    batch: int

    def step_s(self, size: ModelSize, context: Floats) -> Floats:
        """Seconds of decode steps at these context lengths: the slower of arithmetic and memory, then barriers."""
        read = size.weight_bytes + self.batch * size.kv_bytes_per_token * context
        memory = read * self.waste / self.rate
        return np.maximum(self.compute_s * self.batch, memory) + self.wait_s

    def prefill(self, size: ModelSize, tokens: int) -> float:
        """Seconds until the prompt is digested: arithmetic on all its tokens, the weights read once."""
        return max(self.prefill_s * tokens, size.weight_bytes * self.waste / self.rate) + self.wait_s


def machine_of(topology: Topology, off: frozenset[str] = frozenset()) -> Machine:
    """The server of a topology: its CPUs with the default parts."""
    return Machine(
        core_of={cpu.id: cpu.core for cpu in topology.cpus},
        node_of={cpu.id: cpu.node for cpu in topology.cpus},
        socket_of={cpu.id: cpu.socket for cpu in topology.cpus},
        off=off,
    )


def loads_of(placement: Placement, machine: Machine) -> tuple[Load, ...]:
    """What runs when every replica of a placement does. Unbound memory lies where its threads first touch it."""
    loads = []
    for replica in placement.replicas:
        own = frozenset(machine.node_of[cpu] for cpu in replica.visible)
        memory = frozenset(replica.memory_nodes) & frozenset(machine.nodes) or own
        loads.append(Load(replica.visible, memory, interleaved=placement.spec.memory == "interleave"))
    return tuple(loads)


def speeds(machine: Machine, size: ModelSize, loads: Sequence[Load]) -> list[Speed]:
    """The speed of each replica while all of them decode."""
    if "interference" in machine.off and len(loads) > 1:
        solved = [_solve(machine, size, loads, index) for index in range(len(loads))]
        return [group[index] for index, group in enumerate(solved)]
    return _solve(machine, size, loads, None)


def _solve(machine: Machine, size: ModelSize, loads: Sequence[Load], alone: int | None) -> list[Speed]:
    threads = [_threads(machine, loads, index) for index in range(len(loads))]
    running = np.ones(len(loads)) if alone is None else np.eye(len(loads))[alone]
    ports = np.array([own.port for own in threads])
    if "bandwidth" in machine.off:
        rates, slow, disturbed = np.full(len(loads), np.inf), np.ones(len(loads)), np.zeros(len(loads))
    else:
        flops = np.array([own.flops for own in threads])
        per_flop = np.array([size.weight_bytes / (2 * size.parameters * load.batch) for load in loads])
        use = np.array([_use(machine, load) for load in loads])
        capacity = _capacity(machine, use, np.array([own.misses for own in threads]) * running)
        rates = fair_rates(use, np.minimum(ports, flops * per_flop) * running, capacity)
        slow, disturbed = _crowding(machine, use, rates, capacity)
    return [
        Speed(
            compute_s=2 * size.parameters / own.flops,
            prefill_s=2 * size.parameters / (own.flops * machine.prefill_gain),
            wait_s=_barriers(machine, size, load, own),
            rate=float(rates[index] / slow[index]) if rates[index] else 1.0,
            waste=own.waste,
            disturbed=float(disturbed[index]),
            batch=load.batch,
        )
        for index, (load, own) in enumerate(zip(loads, threads, strict=True))
    ]


@dataclass(frozen=True)
class _Threads:
    """A replica's threads: floating-point operations and bytes per second that all of them can ask for (`port`;
    `misses` of its cores without lock-step), the factor of extra bytes, and whether any core is shared."""

    count: int
    flops: float
    port: float
    misses: float
    waste: float
    shared: bool


def _threads(machine: Machine, loads: Sequence[Load], index: int) -> _Threads:
    """Work is dealt in equal parts to the threads, so the slowest thread sets the pace (static scheduling)."""
    own = loads[index].visible
    cores = {machine.core_of[cpu] for cpu in own}
    others = {machine.core_of[cpu] for other, load in enumerate(loads) if other != index for cpu in load.visible}
    paired, shared = len(cores) < len(own), bool(cores & others)
    share = (1 + machine.hyperthread_gain) / 2 if paired or shared else 1.0
    waste = 1 + (machine.sibling_waste if paired else 0.0) + (machine.neighbour_waste if shared else 0.0)
    if "hyperthreads" in machine.off:
        share, waste, paired, shared = 1.0, 1.0, False, False
    bandwidth = machine.core_bandwidth / _latency(machine, loads[index])
    return _Threads(
        count=len(own),
        flops=len(own) * share * machine.core_flops,
        port=len(own) * share * bandwidth,
        misses=len(cores) * bandwidth,
        waste=waste,
        shared=paired or shared,
    )


def _latency(machine: Machine, load: Load) -> float:
    """Mean latency of the replica's reads against a local one: a core keeps a fixed number of misses in flight."""
    own = 1 - machine.sub_numa_gain if machine.sub_numa else 1.0
    if "remote" in machine.off:
        return own
    total = 0.0
    for node, count in _counts(machine.node_of, load.visible).items():
        for memory, share in load.homes(machine.node_of).items():
            near = machine.socket_of_node[memory] == machine.socket_of_node[node]
            far = machine.node_latency if near else machine.socket_latency
            total += count * share * (own if memory == node else 1 + far)
    return total / len(load.visible)


def _use(machine: Machine, load: Load) -> Floats:
    """Share of the replica's bytes that crosses each resource: memory of each NUMA node, then each link."""
    shares = load.homes(machine.node_of)
    memory = [shares.get(node, 0.0) for node in machine.nodes]
    if "remote" in machine.off:
        return np.array(memory + [0.0] * len(machine.links))
    cpus = _counts(machine.socket_of, load.visible)
    homes: dict[int, float] = {}
    for node, share in shares.items():
        socket = machine.socket_of_node[node]
        homes[socket] = homes.get(socket, 0.0) + share
    links = [homes.get(source, 0.0) * cpus.get(target, 0) / len(load.visible) for source, target in machine.links]
    return np.array(memory + links)


def _capacity(machine: Machine, use: Floats, misses: Floats) -> Floats:
    """Bytes per second of each resource; memory loses some to conflicts when more is asked of it than it has."""
    per_socket = _counts(machine.socket_of_node, machine.nodes)
    memory = np.array([machine.socket_bandwidth / per_socket[machine.socket_of_node[node]] for node in machine.nodes])
    asked = (use[:, : len(memory)] * misses[:, None]).sum(0)
    memory = memory / (1 + machine.contention * np.maximum(0.0, asked / memory - 1))
    return np.concatenate([memory, np.full(len(machine.links), machine.link_bandwidth)])


def fair_rates(use: Floats, limits: Floats, capacity: Floats) -> Floats:
    """Max-min fair rates: all grow alike until a resource is full or a replica has all that it can take.

    `use[r, k]` is the share of replica r's bytes on resource k (shape replicas x resources).

    >>> fair_rates(np.array([[1.0], [1.0], [1.0]]), np.array([10.0, 100.0, 100.0]), np.array([90.0])).tolist()
    [10.0, 40.0, 40.0]
    """
    rates = np.zeros(len(limits))
    growing = limits > 0
    left = capacity.astype(float).copy()
    while growing.any():
        load = use[growing].sum(0)
        room = np.divide(left, load, out=np.full(len(left), np.inf), where=load > 0)
        step = min(float(room.min()), float((limits - rates)[growing].min()))
        rates[growing] += step
        left = left - load * step
        full = (load > 0) & (left <= capacity * 1e-9)
        growing = growing & (rates < limits * (1 - 1e-9)) & ~(use[:, full] > 0).any(1)
    return rates


def _crowding(machine: Machine, use: Floats, rates: Floats, capacity: Floats) -> tuple[Floats, Floats]:
    """Per replica: the factor of queueing and of neighbours in the caches, and the share that neighbours take."""
    taken = rates[:, None] * use / capacity
    busiest = np.where(use > 0, taken.sum(0), 0.0).max(1)
    others = np.where(use > 0, taken.sum(0) - taken, 0.0)[:, : len(machine.nodes)].max(1)
    disturbed = np.zeros(len(rates)) if "interference" in machine.off else np.clip(others, 0.0, 1.0)
    slow = (1 + machine.queueing * busiest**4) * (1 + machine.disturbance * disturbed)
    return slow, disturbed


def _barriers(machine: Machine, size: ModelSize, load: Load, threads: _Threads) -> float:
    """Seconds a decode step spends in barriers: a tree over the threads, and the way between nodes and sockets."""
    if "synchronisation" in machine.off:
        return 0.0
    nodes = len(_counts(machine.node_of, load.visible))
    sockets = len(_counts(machine.socket_of, load.visible))
    tree = machine.barrier_s * float(np.log2(max(1, threads.count))) * (1.5 if threads.shared else 1.0)
    way = machine.node_barrier_s * (nodes - 1) + machine.socket_barrier_s * (sockets - 1)
    if "remote" in machine.off:
        way = 0.0
    return size.layers * machine.barriers_per_layer * (tree + way)


def _counts(group_of: Mapping[int, int], members: Iterable[int]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for member in members:
        counts[group_of[member]] = counts.get(group_of[member], 0) + 1
    return counts
