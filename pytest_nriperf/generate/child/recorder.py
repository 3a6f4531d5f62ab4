"""The token stamp: one closure that reads the clock and appends, and the events that it leaves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def one(value: Any) -> int:
    """The number of tokens of an event that carries its own number."""
    return int(value)


class Recorder:
    """Events of one generation: `put(value)` stamps one, the first is the prompt's.

    The value is kept as it is, and counted by `count` when somebody asks, never while the engine waits. `rows` is the
    batch size: every row sees the same stamps, an event of V tokens gives V / rows to each.
    """

    def __init__(self, rows: int = 1, count: Callable[[Any], int] = one) -> None:
        self.rows = rows
        self.stamps: list[int] = []
        self.values: list[Any] = []
        self.submit_ns = 0
        self.end_ns = 0
        self.error = ""
        self._count = count
        self.put = stamper(self.stamps, self.values)

    def events(self, start: int = 0) -> tuple[list[int], list[int]]:
        """Stamps and tokens a row of the events from number `start` on; callable while the engine still stamps."""
        stop = len(self.values)
        tokens = [self._count(value) // self.rows for value in self.values[start:stop]]
        if start == 0 and tokens:
            tokens[0] = 0
        return self.stamps[start:stop], tokens


def stamper(stamps: list[int], values: list[Any]) -> Callable[[Any], None]:
    """`put(value)`: the clock first, then the value; two appends bound beforehand, 0.1 to 0.3 us together."""

    def put(
        value: Any,
        clock: Callable[[], int] = time.perf_counter_ns,
        stamp: Callable[[int], None] = stamps.append,
        keep: Callable[[Any], None] = values.append,
    ) -> None:
        stamp(clock())
        keep(value)

    return put


def stamp_cost_ns(times: int = 2000) -> float:
    """What one stamp costs in this process, nanoseconds (mean over `times`, loop included)."""
    recorder = Recorder()
    put = recorder.put
    before = time.perf_counter_ns()
    for _ in range(times):
        put(1)
    return (time.perf_counter_ns() - before) / times
