"""Lines, events and the outbox: round trips and limits."""

from __future__ import annotations

import json
import os
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nriperf.generate.child.protocol import (
    MAX_LINE,
    Lines,
    Outbox,
    ProtocolError,
    clock_anchor,
    decode,
    encode,
    pack_events,
    unpack_events,
    write_all,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
MESSAGES = st.dictionaries(st.text(max_size=5), VALUES, max_size=4)


@given(MESSAGES)
def test_a_message_survives_its_line(message: dict[str, Any]) -> None:
    line = encode(message)
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert decode(line) == message


@given(st.lists(MESSAGES, max_size=4), st.data())
def test_lines_survive_any_cut(messages: list[dict[str, Any]], data: st.DataObject) -> None:
    raw = b"".join(map(encode, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    lines = Lines()
    found = [
        decode(line)
        for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)
        for line in lines.feed(raw[start:end])
    ]
    assert found == messages


@given(st.lists(st.tuples(st.integers(0, 1 << 62), st.integers(0, 9)), max_size=20))
def test_events_survive_packing(events: list[tuple[int, int]]) -> None:
    stamps, tokens = [stamp for stamp, _ in events], [count for _, count in events]
    assert unpack_events(json.loads(json.dumps(pack_events(stamps, tokens)))) == (stamps, tokens)


@pytest.mark.parametrize(
    "damaged", [{}, {"t": [1]}, {"t": [1], "n": []}, {"t": ["x"], "n": [1]}, {"t": [1], "n": [-1]}, {"t": 1, "n": 1}]
)
def test_damaged_events_are_refused(damaged: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="damaged stamps"):
        unpack_events(damaged)


def test_what_is_too_long_or_no_object_is_refused() -> None:
    with pytest.raises(ProtocolError, match="longer than"):
        encode({"text": "x" * MAX_LINE})
    with pytest.raises(ProtocolError, match="longer than"):
        list(Lines().feed(b"x" * (MAX_LINE + 1)))
    for line in (b"[1]\n", b"hello\n", b"\xff\n", b"[" * 5000 + b"\n"):
        with pytest.raises(ProtocolError, match="no JSON"):
            decode(line)


def test_messages_are_numbered_and_one_that_is_too_long_leaves_no_gap() -> None:
    lines: list[bytes] = []
    outbox = Outbox(lines.append)
    outbox.send("beat", stage="a")
    with pytest.raises(ProtocolError, match="longer than"):
        outbox.send("beat", stage="x" * MAX_LINE)
    outbox.send("beat", stage="b")
    assert [(decode(line)["seq"], decode(line)["stage"]) for line in lines] == [(1, "a"), (2, "b")]


def test_a_host_that_is_gone_stops_nobody_from_sending() -> None:
    def write(_: bytes) -> None:
        raise BrokenPipeError

    Outbox(write).send("beat")


def test_whole_lines_are_written_to_a_pipe() -> None:
    read, write = os.pipe()
    write_all(write)(string.ascii_letters.encode())
    assert os.read(read, 100) == string.ascii_letters.encode()
    os.close(read)
    os.close(write)


def test_an_anchor_is_one_moment_on_three_clocks() -> None:
    wall, monotonic, boot = clock_anchor()
    assert wall > monotonic > 0
    assert boot >= monotonic - 1_000_000
