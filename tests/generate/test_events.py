"""Token events from streams, however the bytes are cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nriperf.generate.events import fitted, read_answer

RECORDED = Path(__file__).parents[1] / "data/streams/transformers-serve-5.23.txt"


def chat(content: str | None = None, usage: dict[str, int] | None = None, **delta: Any) -> dict[str, Any]:
    event: dict[str, Any] = {"choices": [{"delta": {**delta, **({} if content is None else {"content": content})}}]}
    return {**event, "usage": usage} if usage else event


def body(*events: dict[str, Any], done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events]
    return (": a comment\n\n" + "".join(lines) + ("data: [DONE]\n\n" if done else "")).encode()


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def usage(done: int, prompt: int = 7) -> dict[str, int]:
    return {"completion_tokens": done, "prompt_tokens": prompt}


ROLE = chat(role="assistant")


def test_running_usage_gives_exact_tokens_also_without_text() -> None:
    events = [chat(usage=usage(0), role="assistant"), chat("a", usage(1)), chat("", usage(2)), chat("bc", usage(5))]
    pieces = [(number, body(event, done=number == 3)) for number, event in enumerate(events)]
    answer = read_answer(pieces, chunked=False)
    assert (answer.stamps_ns, answer.tokens) == ((1, 2, 3), (1, 1, 3))
    assert (answer.text, answer.prompt_tokens, answer.estimated, answer.error) == ("abc", 7, False, "")


def test_a_role_only_event_is_no_token() -> None:
    answer = read_answer([(1, body(ROLE, done=False)), (2, body(chat("a")))], chunked=False)
    assert (answer.stamps_ns, answer.tokens, answer.estimated) == ((2,), (1,), True)


def test_final_usage_that_agrees_is_exact() -> None:
    end = {"choices": [], "usage": usage(2)}
    answer = read_answer([(1, body(chat("a"), done=False)), (2, body(chat("b"), end))], chunked=False)
    assert (answer.tokens, answer.estimated) == ((1, 1), False)


def test_final_usage_that_differs_is_spread_by_text_and_called_estimated() -> None:
    end = {"choices": [], "usage": usage(4)}
    answer = read_answer([(1, body(chat("a"), done=False)), (2, body(chat("bcdef"), end))], chunked=False)
    assert (answer.tokens, answer.estimated) == ((1, 3), True)


def test_usage_on_the_last_choice_only_is_a_total() -> None:
    answer = read_answer([(1, body(chat("a"), done=False)), (2, body(chat("b", usage(2))))], chunked=False)
    assert (answer.tokens, answer.estimated) == ((1, 1), False)


def test_events_of_one_read_are_one_event() -> None:
    answer = read_answer([(9, body(chat("a"), chat("b"), chat("c")))], chunked=False)
    assert (answer.stamps_ns, answer.tokens, answer.merged) == ((9,), (3,), 2)


def test_reasoning_and_tool_calls_are_tokens() -> None:
    call = chat(tool_calls=[{"function": {"name": "f", "arguments": "{}"}}])
    answer = read_answer([(1, body(chat(reasoning_content="hm"), done=False)), (2, body(call))], chunked=False)
    assert (answer.text, answer.tokens) == ("hmf{}", (1, 1))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "the server sent no event"),
        (body(chat("a"), done=False), "the stream broke off"),
        (body({"error": {"message": "out of cache"}}), "the server said: out of cache"),
        (b"data: {nonsense\n\n", "no event of this kind"),
        (b"data: [1]\n\n", "no event of this kind"),
    ],
)
def test_a_stream_that_is_not_whole_says_so(data: bytes, error: str) -> None:
    assert error in read_answer([(1, data)], chunked=False).error


def test_a_finish_reason_ends_a_stream_too() -> None:
    last = {"choices": [{"delta": {"content": "b"}, "finish_reason": "length"}]}
    assert read_answer([(1, body(chat("a"), last, done=False))], chunked=False).error == ""


@given(st.data())
def test_cuts_move_stamps_and_nothing_else(data: st.DataObject) -> None:
    events = [ROLE, *(chat(f"wörd{number} ", usage(number + 1)) for number in range(6))]
    parts = [body(event, done=False) for event in events]
    raw = chunks(*parts, b"data: [DONE]\n\n")
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=12)))
    pieces = [
        (number * 10, raw[start:end])
        for number, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(raw)], strict=True))
    ]
    answer = read_answer(pieces, chunked=True)
    assert answer.error == ""
    assert answer.text == "".join(f"wörd{number} " for number in range(6))
    assert sum(answer.tokens) == 6
    assert list(answer.stamps_ns) == sorted(set(answer.stamps_ns))
    whole = [
        sum(len(chunks(part)) - 5 for part in parts[:number]) + len(f"{len(parts[number]):x}") + 2 + len(parts[number])
        for number in range(1, 7)
    ]
    # The line of an event ends one byte before the empty line that follows it.
    reads = [
        next(stamp for stamp, end in zip(range(0, 1000, 10), [*cuts, len(raw)], strict=False) if end >= place - 1)
        for place in whole
    ]
    assert set(answer.stamps_ns) == set(reads)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_an_answer_or_an_error(data: bytes, chunked: bool) -> None:
    answer = read_answer([(1, data)], chunked=chunked)
    assert answer.error or answer.stamps_ns or not answer.text


@given(st.lists(st.tuples(st.integers(0, 3), st.text(max_size=5)), min_size=1, max_size=8), st.integers(0, 30))
def test_fitted_counts_make_the_total(events: list[tuple[int, str]], total: int) -> None:
    counts = fitted([count for count, _ in events], [text for _, text in events], total)
    assert sum(counts) == total
    assert all(count >= 0 for count in counts)


def test_a_recorded_stream_of_transformers_serve_is_counted_exactly() -> None:
    lines = RECORDED.read_bytes().splitlines(keepends=True)
    answer = read_answer(list(enumerate(lines)), chunked=False)
    assert answer.text.startswith("Hello there!")
    assert (answer.tokens, answer.prompt_tokens) == ((1,) * 6, 31)
    assert (answer.estimated, answer.merged, answer.error) == (False, 0, "")
