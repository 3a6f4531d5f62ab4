"""Balloons on this machine: affinity, cpuset cgroups and memory binding of child processes, verified, undone with them.

With root or in a delegated cgroup each replica has a cpuset of its own, which no thread can leave; else affinity alone
says where it should run, and verification whether it does. Which of the two it was is the grant's `mechanism`.

A worker is started by a thread that first takes the replica's affinity (and, without numactl, its memory policy): both
are properties of a thread and pass to the process it starts, so the worker is bound before its first instruction, and
nothing of ours needs to be restored afterwards because the thread ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_nriperf.balloons import BalloonSpec, Placement, ReplicaPlacement, place
from pytest_nriperf.errors import ProvisionError, WorkerError, worker_ended
from pytest_nriperf.owner import PREFIX, is_abandoned, own_tag
from pytest_nriperf.provision.cgroups import (
    CpusetGroup,
    Hierarchy,
    cpuset_group,
    find_hierarchy,
    prepared,
    remove_leftovers,
)
from pytest_nriperf.provision.memory_policy import MemoryPolicy
from pytest_nriperf.provision.node_lock import node_lock
from pytest_nriperf.provision.process import ProcessStream
from pytest_nriperf.provision.verify import verify_group, verify_online, verify_tasks
from pytest_nriperf.seams import Grant, Launch, NodeDescription, WorkerStream
from pytest_nriperf.topology import Topology, allowed_cpus, read_topology
from pytest_nriperf.units import parse_cpus


def read_local(path: str) -> bytes | None:
    """A file of this machine, None when it is absent or may not be read."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return None


def with_memory(topology: Topology) -> frozenset[int]:
    """The NUMA nodes that have memory."""
    return frozenset(node.id for node in topology.nodes if node.memory_bytes)


def memory_allowed(proc: Path = Path("/proc")) -> frozenset[int]:
    """The NUMA nodes that this process may take memory from."""
    found = re.search(r"^Mems_allowed_list:\s*(\S+)", (proc / "self/status").read_text(), re.MULTILINE)
    return parse_cpus(found[1]) if found else frozenset()


def _remove_folders_of_the_dead() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if is_abandoned(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


class LocalProvisioner:
    """This machine. `reserved` CPUs are never given out; `allowed` are by default those that this process may use;
    without `confine` no cgroups are made, also where they could be."""

    def __init__(
        self,
        *,
        reserved: frozenset[int] = frozenset(),
        allowed: frozenset[int] | None = None,
        confine: bool = True,
    ) -> None:
        self._topology = read_topology()
        self._allowed = (allowed_cpus() if allowed is None else allowed) & self._topology.online
        self._reserved = reserved
        self._confine = confine
        self._hierarchy: Hierarchy | None = None

    def topology(self) -> Topology:
        """This machine's topology, read once."""
        return self._topology

    def describe(self) -> NodeDescription:
        """This machine."""
        return NodeDescription(name="local", allowed=self._allowed, reserved=self._reserved, read=read_local)

    @contextlib.contextmanager
    def session(self, specs: Sequence[BalloonSpec]) -> Iterator[None]:  # noqa: ARG002 - the seam's signature
        """Hold the machine's lock, and remove what a measurement that was killed has left."""
        with node_lock("local"), contextlib.ExitStack() as undo:
            _remove_folders_of_the_dead()
            hierarchy = find_hierarchy() if self._confine else None
            if hierarchy is not None:
                remove_leftovers(hierarchy)
                with contextlib.suppress(ProvisionError):
                    undo.enter_context(prepared(hierarchy))
                    self._hierarchy = hierarchy
            try:
                yield
            finally:
                self._hierarchy = None

    @contextlib.contextmanager
    def provision(self, spec: BalloonSpec) -> Iterator[Grant]:
        """One allocation; every worker started in it is ended with it."""
        placement = self._place(spec)
        with tempfile.TemporaryDirectory(prefix=own_tag()) as folder, contextlib.ExitStack() as undo:
            groups = [undo.enter_context(group) for group in self._groups(placement)]
            yield LocalGrant(placement, self._topology, Path(folder), undo, groups)

    def _groups(self, placement: Placement) -> Iterator[contextlib.AbstractContextManager[CpusetGroup]]:
        """A cpuset for each replica, none where they cannot be made."""
        if self._hierarchy is None:
            return
        for replica in placement.replicas:
            bound = placement.spec.memory != "any"
            nodes = frozenset(replica.memory_nodes) if bound else with_memory(self._topology) & memory_allowed()
            yield cpuset_group(self._hierarchy, replica.visible, nodes)

    def _place(self, spec: BalloonSpec) -> Placement:
        return place(spec, self._topology, allowed=self._allowed, reserved=self._reserved)


class LocalGrant:
    """CPUs and memory nodes of this machine, enforced by cpuset cgroups (`groups`, one a replica, or none), affinity
    and memory policy of what is started in it."""

    def __init__(
        self,
        placement: Placement,
        topology: Topology,
        folder: Path,
        undo: contextlib.ExitStack,
        groups: Sequence[CpusetGroup] = (),
    ) -> None:
        self.placement = placement
        self.mechanism = f"cgroup v{groups[0].version} cpuset" if groups else "affinity"
        self._groups = groups
        self._topology = topology
        self._folder = folder
        self._undo = undo

    def start_worker(self, replica: int, launch: Launch) -> WorkerStream:
        """Start the worker with the replica's CPUs and memory nodes."""
        granted = self.placement.replicas[replica]
        archive = self._folder / f"worker-{replica}.zip"
        archive.write_bytes(launch.archive)
        policy = self._memory_policy(granted)
        python = launch.python or sys.executable
        if shutil.which(python) is None:
            raise ProvisionError(f"no interpreter {python!r} on this machine", "name one that exists")
        confined = self._groups[replica].command_prefix() if self._groups else []
        stream = ProcessStream(
            [*confined, *policy.command_prefix(), python, str(archive), *launch.arguments],
            environment={**os.environ, **launch.environment},
            cpus=granted.visible,
            before_start=policy.apply_to_this_thread,
            memory_group=self._groups[replica].folder if self._groups else None,
        )
        self._undo.callback(stream.close)
        return stream

    def verify(self, replica: int, stream: WorkerStream) -> Mapping[str, Any]:
        """Every task's affinity and the memory nodes of every page, as the kernel sees them."""
        granted = self.placement.replicas[replica]
        if stream.pid is None:
            raise ProvisionError(f"replica {replica} has no process number", "this is a defect of the provisioner")
        verify_online(replica, granted.visible, read_local)
        if self._groups:
            verify_group(replica, granted.visible, self._groups[replica].effective_cpus())
        bound = self._memory_policy(granted).mode == "bind" or (self._groups and self.placement.spec.memory != "any")
        nodes = frozenset(granted.memory_nodes) if bound else None
        try:
            facts = verify_tasks(stream.pid, replica=replica, cpus=granted.visible, memory_nodes=nodes)
        except WorkerError as error:
            how = stream.close(1.0)
            raise worker_ended(f"the worker of replica {replica} ended before it could be verified", how) from error
        return {**facts, "mechanism": self.mechanism}

    def _memory_policy(self, granted: ReplicaPlacement) -> MemoryPolicy:
        nodes = frozenset(granted.memory_nodes)
        mode = {"local": "bind", "interleave": "interleave", "any": "default"}[self.placement.spec.memory]
        # Where there is one memory node binding changes nothing, and containers often forbid the system call.
        return MemoryPolicy("default" if nodes >= with_memory(self._topology) and mode == "bind" else mode, nodes)
