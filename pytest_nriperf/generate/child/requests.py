"""Runs requests on an engine: slots (threads that live as long as the worker), warm-up, the common instant."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pytest_nriperf.generate.child.engine import Engine, EngineError, Input
from pytest_nriperf.generate.child.recorder import Recorder
from pytest_nriperf.generate.child.reporter import Call, Reporter

SPIN_NS = 1_000_000


class Slots:
    """Threads that call the engine. They stay, since OpenMP keeps a team of threads for every thread that calls it."""

    def __init__(self) -> None:
        self._slots: list[ThreadPoolExecutor] = []
        self._busy: dict[int, int] = {}
        self._lock = threading.Lock()

    def run(self, number: int, function: Callable[[], Any]) -> Future[Any]:
        """Run on this slot, after what it has to do already."""
        with self._lock:
            return self._submit(number, function)

    def run_on_idle(self, function: Callable[[], Any]) -> None:
        """Run on the first slot that has nothing to do."""
        with self._lock:
            number = next(number for number in itertools.count() if not self._busy.get(number))
            self._submit(number, function)

    def _submit(self, number: int, function: Callable[[], Any]) -> Future[Any]:
        while len(self._slots) <= number:
            name = f"slot{len(self._slots)}"
            self._slots.append(ThreadPoolExecutor(max_workers=1, thread_name_prefix=name))
        self._busy[number] = self._busy.get(number, 0) + 1

        def counted() -> Any:
            try:
                return function()
            finally:
                with self._lock:
                    self._busy[number] -= 1

        return self._slots[number].submit(counted)


class Requests:
    """The requests of this worker: numbered from 0, warm-up first."""

    def __init__(self, engine: Engine, slots: Slots, reporter: Reporter) -> None:
        self._engine = engine
        self._slots = slots
        self._reporter = reporter
        self._work: dict[str, Any] = {}
        self._prompts: list[tuple[str, Input]] = []
        self._next = 0
        self._single = itertools.count(1 << 40)

    def prepare(self, work: dict[str, Any], prompts: list[dict[str, Any]]) -> None:
        """Tokenise, warm every slot up, freeze the garbage collector; then only `measure` is missing."""
        self._work = work
        encode = self._engine.encode
        self._prompts = [(str(p["prompt_id"]), encode(p.get("text"), p.get("tokens"))) for p in prompts]
        for _, ready in self._prompts:
            self._engine.check(ready.tokens, int(work["max_new_tokens"]))
        warmup = int(work["warmup"])
        if warmup:
            warmup = max(warmup, int(work["concurrency"])) * self._engine.batch
            self._reporter.say("warming up")
            self._run("warmup", warmup, None)
        gc.collect()
        gc.freeze()
        gc.disable()

    def measure(self, at_ns: int) -> int:
        """All requests from the instant `at_ns` on; by how much the instant had passed already, nanoseconds."""
        self._reporter.say("measuring")
        late_ns = max(0, time.perf_counter_ns() - at_ns)
        try:
            self._run("measure", int(self._work["requests"]), at_ns)
        finally:
            gc.enable()
            gc.unfreeze()
            self._reporter.stage = "done"
        return late_ns

    def single(self, prompt: dict[str, Any], max_new_tokens: int) -> tuple[Input, Recorder]:
        """One request beside the others, not reported."""
        ready = self._engine.encode(prompt.get("text"), prompt.get("tokens"))
        self._engine.check(ready.tokens, max_new_tokens)
        self._engine.share(1)
        recorder = self._engine.recorder(1)
        recorder.submit_ns = time.perf_counter_ns()
        self._engine.generate([ready], max_new_tokens, recorder, next(self._single))
        recorder.end_ns = time.perf_counter_ns()
        return ready, recorder

    def _run(self, phase: str, count: int, at_ns: int | None) -> None:
        first, last = self._next, self._next + count
        self._next = last
        batch = self._engine.batch
        starts = iter(range(first, last, batch))
        slots = int(self._work["concurrency"])

        def loop() -> None:
            self._engine.share(slots)
            if at_ns is not None:
                wait_until(at_ns)
            for start in starts_of(starts):
                self._call(phase, list(range(start, min(start + batch, last))), first)

        for done in [self._slots.run(number, loop) for number in range(slots)]:
            done.result()

    def _call(self, phase: str, requests: list[int], first: int) -> None:
        chosen = [self._prompts[(request - first) % len(self._prompts)] for request in requests]
        recorder = self._engine.recorder(len(requests))
        call = Call(requests, phase, [(prompt_id, ready.tokens) for prompt_id, ready in chosen], recorder)
        self._reporter.begin(call)
        recorder.submit_ns = time.perf_counter_ns()
        try:
            self._engine.generate(
                [ready for _, ready in chosen], int(self._work["max_new_tokens"]), recorder, requests[0]
            )
        except MemoryError:
            raise
        except EngineError as error:
            recorder.error = error.fact
        except Exception as error:  # noqa: BLE001 - whatever an engine raises is one failed request
            recorder.error = f"{type(error).__name__}: {error}"
        recorder.end_ns = time.perf_counter_ns()
        self._reporter.end(call)


def starts_of(numbers: Any) -> Any:
    """Numbers shared by several threads: each takes the next (one step of a range iterator is atomic)."""
    return iter(lambda: next(numbers, -1), -1)


def wait_until(at_ns: int) -> None:
    """Sleep until a millisecond before the instant and spin the rest."""
    rest = at_ns - time.perf_counter_ns()
    if rest > SPIN_NS:
        time.sleep((rest - SPIN_NS) / 1e9)
    while time.perf_counter_ns() < at_ns:
        pass
