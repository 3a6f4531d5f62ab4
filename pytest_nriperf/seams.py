"""The three seams - Provisioner, Generator, Collector - and the values that cross them.

Adapters on either side of a seam never import each other; they meet here. Everything a fake needs is in this
file (`pytest_nriperf.testing` holds the public fakes). Standard library only at run time, and valid on
Python 3.9: this file travels into measured containers together with the collectors.

Clocks: every `_ns` is CLOCK_MONOTONIC of the node in integer nanoseconds (`time.perf_counter_ns` on Linux).
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pytest_nriperf.balloons import BalloonSpec, Placement
    from pytest_nriperf.topology import Topology

# --------------------------------------------------------------------------------------------- where: provision


@dataclass(frozen=True)
class NodeDescription:
    """What is known of a node before anything runs there.

    `name` is the name that recordings and messages use (`local`, `sim:2s64c2t`, a profile or Kubernetes node);
    `baseline_name` is the folder of its baselines. `allowed` are the CPUs that may be given out, `reserved` those
    of them that may not. `read` returns a file of the node, or None when it is absent or may not be read.
    `facts` are plain values for the fingerprint's parts that no file tells (cluster, kubelet, runtime).
    """

    name: str
    allowed: frozenset[int]
    reserved: frozenset[int]
    read: Callable[[str], bytes | None]
    simulated: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)


class WorkerStream(Protocol):
    """A started worker process: lines in, lines out. Closing it ends the process and all that it started."""

    @property
    def pid(self) -> int | None:
        """Process number as the node sees it, None where it cannot be known."""

    def send(self, line: bytes) -> None:
        """Write one line, newline included, and flush. Raises WorkerError when the process is gone."""

    def receive(self, timeout_s: float) -> bytes | None:
        """The next whole line, or None at the end of the stream. Raises TimeoutError after `timeout_s`."""

    def close(self, grace_s: float = 2.0) -> str:
        """End the process (input closed, then SIGTERM, then SIGKILL) and say how it ended in words, with the
        last lines of its standard error when it did not end by itself with status 0. May be called twice."""


@dataclass(frozen=True)
class Launch:
    """How to start a worker: `archive` is a zip with a `__main__.py`, run by `python` with `environment` added.

    `python` is the interpreter's path on the node; empty means the one that the provisioner finds there.
    """

    archive: bytes
    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    python: str = ""


class Grant(Protocol):
    """CPUs that were really given, replica by replica, until the provisioner's context ends."""

    @property
    def placement(self) -> Placement:
        """The granted placement (allocated and visible CPUs and memory nodes per replica)."""

    @property
    def mechanism(self) -> str:
        """How it is enforced: `affinity`, `cgroup v1 cpuset`, `cgroup v2 cpuset`, `balloons policy`, `simulated`."""

    def start_worker(self, replica: int, launch: Launch) -> WorkerStream:
        """Start a process inside the replica's balloon: bound before its first instruction."""

    def verify(self, replica: int, stream: WorkerStream) -> Mapping[str, Any]:
        """Compare the kernel's view of every task of the worker (CPUs, memory nodes) with the placement.

        Returns the facts seen, for the recording. Raises NotHonouredError with the fact when something escaped.
        """


class Provisioner(Protocol):
    """A node: what it is, and balloons on it."""

    def topology(self) -> Topology:
        """The node's topology."""

    def describe(self) -> NodeDescription:
        """The node's name, allowed and reserved CPUs, and access to its files."""

    def session(self, specs: Sequence[BalloonSpec]) -> AbstractContextManager[None]:
        """Hold the node (lock, policy, journal) for all balloons that the session will need."""

    def provision(self, spec: BalloonSpec) -> AbstractContextManager[Grant]:
        """Plan, make and check one allocation; undone when the context ends."""


@runtime_checkable
class Recalling(Provisioner, Protocol):
    """A provisioner that cannot read its node without starting something there, and remembers what it read last."""

    def recall(self) -> tuple[Topology, NodeDescription] | None:
        """The node as it was seen last, from a cache on this machine, None when it never was. Starts nothing."""


@runtime_checkable
class ChecksModels(Protocol):
    """A node where not every model can run: asked before an engine is made."""

    def check_model(self, choice: ModelChoice) -> None:
        """Raises SettingsError naming the setting that is missing."""


