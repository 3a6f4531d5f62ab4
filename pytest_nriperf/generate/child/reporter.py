"""Tells the host what happens, from a thread of its own: stamps in chunks, finished requests, signs of life.

The engine's threads only append to lists; they never encode or write while they measure.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

from pytest_nriperf.generate.child.protocol import EVENTS_A_LINE, Outbox, pack_events
from pytest_nriperf.generate.child.recorder import Recorder

BEAT_S = 1.0


@dataclass
class Call:
    """One call of the engine: `requests` and `prompts` (id, tokens) row by row, `sent` events reported so far."""

    requests: list[int]
    phase: str
    prompts: list[tuple[str, int]]
    recorder: Recorder
    sent: int = 0


class Reporter:
    """Reports running and finished calls each second, and at once when told to flush."""

    def __init__(self, outbox: Outbox) -> None:
        self.stage = "started"
        self.cpu_ns = 0
        self._outbox = outbox
        self._lock = threading.Lock()
        self._running: list[Call] = []
        self._finished: deque[Call] = deque()
        self._thread = threading.Thread(target=self._beat, name="reporter", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def say(self, stage: str) -> None:
        """Tell people what takes time."""
        self.stage = stage
        self._outbox.send("beat", stage=stage, t_ns=time.perf_counter_ns())

    def tell(self, stage: str) -> None:
        """The same for what happens once and that people should know: it stays on their screen."""
        self.stage = stage
        self._outbox.send("beat", stage=stage, t_ns=time.perf_counter_ns(), notice=True)

    def begin(self, call: Call) -> None:
        """A call starts."""
        self._running.append(call)

    def end(self, call: Call) -> None:
        """A call is over."""
        self._finished.append(call)

    def flush(self) -> None:
        """Report all that is known."""
        with self._lock:
            finished = len(self._finished)
            for call in list(self._running):
                self._send_events(call)
            for _ in range(finished):
                call = self._finished.popleft()
                self._send_events(call)
                self._running.remove(call)
                self._send_rows(call)

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_S)
            before = time.thread_time_ns()
            self._outbox.send("beat", stage=self.stage, t_ns=time.perf_counter_ns())
            self.flush()
            self.cpu_ns += time.thread_time_ns() - before

    def _send_events(self, call: Call) -> None:
        stamps, tokens = call.recorder.events(call.sent)
        for start in range(0, len(stamps), EVENTS_A_LINE):
            part = pack_events(stamps[start : start + EVENTS_A_LINE], tokens[start : start + EVENTS_A_LINE])
            for request in call.requests:
                self._outbox.send("stamps", request=request, start=call.sent + start, **part)
        call.sent += len(stamps)

    def _send_rows(self, call: Call) -> None:
        recorder = call.recorder
        for request, (prompt_id, prompt_tokens) in zip(call.requests, call.prompts):
            self._outbox.send(
                "request",
                request=request,
                phase=call.phase,
                prompt_id=prompt_id,
                submit_ns=recorder.submit_ns,
                end_ns=recorder.end_ns,
                prompt_tokens=prompt_tokens,
                events=call.sent,
                status="failed" if recorder.error else "ok",
                error=recorder.error[:500],
            )
