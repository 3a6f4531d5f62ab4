"""Faults between the client and the server, by plan or at random."""

from __future__ import annotations

import random
import re
import threading
from dataclasses import dataclass, field

from tests.kubernetes.double.answers import Refused, status
from tests.kubernetes.double.api import Request


@dataclass
class Fault:
    """One kind of trouble for requests that match `METHOD path`, at most `times` times.

    `effect`: `latency` (`value` seconds), `reset` (the connection ends before anything is done), `lost` (it is done,
    the answer never comes), `cut` (a watch, log or exec stream ends after `value` seconds), `short` (an exec's stream
    ends when it has carried `value` bytes), `500`, `503`, or `429` with Retry-After `value`.
    """

    effect: str
    match: str = ".*"
    value: float = 0.0
    times: int = 1
    chance: float = 1.0


@dataclass
class Faults:
    """The plan. `chance`s use a generator of a fixed seed."""

    plan: list[Fault] = field(default_factory=list)
    seed: int = 0
    seen: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()

    def add(self, *faults: Fault) -> None:
        """More trouble."""
        with self._lock:
            self.plan += faults

    def clear(self) -> None:
        """No more trouble."""
        with self._lock:
            self.plan.clear()

    def take(self, request: Request, effects: tuple[str, ...]) -> Fault | None:
        """The first fault of these effects that hits this request."""
        line = f"{request.method} {request.target}"
        with self._lock:
            for fault in self.plan:
                if fault.effect in effects and fault.times > 0 and re.search(fault.match, line):
                    if self._random.random() >= fault.chance:
                        continue
                    fault.times -= 1
                    self.seen.append(f"{fault.effect} {line}")
                    return fault
        return None

    def refuse(self, request: Request) -> None:
        """Refused where an error answer is due."""
        fault = self.take(request, ("429", "500", "503"))
        if fault is None:
            return
        if fault.effect == "429":
            text = "the server has received too many requests and has asked us to try again later"
            seconds = str(max(1, round(fault.value))) if fault.value else "0"
            raise Refused(429, status(429, "TooManyRequests", text, {}), (("Retry-After", seconds),))
        reason = {"500": "InternalError", "503": "ServiceUnavailable"}[fault.effect]
        code = int(fault.effect)
        raise Refused(code, status(code, reason, "an error on the server has prevented the request from succeeding"))
