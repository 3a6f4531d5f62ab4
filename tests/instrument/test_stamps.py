"""Stamps of calls, coroutines and what generators give."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from pytest_nriperf.instrument.stamps import stamped
from pytest_nriperf.instrument.wrap import wrap

Events = list[tuple[str, int, int]]


def test_a_call_has_its_start_and_end_also_when_it_raises() -> None:
    events: Events = []
    divide = stamped(events.append, itertools.count().__next__)(lambda a, b: a // b)
    assert divide(6, 3) == 2
    with pytest.raises(ZeroDivisionError):
        divide(1, 0)
    assert events == [("call", 0, 1), ("raise", 2, 3)]


def test_a_generator_stays_a_generator() -> None:
    events: Events = []
    closed: list[str] = []

    def talk() -> Iterator[str]:
        try:
            heard = yield "hello"
            try:
                yield f"you said {heard}"
            except KeyError:
                yield "caught"
        finally:
            closed.append("closed")

    conversation = stamped(events.append, itertools.count().__next__)(talk)()
    assert events == []
    assert next(conversation) == "hello"
    assert conversation.send("hi") == "you said hi"
    assert conversation.throw(KeyError()) == "caught"
    conversation.close()
    assert closed == ["closed"]
    assert [kind for kind, _, _ in events] == ["item", "item", "item", "raise"]


def test_a_generator_returns_its_value() -> None:
    def count() -> Iterator[int]:
        yield 1
        return "done"  # type: ignore[return-value]

    def outer() -> Iterator[int]:
        result.append((yield from stamped(lambda _: None)(count)()))

    result: list[str] = []
    assert list(outer()) == [1]
    assert result == ["done"]


def test_coroutines_and_asynchronous_generators_are_stamped() -> None:
    events: Events = []
    decorate = stamped(events.append, itertools.count().__next__)

    async def answer() -> int:
        return 42

    async def stream() -> AsyncIterator[int]:
        yield 1
        yield 2

    async def both() -> tuple[int, list[int]]:
        return await decorate(answer)(), [item async for item in decorate(stream)()]

    assert asyncio.run(both()) == (42, [1, 2])
    assert [kind for kind, _, _ in events] == ["call", "item", "item", "call"]


def test_a_streamers_method_is_stamped_through_wrap() -> None:
    class Streamer:
        def __init__(self) -> None:
            self.text: list[str] = []

        def put(self, text: str) -> None:
            self.text.append(text)

    events: Events = []
    streamer = Streamer()
    undo = wrap(Streamer, "put", stamped(events.append))
    streamer.put("a")
    undo()
    streamer.put("b")
    assert streamer.text == ["a", "b"]
    assert len(events) == 1
    assert events[0][1] <= events[0][2]
