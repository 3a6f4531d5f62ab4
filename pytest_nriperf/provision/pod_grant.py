"""Balloons that pods hold: workers in them, and what the kernel says of both."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_nriperf.balloons import Placement
from pytest_nriperf.errors import MemoryFault, NotHonouredError, ProvisionError, WorkerError, worker_ended
from pytest_nriperf.provision import manifests
from pytest_nriperf.provision.api_errors import ApiFailure
from pytest_nriperf.provision.cluster import Cluster
from pytest_nriperf.provision.exec_channel import ConnectionLost, ExecChannel
from pytest_nriperf.provision.honoured import Seen
from pytest_nriperf.provision.pod_stream import RECONNECT_S, PodConnection, PodStream
from pytest_nriperf.provision.pods import Patience, post_mortem
from pytest_nriperf.provision.policy_zones import Zone, published
from pytest_nriperf.seams import Launch, WorkerStream
from pytest_nriperf.units import format_cpus, parse_cpus

Json = dict[str, Any]

COMMAND_S = 60.0
# Without a host for so long a worker is ended by its relay.
HOST_GONE_S = 120.0


@dataclass(frozen=True)
class PodAccess:
    """How commands run in the pods of a session. `why_lost` says why the node is no longer ours, empty while it is."""

    cluster: Cluster
    node: str
    namespace: str
    python: str
    patience: Patience
    why_lost: Callable[[], str] = str

    def check_held(self) -> None:
        """Raises ProvisionError when somebody else has the node now: they may be measuring beside us."""
        if lost := self.why_lost():
            raise ProvisionError(lost, "start again when the node is free")

    def agent(self, *words: str) -> list[str]:
        """The command line of the pod's own agent."""
        return [self.python, f"{manifests.FILES}/{manifests.AGENT}", *words]

    def relay(self, *words: str) -> list[str]:
        """The command line of what keeps a worker there."""
        return [self.python, f"{manifests.FILES}/{manifests.RELAY}", *words]

    def open(self, pod: str, command: list[str]) -> ExecChannel:
        """An exec in a pod. Raises what became of the pod when it does not run any more."""
        try:
            return self.cluster.exec(pod, self.namespace, manifests.CONTAINER, command)
        except ApiFailure as error:
            gone = self.why_gone(pod) if error.status in (404, 500) else None
            if gone is None:
                raise
            raise gone from error

    def why_gone(self, pod: str) -> WorkerError | None:
        """What became of a pod that does not run, None while it does."""
        trouble = post_mortem(self.cluster, self.node, self.namespace, pod)
        if trouble is None:
            return None
        text = f"node {self.node}: pod {pod} {trouble.fact}"
        if lost := self.why_lost():
            return WorkerError(f"{lost}; {text}", "start again when the node is free")
        return (MemoryFault if trouble.memory else WorkerError)(text, trouble.next_step)

    def ask(self, pod: str, *words: str, data: bytes = b"") -> bytes:
        """The output of one of the agent's short commands, tried again when the connection breaks."""
        for _ in range(5):
            try:
                return self.open(pod, self.agent(*words)).run(COMMAND_S, data)
            except ConnectionLost:
                gone = self.why_gone(pod)
                if gone is not None:
                    raise ProvisionError(gone.fact, gone.next_step) from None
            except TimeoutError:
                break
            except WorkerError as error:
                raise ProvisionError(f"pod {pod}: {error.fact}", error.next_step) from error
        raise ProvisionError(
            f"node {self.node}: the connection to pod {pod} breaks again and again", "check kubectl exec there"
        )

    def bring(self, pod: str, archive: bytes) -> str:
        """Store an archive in a pod; its path there."""
        path = manifests.archive_path(archive, manifests.RUN)
        self.ask(pod, "store", path, str(len(archive)), data=archive)
        return path

    def start(
        self,
        pod: str,
        archive: str,
        launch: Launch,
        memory: Mapping[str, Any] | None = None,
        reconnect_s: float = RECONNECT_S,
        gone_s: float | None = None,
    ) -> PodStream:
        """A process that outlives dropped connections and ends when we are gone. `memory`: its policy and nodes."""
        name = uuid.uuid4().hex[:12]
        first = {
            "python": launch.python or self.python,
            "arguments": list(launch.arguments),
            "environment": dict(launch.environment),
            "gone_s": HOST_GONE_S if gone_s is None else gone_s,
            **(memory or {}),
        }
        return PodStream(
            PodConnection(
                open=lambda command: self.open(pod, command),
                run=self.relay("run", manifests.RUN, name, archive),
                attach=self.relay("attach", manifests.RUN, name),
                launch=first,
                why_gone=lambda: self.why_gone(pod),
                name=pod,
                reconnect_s=reconnect_s,
            )
        )

    def tasks(self, pod: str, process: str) -> dict[str, Sequence[str]]:
        """Task -> process, CPUs and memory nodes of a process in the pod and its descendants."""
        found: dict[str, Sequence[str]] = json.loads(self.ask(pod, "tasks", "/proc", process))
        return found

    def seen(self, pod: str, zones: Callable[[], Sequence[Zone] | None], *, shown: bool) -> Seen:
        """The CPUs and memory nodes that a process of the pod may use, and what is published of it: of its container
        where those are `shown`, else of its balloon."""
        tasks = self.tasks(pod, "self")
        if not tasks:
            raise ProvisionError(f"pod {pod} does not show /proc/self/status", "this image's /proc is odd")
        _, listed, memory = next(iter(tasks.values()))
        cpus = parse_cpus(listed)
        told = published(zones, f"{self.namespace}/{pod}/{manifests.CONTAINER}", cpus, shown=shown)
        return Seen(pod, cpus, parse_cpus(memory), told)


