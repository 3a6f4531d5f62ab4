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
        done = self._run - 1
        if done > 0:
            each = (self._run_started_s - self._started_s) / done
            return max(0.0, each * (self.runs - done) - (now - self._run_started_s))
        if phase == "measuring" and tokens:
            share = min(1.0, tokens / self.tokens_expected)
            return (now - self._run_started_s) * (self.runs / share - 1)
        return None
