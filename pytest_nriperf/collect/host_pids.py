"""The node's number of a process that knows only its number in a container."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pytest_nriperf.collect.reading import Files
from pytest_nriperf.seams import Target, TargetReplica
from pytest_nriperf.units import parse_cpus

# The numbers of a process in every PID namespace that it is in: ours first, its own last.
_NUMBERS = re.compile(rb"\nNSpid:((?:\t\d+)+)\n")
_CPUS = re.compile(rb"\nCpus_allowed_list:\t([\d,-]+)\n")


def on_the_node(target: Target, notes: list[str], files: Files | None = None) -> Target:
    """The target with every replica's pid as this machine numbers it; `notes` receives whose was not found.

    A process is recognised by its own number together with the CPUs that it may run on, which no two replicas share.
    Both are in files that everybody may read. Reads the status of every process: about 20 us each, once a run.
    """
    wanted = {one.pid for one in target.replicas if one.pid is not None}
    found = list(_processes(files or Files(), wanted)) if wanted else []
    replicas = []
    for one in target.replicas:
        pids = [pid for pid, own, cpus in found if own == one.pid and cpus == one.visible]
        if one.pid is not None and len(pids) != 1:
            many = f"{len(pids)} processes of the node look like it" if pids else "the node shows no such process"
            notes.append(f"replica {one.replica}: no counters of its tasks ({many})")
        pid = pids[0] if len(pids) == 1 else None
        replicas.append(TargetReplica(one.replica, pid, one.allocated, one.visible))
    return Target(tuple(replicas), target.socket_of_cpu, target.node_of_cpu)


def _processes(files: Files, wanted: set[int]) -> Iterator[tuple[int, int, frozenset[int]]]:
    """Number here, number in its own namespace, CPUs, of each process whose own number is wanted."""
    for name in files.names("/proc"):
        if not name.isdigit():
            continue
        try:
            text = files.read_once(f"/proc/{name}/status")
        except OSError:
            continue
        numbers, cpus = _NUMBERS.search(text), _CPUS.search(text)
        own = int(numbers[1].split()[-1]) if numbers else None
        if cpus and own is not None and own in wanted:
            yield int(name), own, parse_cpus(cpus[1].decode("ascii"))
