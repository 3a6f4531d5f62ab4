"""From the bytes of a streamed answer, and when each piece was read, to token events. Pure.

A server's events and the client's reads do not match: several events may arrive in one read. Every event gets the
stamp of the read that completed it, and events of one read are one event, since that is when their tokens were there.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a stream held. `estimated` says that tokens were counted without the server's own numbers.

    `stamps_ns` and `tokens` are events with at least one token; `merged` is how many server events shared a read with
    an earlier one. `error` is empty when the stream is whole.
    """

    text: str = ""
    stamps_ns: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    prompt_tokens: int | None = None
    estimated: bool = False
    merged: int = 0
    error: str = ""


@dataclass
class _Stream:
    stamps: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    counted: int = 0
    continuous: bool | None = None
    total: int | None = None
    prompt: int | None = None
    finished: bool = False
    error: str = ""


def read_answer(pieces: Sequence[tuple[int, bytes]], *, chunked: bool) -> Answer:
    """The events of an HTTP body read in `pieces` (when, bytes); `chunked` when it has chunk framing.

    >>> body = b'data: {"choices":[{"text":"a"}]}' + bytes([10, 10]) + b'data: [DONE]' + bytes([10])
    >>> answer = read_answer([(5, body)], chunked=False)
    >>> answer.text, answer.stamps_ns, answer.tokens, answer.error
    ('a', (5,), (1,), '')
    """
    stream = _Stream()
    for stamp, payload in _payloads(pieces, chunked):
        if payload == "[DONE]":
            stream.finished = True
            break
        try:
            _take(stream, stamp, json.loads(payload))
        except (ValueError, TypeError, AttributeError, KeyError, IndexError):
            stream.error = stream.error or f"the server sent {payload[:80]!r}, no event of this kind"
    return _answer(stream)


def fitted(counts: Sequence[int], texts: Sequence[str], total: int) -> list[int]:
    """Tokens an event that together make `total`: what is missing goes where most text came, what is over is taken.

    >>> fitted([1, 1, 1], ["a", "bcdefg", "h"], 5)
    [1, 3, 1]
    >>> fitted([1, 1, 1], ["a", "b", ""], 2)
    [1, 1, 0]
    """
    found = list(counts)
    lengths = [len(text) for text in texts]
    while sum(found) < total and found:
        best = max(range(len(found)), key=lambda place: lengths[place] / (found[place] + 1))
        found[best] += 1
    while sum(found) > total:
        found[min((place for place in range(len(found)) if found[place]), key=lambda place: lengths[place])] -= 1
    return found


def _take(stream: _Stream, stamp: int, event: dict[str, Any]) -> None:
    """One event: an error, usage, or a choice with new text."""
    if event.get("error"):
        error = event["error"]
        stream.error = f"the server said: {error.get('message', error) if isinstance(error, dict) else error}"
        return
    usage = event.get("usage") or {}
    done = usage.get("completion_tokens")
    stream.prompt = usage.get("prompt_tokens", stream.prompt)
    choices = event.get("choices") or []
    if done is not None:
        stream.total = int(done)
    if not choices:
        return
    choice = choices[0]
    text = _new_text(choice)
    stream.finished = stream.finished or choice.get("finish_reason") is not None
    if stream.continuous is None and (text or done is not None):
        # Usage from the first event on is a running count; usage that comes only at the end is a total.
        stream.continuous = done is not None
    if stream.continuous and done is not None:
        new, stream.counted = int(done) - stream.counted, int(done)
    else:
        new = 1 if text else 0
    if new > 0 or text:
        stream.stamps.append(stamp)
        stream.tokens.append(max(0, new))
        stream.texts.append(text)


def _new_text(choice: dict[str, Any]) -> str:
    """The text of a choice: of a completion, a chat answer, its reasoning or a tool call."""
    delta = choice.get("delta") or {}
    parts = [choice.get("text"), *(delta.get(name) for name in ("content", "reasoning_content", "reasoning"))]
    calls = delta.get("tool_calls") or []
    functions = [call.get("function") or {} for call in calls]
    parts += [function.get(name) for function in functions for name in ("name", "arguments")]
    return "".join(part for part in parts if part)


def _answer(stream: _Stream) -> Answer:
    tokens = stream.tokens
    if stream.total is not None and sum(tokens) != stream.total:
        tokens = fitted(tokens, stream.texts, stream.total)
        stream.continuous = False
    error = stream.error
    if not error and not stream.finished:
        error = "the stream broke off" if stream.stamps else "the server sent no event"
    merged: dict[int, int] = {}
    for stamp, new in zip(stream.stamps, tokens, strict=True):
        if new:
            merged[stamp] = merged.get(stamp, 0) + new
    exact = bool(stream.continuous) or (stream.total is not None and tokens is stream.tokens)
    return Answer(
        text="".join(stream.texts),
        stamps_ns=tuple(merged),
        tokens=tuple(merged.values()),
        prompt_tokens=stream.prompt,
        estimated=not exact,
        merged=sum(1 for new in tokens if new) - len(merged),
        error=error,
    )


def _payloads(pieces: Sequence[tuple[int, bytes]], chunked: bool) -> Iterator[tuple[int, str]]:
    """Each event's data with the stamp of the read that brought its last byte."""
    raw = b"".join(piece for _, piece in pieces)
    ends = list(accumulate(len(piece) for _, piece in pieces))
    content, places = _unchunked(raw) if chunked else (raw, [(0, 0)])
    starts = [start for start, _ in places]
    position = 0
    while position < len(content):
        end = content.find(b"\n", position)
        end = len(content) if end < 0 else end
        line = content[position:end].rstrip(b"\r").decode("utf-8", "replace")
        last = min(end, len(content) - 1)
        content_start, raw_start = places[bisect_left(starts, last + 1) - 1]
        read = bisect_left(ends, raw_start + last - content_start + 1)
        stamp = pieces[min(read, len(pieces) - 1)][0]
        position = end + 1
        if line.startswith("data:"):
            # An event's data may span lines, but a JSON object on one line is whole: servers send no others.
            yield stamp, line[5:].strip()


def _unchunked(raw: bytes) -> tuple[bytes, list[tuple[int, int]]]:
    """The content of a chunked body, and where it came from: (offset in the content, offset in the body)."""
    content = bytearray()
    places: list[tuple[int, int]] = []
    position = 0
    while True:
        end = raw.find(b"\r\n", position)
        if end < 0:
            break
        try:
            size = int(raw[position:end].split(b";")[0], 16)
        except ValueError:
            break
        if size == 0:
            break
        places.append((len(content), end + 2))
        content += raw[end + 2 : end + 2 + size]
        position = end + 2 + size + 2
    return bytes(content), places or [(0, 0)]
