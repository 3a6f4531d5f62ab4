"""What a pod really got, against what was asked for: the kernel's view of it, and what the plugin publishes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_nriperf.balloons import BalloonSpec, Placement, ReplicaPlacement
from pytest_nriperf.errors import NotHonouredError
from pytest_nriperf.provision.policy_zones import Published
from pytest_nriperf.topology import Topology
from pytest_nriperf.units import format_cpus


@dataclass(frozen=True)
class Seen:
    """A replica's CPUs and memory nodes as the kernel lists them in its pod (no memory nodes: it does not), and what
    the plugin publishes of it, None where it publishes nothing."""

    pod: str
    cpus: frozenset[int]
    memory: frozenset[int]
    published: Published | None = None


def granted_placement(
    planned: Placement,
    seen: Sequence[Seen],
    topology: Topology,
    reserved: frozenset[int] = frozenset(),
    rejected: str = "",
) -> Placement:
    """The placement that was really granted. Raises NotHonouredError: what was asked, what was granted, why.

    `reserved` are CPUs that no balloon of ours may have; `rejected` is what the plugin says against the policy in the
    cluster, empty when it follows it.
    """
    spec = planned.spec
    replicas = []
    for number, view in enumerate(seen):
        allocated = _allocated(spec, view, topology)
        fault = _replica_fault(spec, planned.cpus, view, allocated, topology) or _reserved_fault(allocated, reserved)
        fault = fault or _published_fault(view, allocated)
        if fault:
            raise NotHonouredError(
                f"replica {number} (pod {view.pod}): asked for {_asked(spec, planned.cpus)}, granted were CPUs "
                f"{format_cpus(view.cpus)}: {fault}",
                likely_cause(planned, view, topology, rejected),
            )
        memory = () if spec.memory == "any" else topology.memory_near(allocated)
        _check_memory(spec, number, view, frozenset(memory), topology)
        replicas.append(ReplicaPlacement(allocated, view.cpus, memory))
    fault = _together_fault(spec, replicas, topology)
    if fault:
        raise NotHonouredError(
            fault, "see what else the node's policy holds: kubectl get noderesourcetopologies -o yaml"
        )
    return Placement(spec, planned.cpus, tuple(replicas), topology.name)


def likely_cause(planned: Placement, view: Seen, topology: Topology, rejected: str = "") -> str:
    """Why a pod may see other CPUs than its balloon should have."""
    if view.cpus == topology.online:
        return (
            "it is not pinned at all: the balloons plugin is not connected to the container runtime (an old Success in "
            "the policy's status proves nothing); restart its pod, and check that NRI is enabled in the runtime"
        )
    if rejected:
        return (
            "the node does not follow the policy that the cluster shows, since the plugin rejects it "
            f"({rejected}): mend the policy"
        )
    told = view.published
    if told is not None and (not told.balloon if told.pinned is None else told.pinned != view.cpus):
        given = f"CPUs {format_cpus(told.pinned)}" if told.pinned else "none of its CPUs"
        return (
            f"the plugin gave it {given}: something else sets its cpuset, probably kubelet's static CPU manager (set "
            "cpuManagerPolicy: none)"
        )
    if told is not None and told.others:
        return (
            "the balloon type puts several containers into one balloon: map one with preferNewBalloons in the profile "
            '(balloon_types), or let us write the types with policy = "manage"'
        )
    if planned.spec.hyperthreads == "spread" and shares_cores(planned, topology):
        return (
            "replicas share cores here, and then the policy does not keep each replica's own threads on different "
            'cores: ask for fewer replicas or CPUs, or for numa="single"'
        )
    if len(view.cpus) != planned.cpus:
        return (
            "the balloon type has limits or shares idle CPUs (minCPUs, maxCPUs, shareIdleCPUsInSame): map another type "
            'in the profile (balloon_types), or let us write the types with policy = "manage"'
        )
    return (
        "the node's free CPUs do not allow it, or the balloon type chooses otherwise: free the node, or let us write "
        'the types with policy = "manage"'
    )


def shares_cores(placement: Placement, topology: Topology) -> bool:
    """Whether replicas have threads of the same core."""
    cores = [{topology.cpu(cpu).core for cpu in replica.allocated} for replica in placement.replicas]
    return sum(map(len, cores)) > len(set().union(*cores))


def _asked(spec: BalloonSpec, cpus: int) -> str:
    words = [f"{cpus} CPUs", spec.hyperthreads]
    words += [f"numa={spec.numa!r}"] if spec.numa != "any" else []
    return ", ".join(words)


def _allocated(spec: BalloonSpec, view: Seen, topology: Topology) -> frozenset[int]:
    """The balloon's CPUs: the visible ones, for hidden with their siblings."""
    if spec.hyperthreads != "hidden":
        return view.cpus
    return frozenset[int]().union(*(topology.siblings(cpu) for cpu in view.cpus & topology.online))


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


def _reserved_fault(allocated: frozenset[int], reserved: frozenset[int]) -> str:
    """Measured balloons keep off the CPUs of system pods: there will be some."""
    taken = allocated & reserved
    return f"CPUs {format_cpus(taken)} are reserved for system pods" if taken else ""


def _published_fault(view: Seen, allocated: frozenset[int]) -> str:
    """How what is published differs from what the kernel says, empty where it does not."""
    told = view.published
    if told is None:
        return ""
    if told.pinned not in (None, view.cpus):
        return f"the plugin says that it gave CPUs {format_cpus(told.pinned or ())}"
    if not told.balloon:
        return "no published balloon has them"
    if told.balloon != allocated:
        return f"the published balloon has CPUs {format_cpus(told.balloon)}"
    return f"its balloon holds other containers too ({', '.join(told.others[:4])})" if told.others else ""


def _check_memory(spec: BalloonSpec, number: int, view: Seen, nodes: frozenset[int], topology: Topology) -> None:
    """NotHonouredError when memory may not come from where it should: `nodes`, for any all that have some."""
    everywhere = frozenset(node.id for node in topology.nodes if node.memory_bytes)
    missing = (everywhere if spec.memory == "any" else nodes) - view.memory
    if not view.memory or not missing:
        return
    fact = f"replica {number} (pod {view.pod}): asked for memory={spec.memory!r}, granted was memory of NUMA nodes "
    fact += f"{format_cpus(view.memory)} alone, without {format_cpus(missing)}"
    if spec.memory == "any":
        raise NotHonouredError(
            fact,
            'the balloon type pins memory (pinMemory): use memory="local", or let us write the types with policy = '
            '"manage"',
        )
    raise NotHonouredError(
        fact,
        "the balloon type allows certain kinds of memory only (memoryTypes), or something else sets its cpuset: see "
        "kubectl get balloonspolicy -o yaml",
    )


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
