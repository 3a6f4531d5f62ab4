"""What a session and its observer on a node say to each other: a JSON object a line, readings packed.

session -> observer   {"op": "choose", ...}          which collectors, and the line that says what they give
                      {"op": "health", ...}          what only trying tells: PCM, multiplexing, leftovers of resctrl
                      {"op": "sample", ...}          read them for a target, until {"op": "stop"}
observer -> session   chosen | refused, health
                      started, rows (each second while there are some), beat, stopped
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from pytest_nriperf.errors import CollectorError
from pytest_nriperf.seams import CounterRow, Target, TargetReplica

Message = dict[str, Any]

# Readings a line: some 40 kB packed.
ROWS_A_LINE = 4000


def encode(message: Message) -> bytes:
    """The line of a message."""
    return json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"


def decode(line: bytes) -> Message:
    """The message of a line. Raises CollectorError."""
    try:
        message = json.loads(line)
    except ValueError as error:
        raise CollectorError(f"the observer wrote no message: {line[:80]!r}") from error
    if not isinstance(message, dict):
        raise CollectorError(f"the observer wrote no message: {line[:80]!r}")
    return message


def row_messages(rows: Sequence[CounterRow]) -> Iterator[Message]:
    """Readings as messages of a limited size. Integers stay integers, nan and infinities pass."""
    for first in range(0, len(rows), ROWS_A_LINE):
        text = json.dumps(rows[first : first + ROWS_A_LINE], separators=(",", ":")).encode("ascii")
        # Names and stamps repeat: the fastest level already leaves a tenth.
        yield {"type": "rows", "data": base64.b64encode(zlib.compress(text, 1)).decode("ascii")}


def rows_of(message: Message) -> list[CounterRow]:
    """The readings of a message. Raises CollectorError."""
    try:
        return [CounterRow(*row) for row in json.loads(zlib.decompress(base64.b64decode(message["data"])))]
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise CollectorError(f"damaged readings from the observer: {error}") from error


def pack_target(target: Target) -> Message:
    """A target as JSON takes it."""
    return {
        "replicas": [[one.replica, one.pid, sorted(one.allocated), sorted(one.visible)] for one in target.replicas],
        "sockets": sorted(target.socket_of_cpu.items()),
        "nodes": sorted(target.node_of_cpu.items()),
    }


def target_of(message: Message) -> Target:
    """The target again."""
    return Target(
        tuple(
            TargetReplica(replica, pid, frozenset(allocated), frozenset(visible))
            for replica, pid, allocated, visible in message["replicas"]
        ),
        dict(message["sockets"]),
        dict(message["nodes"]),
    )
