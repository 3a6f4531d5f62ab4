"""Lines between host and worker: one JSON object a line, versioned, of limited size (docs/worker-protocol.md)."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

VERSION = 1
MAX_LINE = 1 << 20
EVENTS_A_LINE = 512

Message = dict[str, Any]


class ProtocolError(Exception):
    """A line that is no message."""


def encode(message: Message) -> bytes:
    """The line of a message, newline included. Raises ProtocolError above MAX_LINE.

    >>> encode({"op": "ping", "id": 1})
    b'{"op":"ping","id":1}\\n'
    """
    line = json.dumps(message, separators=(",", ":"), ensure_ascii=True).encode("ascii") + b"\n"
    if len(line) > MAX_LINE:
        raise ProtocolError(f"a message of {len(line)} bytes is longer than {MAX_LINE}")
    return line


def decode(line: bytes) -> Message:
    """The message of a line. Raises ProtocolError.

    >>> decode(b'{"op":"ping","id":1}\\n')
    {'op': 'ping', 'id': 1}
    """
    if len(line) > MAX_LINE:
        raise ProtocolError(f"a line of {len(line)} bytes is longer than {MAX_LINE}")
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"no JSON: {line[:80]!r}") from error
    if not isinstance(message, dict):
        raise ProtocolError(f"no JSON object: {line[:80]!r}")
    return message


def pack_events(stamps: Sequence[int], tokens: Sequence[int]) -> Message:
    """Events as a first stamp and differences.

    >>> pack_events([100, 105, 111], [0, 1, 1])
    {'t': [100, 5, 6], 'n': [0, 1, 1]}
    """
    before = 0
    differences = []
    for stamp in stamps:
        differences.append(stamp - before)
        before = stamp
    return {"t": differences, "n": list(tokens)}


def unpack_events(message: Message) -> tuple[list[int], list[int]]:
    """Stamps and tokens of a message. Raises ProtocolError.

    >>> unpack_events({'t': [100, 5, 6], 'n': [0, 1, 1]})
    ([100, 105, 111], [0, 1, 1])
    """
    try:
        differences, tokens = message["t"], message["n"]
        stamps, now = [], 0
        for difference in differences:
            now += difference
            stamps.append(now)
    except (KeyError, TypeError) as error:
        raise ProtocolError(f"damaged stamps: {error}") from error
    if len(stamps) != len(tokens) or not all(type(n) is int and n >= 0 for n in tokens) or type(now) is not int:
        raise ProtocolError(f"damaged stamps: {len(stamps)} times, {len(tokens)} counts")
    return stamps, tokens


class Lines:
    """Cuts a stream of bytes into lines of at most MAX_LINE; a piece may end anywhere."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The lines that `piece` completes. Raises ProtocolError when a line gets too long.

        >>> lines = Lines()
        >>> list(lines.feed(b'{"a":1}\\n{"b"')), list(lines.feed(b':2}\\n'))
        ([b'{"a":1}\\n'], [b'{"b":2}\\n'])
        """
        start = len(self._rest)
        self._rest += piece
        while True:
            end = self._rest.find(b"\n", start)
            if end < 0:
                break
            line = bytes(self._rest[: end + 1])
            del self._rest[: end + 1]
            start = 0
            yield line
        if len(self._rest) > MAX_LINE:
            raise ProtocolError(f"a line is longer than {MAX_LINE} bytes")


class Outbox:
    """Numbers each message and writes it with `write`, which takes a whole line.

    When it raises OSError the host is gone: the reader finds out too, and ends the worker.
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._sequence = 0

    def send(self, type_: str, **fields: Any) -> None:
        """Send a message of this type."""
        with self._lock:
            line = encode({"seq": self._sequence + 1, "type": type_, **fields})
            self._sequence += 1
            with contextlib.suppress(OSError):
                self._write(line)


def write_all(descriptor: int) -> Callable[[bytes], None]:
    """A function that writes whole lines to a descriptor."""

    def write(line: bytes) -> None:
        view = memoryview(line)
        while view:
            view = view[os.write(descriptor, view) :]

    return write


def clock_anchor() -> list[int]:
    """The same moment on the wall, monotonic and boot clock, nanoseconds; the closest of five readings."""
    best: list[int] = []
    width = None
    for _ in range(5):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        wall = time.time_ns()
        boot = time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        if width is None or after - before < width:
            best, width = [wall, (before + after) // 2, boot], after - before
    return best