@dataclass(frozen=True)
class Observer:
    """A process of ours on a node, outside every balloon. `hidden`: why it cannot see the replicas' processes there,
    empty when it can. `address`: the node's own, empty when unknown."""

    stream: WorkerStream
    hidden: str = ""
    address: str = ""


@runtime_checkable
class Observed(Provisioner, Protocol):
    """Another machine whose counters a process of ours reads there."""

    def observe(self, launch: Launch) -> Observer:
        """Start it. Raises EnvironmentFault."""


# ---------------------------------------------------------------------------------------------- what: generate


@dataclass(frozen=True)
class ModelChoice:
    """A model as chosen by `model=` or `--nri-model`, parsed.

    `text` is canonical and is what keys a baseline; `kind` is one of sim, dummy, smollm2, hub, folder, gguf,
    openai; `location` the folder, file, hub id, URL or configuration; `weights` private or shared.
    """

    text: str
    kind: str
    location: str = ""
    dtype: str = ""
    weights: str = "private"
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Prompt:
    """One input: a text, or a number of tokens to make up. `prompt_id` stands in the recording, never the text."""

    prompt_id: str
    text: str | None = None
    tokens: int | None = None


def no_rendezvous() -> None:
    """Nobody to wait for."""


@dataclass(frozen=True)
class Work:
    """What each replica does in one run: `warmup` requests, then `requests`, `concurrency` in flight (closed loop).

    Prompts are taken in turn. Work is equal: greedy, exactly `max_new_tokens` new tokens a request. `rendezvous` is
    called when all is warm, right before the measured requests begin: in a duet it waits for the other side.
    """

    prompts: tuple[Prompt, ...]
    max_new_tokens: int
    requests: int = 1
    concurrency: int = 1
    warmup: int = 1
    timeout_s: float = 600.0
    rendezvous: Callable[[], None] = no_rendezvous


@dataclass(frozen=True)
class EngineOptions:
    """How the engines of a run are started, beside the model.

    `python` is the interpreter on the node (empty: the provisioner's choice), `environment` is added to the workers',
    with `reference` each run is bracketed by the short reference load.
    """

    python: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    reference: bool = False


class ClockAnchor(NamedTuple):
    """The same moment on three clocks, nanoseconds."""

    wall_ns: int
    monotonic_ns: int
    boot_ns: int

    @classmethod
    def now(cls) -> ClockAnchor:
        """Now, in this process."""
        return cls(time.time_ns(), time.perf_counter_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME))


@dataclass(frozen=True)
class WorkerInfo:
    """A loaded engine, ready to generate.

    `model` holds name, revision, hash, dtype, weight_bytes, kv_bytes_per_token, parameters and the like;
    `versions` the engine's libraries; `threads` the size of its thread pool; `stream` its process.
    """

    replica: int
    pid: int | None
    stream: WorkerStream | None
    model: Mapping[str, Any]
    versions: Mapping[str, str]
    threads: int
    load_ns: int
    anchor: ClockAnchor


@dataclass(frozen=True)
class RequestRow:
    """One generation. Times are None where the request did not get that far. `status`: ok, failed, timeout."""

    replica: int
    request: int
    phase: str
    prompt_id: str
    scheduled_ns: int | None
    submit_ns: int
    first_ns: int | None
    last_ns: int | None
    end_ns: int | None
    prompt_tokens: int
    output_tokens: int
    status: str = "ok"
    error: str = ""

    @classmethod
    def from_completion(
        cls, replica: int, request: int, phase: str, prompt_id: str, completion: Completion
    ) -> RequestRow:
        """The row of a finished generation."""
        visible = [stamp for stamp, n in zip(completion.stamps_ns, completion.tokens) if n]  # noqa: B905 - Python 3.9
        return cls(
            replica=replica,
            request=request,
            phase=phase,
            prompt_id=prompt_id,
            scheduled_ns=None,
            submit_ns=completion.submit_ns,
            first_ns=visible[0] if visible else None,
            last_ns=visible[-1] if visible else None,
            end_ns=completion.end_ns,
            prompt_tokens=completion.prompt_tokens,
            output_tokens=sum(completion.tokens),
        )


