"""What the worker asks of an engine, and how an engine refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_nriperf.generate.child.recorder import Recorder


class EngineError(Exception):
    """A fact and a next step.

    `kind`: model (does not exist, cannot be loaded), memory, request (cannot be asked), engine.
    """

    def __init__(self, fact: str, next_step: str = "", kind: str = "model") -> None:
        super().__init__(fact)
        self.fact = fact
        self.next_step = next_step
        self.kind = kind


@dataclass(frozen=True)
class Setting:
    """What the host asks for: the parts of a model choice, and where this worker stands.

    `cpus` are the CPUs that this process may use, `say` tells people what takes long, `tell` what happens once,
    `output` is the protocol's descriptor (only the simulated engine's mistakes touch it).
    """

    kind: str
    location: str
    dtype: str
    weights: str
    parameters: dict[str, str]
    replica: int
    cpus: list[int]
    say: Callable[[str], None]
    tell: Callable[[str], None]
    output: int = -1
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Input:
    """A prompt made ready: `tokens` long, `content` is the engine's own."""

    tokens: int
    content: Any


class Engine:
    """One engine. `batch` requests share one call of `generate`; `threads` is the size of its thread pool."""

    batch = 1
    threads = 1

    def load(self) -> dict[str, Any]:
        """Load the model; its facts (name, revision, hash, dtype, weight_bytes, kv_bytes_per_token, ...)."""
        raise NotImplementedError

    def versions(self) -> dict[str, str]:
        """Versions of the libraries that do the work."""
        raise NotImplementedError

    def share(self, slots: int) -> None:
        """Called by each of `slots` threads that are going to generate at the same time."""

    def encode(self, text: str | None, tokens: int | None) -> Input:
        """Make a prompt ready: a text, or a number of tokens to make up."""
        raise NotImplementedError

    def check(self, tokens: int, max_new_tokens: int) -> None:
        """Raise EngineError when a prompt of this length and so many new tokens do not fit the model."""

    def recorder(self, rows: int) -> Recorder:
        """A recorder that counts this engine's events."""
        raise NotImplementedError

    def generate(self, inputs: Sequence[Input], max_new_tokens: int, recorder: Recorder, request: int) -> None:
        """Generate exactly `max_new_tokens` for each input, calling `recorder.put` for the prompt and each event.

        An engine that has to arrange its inputs first sets `recorder.submit_ns` anew when it has.
        """
        raise NotImplementedError

    def decode(self, recorder: Recorder, row: int) -> tuple[str, list[int]]:
        """Text and token ids of one row."""
        raise NotImplementedError

    def multiply(self) -> tuple[str, int]:
        """Do one small matrix product: what it was, and its floating point operations."""
        size = 40
        left = [[float(i ^ j) for j in range(size)] for i in range(size)]
        right = list(zip(*left))
        for row in left:
            for column in right:
                sum([a * b for a, b in zip(row, column)])
        return f"python float64 {size}x{size}", 2 * size**3
