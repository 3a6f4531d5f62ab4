"""A two-socket server and balloons on it, placed by the plainest rule: whole cores, node after node."""

from __future__ import annotations

from pytest_nriperf.simulate.machine import Load, Machine

CORES, THREADS, SOCKETS = 64, 2, 2


def server(*off: str, snc: int = 2) -> Machine:
    """2 sockets x 64 cores x 2 threads in SNC mode `snc`, with causes switched off."""
    cores = SOCKETS * CORES
    cpus = range(cores * THREADS)
    return Machine(
        core_of={cpu: cpu % cores for cpu in cpus},
        node_of={cpu: cpu % cores * SOCKETS * snc // cores for cpu in cpus},
        socket_of={cpu: cpu % cores // CORES for cpu in cpus},
        off=frozenset(off),
    )


def balloons(machine: Machine, replicas: int, cpus: int, hyperthreads: str) -> list[Load]:
    """Replicas dealt to the NUMA nodes in turn, sockets first; memory on the nodes of their CPUs."""
    cores = SOCKETS * CORES
    pools: dict[int, list[tuple[int, ...]]] = {node: [] for node in machine.nodes}
    for thread in range(THREADS) if hyperthreads == "spread" else range(1):
        for core in range(cores):
            whole = (core, core + cores) if hyperthreads != "spread" else (core + thread * cores,)
            pools[machine.node_of[core]].append(whole)
    loads = []
    for _ in range(replicas):
        home = max(machine.nodes, key=lambda node: (len(pools[node]), -node))
        near = sorted(machine.nodes, key=lambda node: (node != home, _far(machine, node, home), node))
        taken: list[tuple[int, ...]] = []
        for node in near:
            while pools[node] and sum(map(len, taken)) < cpus:
                taken.append(pools[node].pop(0))
        visible = frozenset(cpu for core in taken for cpu in (core[:1] if hyperthreads == "hidden" else core))
        loads.append(Load(visible, frozenset(machine.node_of[cpu] for cpu in visible)))
    return loads


def _far(machine: Machine, node: int, home: int) -> bool:
    return machine.socket_of_node[node] != machine.socket_of_node[home]
