"""A server elsewhere, the client here: events, rows, habits of servers, errors."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_nriperf.errors import ModelError, SpecError, WorkerError
from pytest_nriperf.generate import make_generator
from pytest_nriperf.generate.models import parse_model
from pytest_nriperf.generate.openai import OpenAIGenerator
from pytest_nriperf.seams import Grant, Progress, Prompt, Work
from tests.generate.servers import StreamingServer, streaming_server

WORK = Work((Prompt("a", "what happens"), Prompt("b", tokens=5)), max_new_tokens=5, requests=4)


def grant(replicas: int = 1) -> Grant:
    return cast(Grant, SimpleNamespace(placement=SimpleNamespace(replicas=[None] * replicas)))


def loaded(server: StreamingServer, rest: str = "#m") -> OpenAIGenerator:
    made = make_generator(parse_model(f"openai:{server.address}{rest}"))
    assert isinstance(made, OpenAIGenerator)
    made.load(grant())
    return made


def test_rows_and_events_look_like_those_of_a_worker() -> None:
    seen: list[Progress] = []
    with streaming_server() as server:
        data = loaded(server).measure(WORK, seen.append)
    assert [(row.request, row.phase, row.prompt_id, row.status) for row in data.requests] == [
        (number, "warmup" if number == 0 else "measure", "aabab"[number], "ok") for number in range(5)
    ]
    assert {row.output_tokens for row in data.requests} == {5}
    assert {row.prompt_tokens for row in data.requests} == {4}
    for row in data.requests:
        own = [
            (t, n)
            for r, t, n in zip(data.tokens.request, data.tokens.t_ns, data.tokens.n, strict=True)
            if r == row.request
        ]
        assert own[0][1] == 0
        assert row.submit_ns < own[0][0] <= (row.first_ns or 0) <= (row.last_ns or 0) <= (row.end_ns or 0)
        assert own[-1][0] == row.last_ns
    assert seen[-1] == Progress(0, 4 + 1, 25)
    assert not any("estimated" in warning for warning in data.warnings)


def test_stamps_follow_the_server() -> None:
    with streaming_server(gap_s=0.02) as server:
        done = loaded(server).generate(Prompt("p", "hello"), 3)
    assert done.text == "w0 w1 w2 "
    assert done.tokens == (0, 1, 1, 1)
    assert done.stamps_ns[1] - done.submit_ns >= 20_000_000
    assert done.stamps_ns[2] - done.stamps_ns[1] >= 10_000_000


def test_a_strict_server_is_asked_for_less() -> None:
    with streaming_server("strict") as server:
        made = loaded(server)
        data = made.measure(WORK, lambda _: None)
        last = server.asked[-1]
    assert last["stream_options"] == {"include_usage": True}
    assert "ignore_eos" not in last
    assert not any("estimated" in warning for warning in data.warnings)


def test_a_server_without_usage_gives_estimates_and_says_so() -> None:
    with streaming_server("silent") as server:
        data = loaded(server).measure(WORK, lambda _: None)
    assert {row.output_tokens for row in data.requests} == {5}
    assert any("estimated" in warning for warning in data.warnings)


def test_unequal_work_is_a_warning() -> None:
    with streaming_server("stops") as server:
        data = loaded(server).measure(WORK, lambda _: None)
    assert any("work was not equal" in warning for warning in data.warnings)


def test_completions_and_equal_work_are_asked_for() -> None:
    with streaming_server() as server:
        made = loaded(server, "#m?endpoint=completions")
        made.generate(Prompt("p", tokens=3), 4)
        asked: dict[str, Any] = server.asked[-1]
    assert asked["path"] == "/v1/completions"
    assert asked["prompt"] == "word word word"
    assert (asked["max_tokens"], asked["min_tokens"], asked["ignore_eos"], asked["temperature"]) == (4, 4, True, 0)


def test_requests_are_kept_in_flight() -> None:
    with streaming_server(gap_s=0.01) as server:
        loaded(server).measure(Work(WORK.prompts, 5, requests=6, concurrency=3), lambda _: None)
        assert server.most_in_flight == 3


def test_a_broken_stream_is_a_failed_request_with_its_events() -> None:
    with streaming_server("dies") as server:
        made = loaded(server)
        data = made.measure(Work(WORK.prompts, 5, requests=1, warmup=0), lambda _: None)
        with pytest.raises(WorkerError, match="broke off"):
            made.generate(Prompt("p", "x"), 5)
    assert [(row.status, row.output_tokens) for row in data.requests] == [("failed", 2)]


def test_a_request_that_takes_too_long_is_a_timeout() -> None:
    with streaming_server(gap_s=0.05) as server:
        data = loaded(server).measure(Work(WORK.prompts, 100, requests=1, warmup=0, timeout_s=0.2), lambda _: None)
    assert [row.status for row in data.requests] == ["timeout"]


def test_the_key_is_sent_and_recorded_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with streaming_server("refuses") as server:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(ModelError, match="OPENAI_API_KEY"):
            loaded(server)
        monkeypatch.setenv("OPENAI_API_KEY", "right")
        made = OpenAIGenerator(parse_model(f"openai:{server.address}#m"))
        assert "right" not in repr(made.load(grant()))


def test_a_missing_model_and_a_missing_server_are_named() -> None:
    with streaming_server() as server, pytest.raises(ModelError, match=r"refuses model other.*no such model"):
        loaded(server, "#other")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(WorkerError, match="does not answer"):
        OpenAIGenerator(parse_model(f"openai:http://127.0.0.1:{port}/v1#m")).load(grant())


def test_replicas_need_servers_of_their_own() -> None:
    with pytest.raises(SpecError, match=r"write \{replica\} where"):
        OpenAIGenerator(parse_model("openai:http://h/v1#m")).load(grant(2))
    with streaming_server() as one:
        made = OpenAIGenerator(parse_model(f"openai:{one.address}#m".replace("127.0.0.1", "127.0.0.{replica}1")))
        with pytest.raises(WorkerError, match=r"127\.0\.0\.01|does not answer"):
            made.load(grant(2))
