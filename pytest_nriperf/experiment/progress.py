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
    clock: Callable[[], float] = time.monotonic
    _started_s: float = 0.0
    _run: int = 0
    _run_started_s: float = 0.0
    _tokens: dict[int, int] = field(default_factory=dict)
    _first_seen_s: float = 0.0
    _first_tokens: int = 0

    def __post_init__(self) -> None:
        self._started_s = self.clock()

    def begin(self, run: int) -> None:
        """A run begins with loading."""
        self._run, self._run_started_s = run, self.clock()
        self._tokens = {}
        self.tell("loading")

    def progress(self, progress: Progress) -> None:
        """A replica reported; may be called from any thread."""
        if not self._tokens:
            self._first_seen_s, self._first_tokens = self.clock(), progress.tokens
        self._tokens[progress.replica] = progress.tokens
        self.tell("measuring")

    def tell(self, phase: str) -> None:
        """Show where we are."""
        now = self.clock()
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
        if phase == "measuring" and tokens > self._first_tokens:
            # Loading is over when tokens come: it says nothing of how long the rest of them takes.
            each_token = (now - self._first_seen_s) / (tokens - self._first_tokens)
            left_in_run = each_token * max(0, self.tokens_expected - tokens)
        done = self._run - 1
        if done <= 0:
            return None if left_in_run is None else left_in_run + (in_run + left_in_run) * (self.runs - self._run)
        each = (self._run_started_s - self._started_s) / done
        rest = max(each - in_run, 0.0) if left_in_run is None else left_in_run
        return rest + each * (self.runs - self._run)