@dataclass
class TokenEvents:
    """Token events as parallel columns, in the order of (replica, request, time).

    `n` is the number of tokens in the event; the prompt's event has n = 0.
    """

    replica: array[int] = field(default_factory=lambda: array("q"))
    request: array[int] = field(default_factory=lambda: array("q"))
    t_ns: array[int] = field(default_factory=lambda: array("q"))
    n: array[int] = field(default_factory=lambda: array("q"))

    def add(self, replica: int, request: int, stamps_ns: Sequence[int], tokens: Sequence[int]) -> None:
        """Append the events of one request."""
        if len(stamps_ns) != len(tokens):
            raise ValueError(f"{len(stamps_ns)} stamps, {len(tokens)} token counts")
        self.replica.extend([replica] * len(stamps_ns))
        self.request.extend([request] * len(stamps_ns))
        self.t_ns.extend(stamps_ns)
        self.n.extend(tokens)

    def __len__(self) -> int:
        return len(self.t_ns)


@dataclass
class RunData:
    """All that one run of all replicas left behind, before it is written."""

    requests: list[RequestRow]
    tokens: TokenEvents
    counters: list[CounterRow] = field(default_factory=list)
    anchors: dict[int, tuple[ClockAnchor, ClockAnchor]] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Completion:
    """One generation: `text`, `token_ids`, event times `stamps_ns` with `tokens` per event (prompt first, 0)."""

    text: str
    token_ids: tuple[int, ...]
    submit_ns: int
    stamps_ns: tuple[int, ...]
    tokens: tuple[int, ...]
    end_ns: int
    prompt_tokens: int


class Progress(NamedTuple):
    """How far a replica is: finished requests of this run (warm-up included) and tokens so far."""

    replica: int
    requests: int
    tokens: int


class Generator(Protocol):
    """The engines of one run: a fresh process per replica, or a server in the balloon with a client outside."""

    def load(self, grant: Grant) -> Sequence[WorkerInfo]:
        """Start every replica inside its balloon, load the model there; returns when all are ready."""

    def measure(self, work: Work, progress: Callable[[Progress], None]) -> RunData:
        """Let all replicas begin at one common instant and do the work. Warm-up belongs to the work."""

    def generate(self, prompt: Prompt, max_new_tokens: int, replica: int = 0) -> Completion:
        """One call."""

    def close(self) -> None:
        """End every process. May be called twice and after any failure."""


@runtime_checkable
class StartsLoading(Protocol):
    """A generator that can begin to load without waiting, so that several load at the same time."""

    def start_loading(self, grant: Grant) -> None:
        """Begin what `load` with the same grant goes on with and waits for."""


@runtime_checkable
class ReadsMemory(Protocol):
    """A generator whose engines can be asked how fast their CPUs read memory and multiply, in all replicas at once."""

    def reference_load(self) -> list[CounterRow]:
        """The short reference load of loaded engines: source `reference`."""


# ----------------------------------------------------------------------------------------- meanwhile: collect


class CounterRow(NamedTuple):
    """One reading: `t_ns` is when the value was true, `read_ns` when it was read (equal for local files).

    `kind`: cumulative (take differences), gauge, interval (already a difference or rate over the last interval),
    untyped (the source does not say). Integers stay integers. Scope numbers are None where they do not apply.
    """

    t_ns: int
    read_ns: int
    source: str
    name: str
    kind: str
    value: float
    unit: str
    replica: int | None = None
    cpu: int | None = None
    core: int | None = None
    socket: int | None = None
    node: int | None = None
    pid: int | None = None


@dataclass(frozen=True)
class TargetReplica:
    """A measured replica as collectors see it; `pid` as the collectors' machine numbers it."""

    replica: int
    pid: int | None
    allocated: frozenset[int]
    visible: frozenset[int]


@dataclass(frozen=True)
class Target:
    """What to watch during a run."""

    replicas: tuple[TargetReplica, ...]
    socket_of_cpu: Mapping[int, int] = field(default_factory=dict)
    node_of_cpu: Mapping[int, int] = field(default_factory=dict)


class Availability(NamedTuple):
    """Whether a collector can work here: `missing` says what it cannot give, and why."""

    available: bool
    gives: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


class Collector(Protocol):
    """A source of counters. Runs in the sampler's thread; never in the measured processes.

    A collector may have `notes`, a list of what it could not give since `start` and why.
    """

    name: str

    def probe(self) -> Availability:
        """What this machine offers; opens nothing that stays open."""

    def start(self, target: Target) -> Iterable[CounterRow]:
        """Open descriptors for the target and take the readings that belong before a run."""

    def sample(self) -> Iterable[CounterRow]:
        """One periodic reading. Cheap; raises CollectorError when the source is gone."""

    def stop(self) -> Iterable[CounterRow]:
        """The readings that belong after a run; closes everything. May be called twice."""
