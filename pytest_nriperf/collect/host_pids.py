"""The node's number of a process that knows only its number in a container."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

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
        same = [each for each in found if each.own == one.pid and each.cpus == one.visible]
        pids = [each.pid for each in same if each.nested] or [each.pid for each in same]
        if one.pid is not None and len(pids) != 1:
            many = f"{len(pids)} processes of the node look like it" if pids else "the node shows no such process"
            notes.append(f"replica {one.replica}: no counters of its tasks ({many})")
        pid = pids[0] if len(pids) == 1 else None
        replicas.append(TargetReplica(one.replica, pid, one.allocated, one.visible))
    return Target(tuple(replicas), target.socket_of_cpu, target.node_of_cpu)


class _Process(NamedTuple):
    """A process by its number here and in its own namespace, `nested` if that is another one than ours."""

    pid: int
    own: int
    nested: bool
    cpus: frozenset[int]


def _processes(files: Files, wanted: set[int]) -> Iterator[_Process]:
    """Every process whose own number is wanted."""
    for name in files.names("/proc"):
        if not name.isdigit():
            continue
        try:
            text = files.read_once(f"/proc/{name}/status")
        except OSError:
            continue
        numbers, cpus = _NUMBERS.search(text), _CPUS.search(text)
        path = numbers[1].split() if numbers else []
        if cpus and path and int(path[-1]) in wanted:
            yield _Process(int(name), int(path[-1]), len(path) > 1, parse_cpus(cpus[1].decode("ascii")))
