"""An engine in the shape of transformers, without its weight."""

from __future__ import annotations

from typing import Any


class Ids:
    """So many numbers of a shape."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def numel(self) -> int:
        product = 1
        for size in self.shape:
            product *= size
        return product


class GenerationMixin:
    """Streams the prompt, then a token a step for every row."""

    def generate(self, inputs: Ids, generation_config: Any = None, streamer: Any = None, **kwargs: Any) -> str:
        if streamer is not None and kwargs.get("num_beams", 1) > 1:
            raise ValueError("no streamer with beams")
        if streamer is not None:
            streamer.put(inputs)
        for step in range(kwargs.get("max_new_tokens", 3)):
            if streamer is not None:
                streamer.put(Ids(inputs.shape[0]))
            if step == kwargs.get("fails_at"):
                raise RuntimeError("out of ideas")
        if streamer is not None:
            streamer.end()
        return "answer"


class Printer:
    """A program's own streamer."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.ended = False

    def put(self, value: Ids) -> None:
        self.seen.append(value.numel())

    def end(self) -> None:
        self.ended = True


def make_printer() -> Printer:
    """A factory of streamers."""
    return Printer()
