"""The worker: takes operations from its host, runs an engine, tells what happens. Without a host it ends.

Protocol in docs/worker-protocol.md. Engine threads, reporter and reader are separate; nothing but messages reaches the
descriptor that was standard output when the worker started.
"""

from __future__ import annotations

import gc
import importlib
import os
import queue
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pytest_nriperf.generate.child import files, protocol, recorder, reference
from pytest_nriperf.generate.child.engine import Engine, EngineError, Setting
from pytest_nriperf.generate.child.reporter import Reporter
from pytest_nriperf.generate.child.requests import Requests, Slots

ENGINES = {
    "sim": ("pytest_nriperf.generate.child.sim_engine", "SimEngine"),
    "": ("pytest_nriperf.generate.child.transformers_engine", "TransformersEngine"),
}
Operation = Callable[[dict[str, Any]], dict[str, Any]]


class Worker:
    """Operations by name. Quick ones run in the reader's thread, the others one after the other in the main thread."""

    def __init__(self, outbox: protocol.Outbox, output: int = -1) -> None:
        self.outbox = outbox
        self._output = output
        self._reporter = Reporter(outbox)
        self._slots = Slots()
        self._engine: Engine | None = None
        self._requests: Requests | None = None
        self._prompts: list[dict[str, Any]] = []
        self._sampling: files.Sampling | None = None
        self._jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._seen = 0
        self._slow: dict[str, Operation] = {
            "load": self._load,
            "prepare": self._prepare,
            "start": self._start,
            "reference": self._reference,
        }
        self._quick: dict[str, Operation] = {
            "ping": lambda _: {"t_ns": time.perf_counter_ns()},
            "prompt": self._prompt,
            "read": lambda message: files.read_piece(str(message["path"]), int(message.get("offset", 0))),
            "sample": self._sample,
            "unsample": self._unsample,
        }

    def hello(self, facts: dict[str, Any]) -> None:
        """Say who we are; the first message."""
        self.outbox.send("hello", **facts)
        self._reporter.start()

    def take(self, message: dict[str, Any]) -> None:
        """One message of the host. Runs in the reader's thread."""
        operation = str(message.get("op", ""))
        if operation == "bye":
            os._exit(0)
        number = int(message.get("id", 0))
        if number <= self._seen:
            return
        self._seen = number
        if operation in self._quick:
            self._answer(self._quick[operation], message)
        elif operation == "generate":
            self._slots.run_on_idle(lambda: self._answer(self._generate, message))
        else:
            self._jobs.put(message)

    def work(self) -> None:
        """Run slow operations for ever."""
        while True:
            message = self._jobs.get()
            operation = self._slow.get(str(message.get("op")))
            self._answer(operation or unknown, message)

    def _answer(self, operation: Operation, message: dict[str, Any]) -> None:
        try:
            result = operation(message)
        except EngineError as error:
            result = {"error": {"kind": error.kind, "fact": error.fact, "next_step": error.next_step}}
        except MemoryError as error:
            result = {
                "error": {"kind": "memory", "fact": f"no memory left ({error})" if str(error) else "no memory left"}
            }
        except Exception as error:  # noqa: BLE001 - the host must hear of everything
            text = f"{type(error).__name__}: {error}"
            result = {"error": {"kind": "worker", "fact": f"{message.get('op')}: {text[:2000]}"}}
        self.outbox.send("reply", id=message.get("id", 0), **result)

    def _load(self, message: dict[str, Any]) -> dict[str, Any]:
        started = time.perf_counter_ns()
        module, name = ENGINES.get(str(message["kind"]), ENGINES[""])
        setting = Setting(
            kind=str(message["kind"]),
            location=str(message["location"]),
            dtype=str(message["dtype"]),
            weights=str(message["weights"]),
            parameters=dict(message["parameters"]),
            numbers=dict(message["numbers"]),
            replica=int(message["replica"]),
            cpus=sorted(os.sched_getaffinity(0)),
            say=self._reporter.say,
            tell=self._reporter.tell,
            output=self._output,
        )
        self._reporter.say("loading the model")
        try:
            engine: Engine = getattr(imported(module), name)(setting)
        except ImportError as error:
            raise EngineError(
                f"model {setting.location}: {error} (Python {sys.version.split()[0]}, {sys.executable})",
                "install torch and transformers where the worker runs, or name another Python",
            ) from error
        model = self._slots.run(0, engine.load).result()
        self._engine = engine
        self._requests = Requests(engine, self._slots, self._reporter)
        self._reporter.stage = "loaded"
        return {
            "model": model,
            "versions": engine.versions(),
            "threads": engine.threads,
            "batch": engine.batch,
            "load_ns": time.perf_counter_ns() - started,
            "anchor": protocol.clock_anchor(),
            "stamp_ns": recorder.stamp_cost_ns(),
        }

    def _prompt(self, message: dict[str, Any]) -> dict[str, Any]:
        if message.get("first"):
            self._prompts = []
        self._prompts.append(message["prompt"])
        return {}

    def _prepare(self, message: dict[str, Any]) -> dict[str, Any]:
        self._loaded().prepare(message["work"], self._prompts)
        self._reporter.flush()
        return {"anchor": protocol.clock_anchor()}

    def _start(self, message: dict[str, Any]) -> dict[str, Any]:
        before = self._reporter.cpu_ns
        late_ns = self._loaded().measure(int(message["at_ns"]))
        reporter_ns = self._reporter.cpu_ns - before
        self._reporter.flush()
        return {"late_ns": late_ns, "reporter_cpu_ns": reporter_ns, "anchor": protocol.clock_anchor()}

    def _generate(self, message: dict[str, Any]) -> dict[str, Any]:
        ready, done = self._loaded().single(message["prompt"], int(message["max_new_tokens"]))
        assert self._engine is not None
        text, ids = self._engine.decode(done, 0)
        stamps, tokens = done.events()
        for start in range(0, len(stamps), protocol.EVENTS_A_LINE):
            end = start + protocol.EVENTS_A_LINE
            part = protocol.pack_events(stamps[start:end], tokens[start:end])
            self.outbox.send("part", id=message["id"], start=start, ids=ids[start:end], **part)
        rest = ids[len(stamps) :]
        return {
            "submit_ns": done.submit_ns,
            "end_ns": done.end_ns,
            "prompt_tokens": ready.tokens,
            "ids": rest[: protocol.MAX_LINE // 16],
            "text": text[: protocol.MAX_LINE // 16],
        }

    def _reference(self, message: dict[str, Any]) -> dict[str, Any]:
        engine = self._engine or Engine()
        cpus = sorted(os.sched_getaffinity(0))
        beside = frozenset(int(cpu) for cpu in message.get("beside", ()))

        def load() -> dict[str, Any]:
            engine.share(1)
            return reference.reference_load(cpus, engine.multiply, beside)

        self._reporter.say("reference load")
        result: dict[str, Any] = self._slots.run(0, load).result()
        return result

    def _sample(self, message: dict[str, Any]) -> dict[str, Any]:
        self._unsample(message)
        self._sampling = files.Sampling([str(path) for path in message["paths"]], float(message["hz"]), self.outbox)
        return {}

    def _unsample(self, _: dict[str, Any]) -> dict[str, Any]:
        if self._sampling is not None:
            self._sampling.stop()
            self._sampling = None
        return {}

    def _loaded(self) -> Requests:
        if self._requests is None:
            raise EngineError("no model is loaded", "send load first", "worker")
        return self._requests


def unknown(message: dict[str, Any]) -> dict[str, Any]:
    """The answer to an operation that this version does not have."""
    raise EngineError(
        f"unknown operation {message.get('op')!r}", f"this worker speaks version {protocol.VERSION}", "worker"
    )


def imported(name: str) -> ModuleType:
    """A module, imported without looking for garbage: of the million objects that torch and transformers make, all
    live on, and going through them again and again takes an eighth of an engine's start."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        if collecting:
            gc.enable()
