"""What a pod really got, against what was asked for. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_nriperf.balloons import BalloonSpec, Placement, ReplicaPlacement
from pytest_nriperf.errors import NotHonouredError
from pytest_nriperf.topology import Topology
from pytest_nriperf.units import format_cpus


@dataclass(frozen=True)
class Seen:
    """A replica's CPUs and memory nodes as the kernel lists them in its pod; `zone` are the CPUs of its balloon as the
    plugin publishes them, None where it does not."""

    pod: str
    cpus: frozenset[int]
    memory: frozenset[int]
    zone: frozenset[int] | None = None


def granted_placement(planned: Placement, seen: Sequence[Seen], topology: Topology) -> Placement:
    """The placement that was really granted. Raises NotHonouredError: what was asked, what was granted, why."""
    spec = planned.spec
    replicas = []
    for number, view in enumerate(seen):
        allocated = _allocated(spec, view, topology)
        fault = _replica_fault(spec, planned.cpus, view, allocated, topology)
        if fault:
            raise NotHonouredError(
                f"replica {number} (pod {view.pod}): asked for {_asked(spec, planned.cpus)}, granted were CPUs "
                f"{format_cpus(view.cpus)}: {fault}",
                likely_cause(planned.cpus, view, topology),
            )
        memory = () if spec.memory == "any" else topology.memory_near(allocated)
        replicas.append(ReplicaPlacement(allocated, view.cpus, memory))
    fault = _together_fault(spec, replicas, topology)
    if fault:
        raise NotHonouredError(
            fault, "see what else the node's policy holds: kubectl get noderesourcetopologies -o yaml"
        )
    return Placement(spec, planned.cpus, tuple(replicas), topology.name)


def likely_cause(cpus: int, view: Seen, topology: Topology) -> str:
    """Why a pod may see other CPUs than its balloon should have."""
    if view.cpus == topology.online:
        return (
            "it is not pinned at all: the balloons plugin is not connected to the container runtime (an old Success in "
            "the policy's status proves nothing); restart its pod, and check that NRI is enabled in the runtime"
        )
    if view.zone is not None and not view.cpus <= view.zone:
        return (
            f"its balloon has CPUs {format_cpus(view.zone)}: something else sets its cpuset, probably kubelet's static "
            "CPU manager (set cpuManagerPolicy: none)"
        )
    if len(view.cpus) != cpus:
        return (
            "the balloon type has limits or shares idle CPUs (minCPUs, maxCPUs, shareIdleCPUsInSame): map another type "
            'in the profile (balloon_types), or let us write the types with policy = "manage"'
        )
    return (
        "the node's free CPUs do not allow it, or the balloon type chooses otherwise: free the node, or let us write "
        'the types with policy = "manage"'
    )


def _asked(spec: BalloonSpec, cpus: int) -> str:
    words = [f"{cpus} CPUs", spec.hyperthreads]
    words += [f"numa={spec.numa!r}"] if spec.numa != "any" else []
    return ", ".join(words)


def _allocated(spec: BalloonSpec, view: Seen, topology: Topology) -> frozenset[int]:
    """The balloon's CPUs: the published ones, else for hidden the visible ones with their siblings."""
    if spec.hyperthreads != "hidden":
        return view.cpus
    whole = frozenset[int]().union(*(topology.siblings(cpu) for cpu in view.cpus & topology.online))
    return view.zone if view.zone is not None and view.cpus <= view.zone <= whole else whole


def _replica_fault(spec: BalloonSpec, cpus: int, view: Seen, allocated: frozenset[int], topology: Topology) -> str:
    """What does not hold of one replica, empty when all does."""
    strange = view.cpus - topology.online
    if strange:
        return f"CPUs {format_cpus(strange)} are not online"
    if len(allocated) != cpus:
        return f"that is {len(allocated)} allocated CPUs"
    cores: dict[int, int] = {}
    for cpu in view.cpus:
        cores[topology.cpu(cpu).core] = cores.get(topology.cpu(cpu).core, 0) + 1
    threads = topology.threads_per_core
    if spec.hyperthreads == "spread" and max(cores.values()) > 1:
        return "two threads of a core are among them"
    if spec.hyperthreads == "hidden" and (len(view.cpus) * threads != cpus or max(cores.values()) > 1):
        return f"{len(view.cpus)} of them are visible, one thread of each of {cpus // threads} cores should be"
    if spec.hyperthreads == "paired" and spec.cpus is not None and any(len_ != threads for len_ in cores.values()):
        return "they are not whole cores"
    return _numa_fault(spec, allocated, topology)


def _numa_fault(spec: BalloonSpec, allocated: frozenset[int], topology: Topology) -> str:
    nodes = topology.nodes_of(allocated)
    counts = {node: len(allocated & topology.node_cpus(node)) for node in nodes}
    where = ", ".join(f"{count} in NUMA node {node}" for node, count in counts.items())
    if (spec.numa == "single" or spec.replicas == "numa") and len(nodes) > 1:
        return f"they span several NUMA nodes ({where})"
    sockets = {topology.cpu(cpu).socket for cpu in allocated}
    if spec.numa == "socket":
        wanted = topology.socket_nodes(min(sockets))
        if len(sockets) > 1 or nodes != wanted or len(set(counts.values())) > 1:
            return f"they are not in equal parts over the NUMA nodes of one socket ({where})"
    if spec.numa == "all" and (nodes != topology.cpu_nodes or len(set(counts.values())) > 1):
        return f"they are not in equal parts over all NUMA nodes ({where})"
    return ""


def _together_fault(spec: BalloonSpec, replicas: Sequence[ReplicaPlacement], topology: Topology) -> str:
    """What does not hold between replicas."""
    owner: dict[int, int] = {}
    for number, replica in enumerate(replicas):
        for cpu in sorted(replica.allocated):
            if cpu in owner:
                return f"replicas {owner[cpu]} and {number} share CPU {cpu}"
            owner[cpu] = number
    if spec.replicas == "numa":
        nodes = [topology.nodes_of(replica.allocated)[0] for replica in replicas]
        if len(set(nodes)) < len(nodes):
            return f"two replicas are in one NUMA node (NUMA nodes {', '.join(map(str, nodes))})"
    return ""
