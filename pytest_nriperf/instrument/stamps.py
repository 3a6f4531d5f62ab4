"""Decorators that stamp: when a call began and ended, when a generator gave an item."""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

Sink = Callable[[tuple[str, int, int]], None]


def stamped(sink: Sink, clock: Callable[[], int] = time.perf_counter_ns) -> Callable[..., Callable[..., Any]]:
    """A decorator whose replacement tells `sink` (kind, start_ns, t_ns); `list.append` is a good sink.

    Kinds: `call` (a call from start to end), `raise` (it ended with an exception), and for what generators give `item`
    and at their end `call`. Start is when the call began, on the same clock. Works on functions, coroutine functions,
    generator and asynchronous generator functions; a generator stays lazy and keeps its `send`, `throw` and `close`.

    >>> events = []
    >>> @stamped(events.append, clock=iter(range(10)).__next__)
    ... def two():
    ...     yield "a"
    ...     yield "b"
    >>> list(two()), events
    (['a', 'b'], [('item', 0, 1), ('item', 0, 2), ('call', 0, 3)])
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isasyncgenfunction(function):
            return _stamped_asynchronous_generator(function, sink, clock)
        if inspect.iscoroutinefunction(function):
            return _stamped_coroutine(function, sink, clock)
        if inspect.isgeneratorfunction(function):
            return _stamped_generator(function, sink, clock)
        return _stamped_function(function, sink, clock)

    return decorate


def _stamped_function(function: Callable[..., Any], sink: Sink, clock: Callable[[], int]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        start = clock()
        try:
            result = function(*args, **kwargs)
        except BaseException:
            sink(("raise", start, clock()))
            raise
        sink(("call", start, clock()))
        return result

    return call


def _stamped_coroutine(function: Callable[..., Any], sink: Sink, clock: Callable[[], int]) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        start = clock()
        try:
            result = await function(*args, **kwargs)
        except BaseException:
            sink(("raise", start, clock()))
            raise
        sink(("call", start, clock()))
        return result

    return call


def _stamped_generator(function: Callable[..., Any], sink: Sink, clock: Callable[[], int]) -> Callable[..., Any]:
    def generate(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        start = clock()

        def items() -> Generator[Any, Any, Any]:
            source = function(*args, **kwargs)
            try:
                item = next(source)
                while True:
                    sink(("item", start, clock()))
                    try:
                        sent = yield item
                    except GeneratorExit:
                        source.close()
                        raise
                    except BaseException as error:  # noqa: BLE001 - thrown into the generator, whatever it is
                        item = source.throw(error)
                    else:
                        item = source.send(sent)
            except StopIteration as end:
                sink(("call", start, clock()))
                return end.value
            except BaseException:
                sink(("raise", start, clock()))
                raise

        return items()

    return generate


def _stamped_asynchronous_generator(
    function: Callable[..., Any], sink: Sink, clock: Callable[[], int]
) -> Callable[..., Any]:
    async def generate(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        start = clock()
        source = function(*args, **kwargs)
        try:
            async for item in source:
                sink(("item", start, clock()))
                yield item
        except BaseException:
            sink(("raise", start, clock()))
            await source.aclose()
            raise
        sink(("call", start, clock()))

    return generate