class PodGrant:
    """Implements `seams.Grant` for pods that run and were checked. Replicas whose memory nodes the policy has not
    pinned bind themselves."""

    mechanism = "balloons policy"

    def __init__(
        self, placement: Placement, pods: Sequence[str], access: PodAccess, archive: bytes, seen: Sequence[Seen]
    ) -> None:
        self.placement = placement
        self.pods = tuple(pods)
        self._access = access
        self._archive = archive
        self._seen = tuple(seen)
        self._pinned = [
            bool(view.memory) and view.memory <= set(replica.memory_nodes)
            for view, replica in zip(seen, placement.replicas, strict=True)
        ]
        self._stored: set[tuple[str, str]] = set()
        self._streams: list[PodStream] = []
        self._lock = threading.Lock()

    def start_worker(self, replica: int, launch: Launch) -> WorkerStream:
        """Start a worker in the replica's pod. It outlives dropped connections, and ends when we are gone."""
        pod = self.pods[replica]
        nodes = list(self.placement.replicas[replica].memory_nodes)
        archive = self._archive_in(pod, launch.archive)
        stream = self._access.start(pod, archive, launch, {"memory": self._memory_mode(replica), "nodes": nodes})
        self._streams.append(stream)
        return stream

    def verify(self, replica: int, stream: WorkerStream) -> Mapping[str, Any]:
        """Every task of the worker and of all that it started, as the kernel in the pod sees them."""
        assert isinstance(stream, PodStream)
        self._access.check_held()
        granted = self.placement.replicas[replica]
        tasks = self._access.tasks(self.pods[replica], str(stream.inner_pid))
        if not tasks:
            how = stream.close(1.0)
            raise worker_ended(f"the worker of replica {replica} ended before it could be verified", how)
        pod, memory = self.pods[replica], self._seen[replica].memory
        for task, (process, cpus, nodes) in sorted(tasks.items(), key=lambda item: int(item[0])):
            if parse_cpus(cpus) != granted.visible:
                raise NotHonouredError(
                    f"replica {replica}: task {task} of process {process} in pod {pod} may run on CPUs {cpus}, granted "
                    f"were {format_cpus(granted.visible)}",
                    "the engine changes its own affinity (for OpenMP: unset OMP_PROC_BIND, GOMP_CPU_AFFINITY, "
                    "KMP_AFFINITY), or the policy was changed while we measured",
                )
            if parse_cpus(nodes) != memory:
                raise NotHonouredError(
                    f"replica {replica}: task {task} of process {process} in pod {pod} may take memory from NUMA nodes "
                    f"{nodes}, granted were {format_cpus(memory)}",
                    "the policy was changed while we measured: start again",
                )
        return {
            "tasks": len(tasks),
            "cpus": format_cpus(granted.visible),
            "memory_nodes": format_cpus(memory),
            "memory_by": self._memory_mode(replica) or ("balloons policy" if self._pinned[replica] else "nobody"),
            "pod": pod,
        }

    def close(self) -> None:
        """End every worker that still runs."""
        for stream in self._streams:
            with contextlib.suppress(WorkerError, ProvisionError):
                stream.close()

    def _memory_mode(self, replica: int) -> str:
        spec = self.placement.spec
        if spec.memory == "interleave":
            return "interleave"
        return "bind" if spec.memory == "local" and not self._pinned[replica] else ""

    def _archive_in(self, pod: str, archive: bytes) -> str:
        """Where the archive lies in the pod: in the ConfigMap, else brought there."""
        if archive == self._archive:
            return manifests.archive_path(archive)
        path = manifests.archive_path(archive, manifests.RUN)
        with self._lock:
            if (pod, path) not in self._stored:
                self._access.bring(pod, archive)
                self._stored.add((pod, path))
        return path
