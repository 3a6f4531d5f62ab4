"""How far a measurement is: plain values, handed to whoever shows them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from pytest_nriperf.seams import Progress


class Stage(NamedTuple):
    """One moment of a measurement. `phase`: loading, measuring, writing, done. Times in seconds, None when unknown."""

    test: str
    phase: str
    run: int
    runs: int
    replicas: int
    tokens: int
    tokens_expected: int
    elapsed_s: float
    left_s: float | None


Show = Callable[[Stage], None]


@dataclass
class Tracker:
    """Turns what replicas report into stages; estimates the time left from the runs that are done."""

    test: str
    runs: int
    replicas: int
    tokens_expected: int
    show: Show
    _started_s: float = field(default_factory=time.monotonic)
    _run: int = 0
    _run_started_s: float = 0.0
    _tokens: dict[int, int] = field(default_factory=dict)

    def begin(self, run: int) -> None:
        """A run begins with loading."""
        self._run, self._run_started_s = run, time.monotonic()
        self._tokens = {}
        self.tell("loading")

    def progress(self, progress: Progress) -> None:
        """A replica reported; may be called from any thread."""
        self._tokens[progress.replica] = progress.tokens
        self.tell("measuring")

    def tell(self, phase: str) -> None:
        """Show where we are."""
        now = time.monotonic()
        tokens = sum(self._tokens.values())
        self.show(
            Stage(
                self.test,
                phase,
                self._run,
                self.runs,
                self.replicas,
                tokens,
                self.tokens_expected,
                now - self._started_s,
                self._left(now, tokens, phase),
            )
        )

    def _left(self, now: float, tokens: int, phase: str) -> float | None:
        in_run = now - self._run_started_s
        left_in_run = None
        if phase == "measuring" and tokens:
            left_in_run = in_run * (1 / min(1.0, tokens / self.tokens_expected) - 1)
        done = self._run - 1
        if done <= 0:
            return None if left_in_run is None else left_in_run + (in_run + left_in_run) * (self.runs - self._run)
        each = (self._run_started_s - self._started_s) / done
        rest = max(each - in_run, 0.0) if left_in_run is None else left_in_run
        return rest + each * (self.runs - self._run)
