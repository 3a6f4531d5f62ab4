"""Engines on a simulated node: a run of all replicas in this process, in virtual time. SIMULATED."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from pytest_nriperf.errors import WorkerError
from pytest_nriperf.seams import Completion, Grant, ModelChoice, Progress, Prompt, RunData, Work, WorkerInfo
from pytest_nriperf.simulate.llm import ModelSize, model_size
from pytest_nriperf.simulate.machine import loads_of, machine_of
from pytest_nriperf.simulate.virtual import Engine, VirtualClock
from pytest_nriperf.topology import Topology
from pytest_nriperf.units import NANOSECONDS

LOAD_BYTES_PER_SECOND = 2e9


class SimulatedGenerator:
    """One run's engines: a model of size `choice` served on `topology`. Time passes on `clock` alone."""

    def __init__(self, choice: ModelChoice, topology: Topology, clock: VirtualClock | None = None) -> None:
        self._choice = choice
        self._size: ModelSize = model_size(choice)
        self._machine = machine_of(topology, self._size.off)
        self._clock = clock or VirtualClock()
        self._engine: Engine | None = None
        self._number = 0
        self._lock = threading.Lock()
        self._calls: dict[int, int] = {}
        self._free_ns: dict[int, int] = {}
        self._ready_ns = 0

    def load(self, grant: Grant) -> Sequence[WorkerInfo]:
        """Place the model in every replica; costs the time that reading the weights would take."""
        placement = grant.placement
        self._engine = Engine(self._machine, self._size, loads_of(placement, self._machine), self._size.seed)
        self._number = self._clock.run_number(repr([sorted(replica.visible) for replica in placement.replicas]))
        load_s = self._size.weight_bytes / LOAD_BYTES_PER_SECOND
        self._clock.advance(load_s)
        self._ready_ns = self._clock.now_ns
        return [
            WorkerInfo(
                replica=index,
                pid=None,
                stream=None,
                model={
                    "name": self._choice.text,
                    "simulated": True,
                    "parameters": int(self._size.parameters),
                    "dtype": self._size.dtype,
                    "weight_bytes": int(self._size.weight_bytes),
                    "kv_bytes_per_token": int(self._size.kv_bytes_per_token),
                },
                versions={},
                threads=len(replica.visible),
                load_ns=round(load_s * NANOSECONDS),
                anchor=self._clock.anchor(),
            )
            for index, replica in enumerate(placement.replicas)
        ]

    def measure(self, work: Work, progress: Callable[[Progress], None]) -> RunData:
        """One run of all replicas, computed at once."""
        engine = self._loaded()
        start = self._clock.anchor()
        data = engine.run(work, self._next(-1), self._clock.now_ns)
        self._clock.now_ns = max((row.end_ns or 0 for row in data.requests), default=self._clock.now_ns)
        self._ready_ns = self._clock.now_ns
        self._free_ns.clear()
        end = self._clock.anchor()
        data.anchors.update(dict.fromkeys(range(len(engine.loads)), (start, end)))
        each = work.warmup + work.requests
        for replica in range(len(engine.loads)):
            progress(Progress(replica, each, each * work.max_new_tokens))
        self._number = self._clock.run_number(repr([sorted(load.visible) for load in engine.loads]))
        return data

    def generate(self, prompt: Prompt, max_new_tokens: int, replica: int = 0) -> Completion:
        """One call. Replicas are busy at the same time: each goes on where its own last call ended."""
        engine = self._loaded()
        with self._lock:
            start_ns = self._free_ns.get(replica, self._ready_ns)
            completion = engine.complete(prompt, max_new_tokens, replica, self._next(replica), start_ns)
            self._free_ns[replica] = completion.end_ns
            self._clock.now_ns = max(self._clock.now_ns, completion.end_ns)
        return completion

    def close(self) -> None:
        """Nothing was started."""
        self._engine = None

    def _next(self, replica: int) -> int:
        """A number for the noise of the next run or call in this process."""
        self._calls[replica] = self._calls.get(replica, -1) + 1
        return self._number * 1_000_003 + self._calls[replica]

    def _loaded(self) -> Engine:
        if self._engine is None:
            raise WorkerError("the simulated engine is not loaded", "call load first")
        return self._engine
