"""A server that streams OpenAI-style events, with the client here: connections, stamps at the read, rows.

Nothing is parsed while a stream is read: each read is stamped and kept, and becomes events afterwards. Every request
has a connection of its own, opened before the request is submitted.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from pytest_nriperf.errors import ModelError, SpecError, WorkerError
from pytest_nriperf.generate.events import Answer, read_answer
from pytest_nriperf.seams import (
    ClockAnchor,
    Completion,
    Grant,
    ModelChoice,
    Progress,
    Prompt,
    RequestRow,
    RunData,
    TokenEvents,
    Work,
    WorkerInfo,
)

KEY_VARIABLE = "OPENAI_API_KEY"
MARGIN_NS = 20_000_000
PIECE = 1 << 16
# What makes work equal and counts exact, given up in this order where a server refuses it.
_WISHES: tuple[dict[str, Any], ...] = (
    {"ignore_eos": True, "min_tokens": 0},
    {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    {"stream_options": {"include_usage": True}},
)


@dataclass(frozen=True)
class Reply:
    """One streamed answer: when it was submitted, its headers came, and it ended; and what it held."""

    submit_ns: int
    headers_ns: int
    end_ns: int
    answer: Answer
    timed_out: bool = False


@dataclass
class _Run:
    """What the client's threads share during one run of one replica."""

    rows: list[RequestRow] = field(default_factory=list)
    events: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    replies: list[Reply] = field(default_factory=list)
    tokens: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class OpenAIGenerator:
    """Implements `seams.Generator`. `{replica}` in the address makes one server a replica (`http://h:800{replica}/v1`).

    The key, if the server wants one, is read from OPENAI_API_KEY and goes nowhere else.
    """

    def __init__(self, choice: ModelChoice, *, timeout_s: float = 600.0) -> None:
        self._choice = choice
        self._timeout_s = timeout_s
        self._endpoint = choice.parameters.get("endpoint", "chat")
        self._addresses: list[str] = []
        self._wishes: list[dict[str, Any]] = []
        self._closed = False

    def load(self, grant: Grant) -> Sequence[WorkerInfo]:
        """Find the servers and what they understand. Raises ModelError, WorkerError."""
        replicas = len(grant.placement.replicas)
        if replicas > 1 and "{replica}" not in self._choice.location:
            raise SpecError(
                f"{self._choice.text} is one server, the balloon has {replicas} replicas",
                "write {replica} where the addresses of the servers differ, or ask for one replica",
            )
        self._addresses = [self._choice.location.replace("{replica}", str(number)) for number in range(replicas)]
        self._wishes = [self._probed(address) for address in self._addresses]
        return [
            WorkerInfo(
                replica=number,
                pid=None,
                stream=None,
                model={
                    "name": self._choice.parameters["name"],
                    "server": address,
                    "asked": sorted(self._wishes[number]),
                    "weights": "server",
                },
                versions={},
                threads=0,
                load_ns=0,
                anchor=ClockAnchor.now(),
            )
            for number, address in enumerate(self._addresses)
        ]

    def measure(self, work: Work, progress: Callable[[Progress], None]) -> RunData:
        """Warm up, begin at one common instant, keep `concurrency` requests in flight at every server."""
        runs = [_Run() for _ in self._addresses]
        before = [ClockAnchor.now() for _ in runs]
        warmup = max(work.warmup, work.concurrency) if work.warmup else 0
        self._phase(work, runs, "warmup", 0, warmup, 0, progress)
        work.rendezvous()
        at_ns = time.perf_counter_ns() + MARGIN_NS
        self._phase(work, runs, "measure", warmup, work.requests, at_ns, progress)
        data = RunData([], TokenEvents())
        for number, run in enumerate(runs):
            for row in sorted(run.rows, key=lambda row: row.request):
                data.requests.append(row)
                data.tokens.add(number, row.request, *run.events.get(row.request, ((), ())))
            data.anchors[number] = (before[number], ClockAnchor.now())
        data.warnings = self._warnings(work, [reply for run in runs for reply in run.replies], data)
        return data

    def generate(self, prompt: Prompt, max_new_tokens: int, replica: int = 0) -> Completion:
        """One call."""
        if not 0 <= replica < len(self._addresses):
            raise SpecError(f"there is no replica {replica}", f"replicas are 0 to {len(self._addresses) - 1}")
        reply = self._ask(replica, prompt, max_new_tokens, self._timeout_s)
        if reply.answer.error:
            raise WorkerError(f"{self._addresses[replica]}: {reply.answer.error}", "look at the server's log")
        stamps, tokens = _events(reply)
        return Completion(
            text=reply.answer.text,
            token_ids=(),
            submit_ns=reply.submit_ns,
            stamps_ns=stamps,
            tokens=tokens,
            end_ns=reply.end_ns,
            prompt_tokens=reply.answer.prompt_tokens or 0,
        )

    def close(self) -> None:
        """Stop asking; the server is not ours."""
        self._closed = True

    def _phase(
        self,
        work: Work,
        runs: list[_Run],
        phase: str,
        first: int,
        count: int,
        at_ns: int,
        progress: Callable[[Progress], None],
    ) -> None:
        """`count` requests at every server, numbered from `first`, beginning at `at_ns`."""
        threads = []
        for replica, run in enumerate(runs):
            numbers = iter(range(first, first + count))

            def loop(replica: int = replica, run: _Run = run, numbers: Any = numbers) -> None:
                time.sleep(max(0, at_ns - time.perf_counter_ns()) / 1e9)
                while not self._closed:
                    with run.lock:
                        request = next(numbers, None)
                    if request is None:
                        return
                    prompt = work.prompts[(request - first) % len(work.prompts)]
                    reply = self._ask(replica, prompt, work.max_new_tokens, work.timeout_s)
                    _keep(run, replica, request, phase, prompt, reply)

            threads += [threading.Thread(target=loop, daemon=True) for _ in range(min(work.concurrency, count))]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                next(thread for thread in threads if thread.is_alive()).join(0.2)
                for replica, run in enumerate(runs):
                    progress(Progress(replica, len(run.rows), run.tokens))
        except BaseException:
            self._closed = True
            raise

    def _ask(self, replica: int, prompt: Prompt, max_new_tokens: int, timeout_s: float) -> Reply:
        """One streamed request; what goes wrong stands in the answer's error."""
        address = urlsplit(self._addresses[replica])
        body = json.dumps(self._body(self._wishes[replica], prompt, max_new_tokens)).encode()
        submit = headers = time.perf_counter_ns()
        pieces: list[tuple[int, bytes]] = []
        try:
            with contextlib.closing(_connected(address, timeout_s)) as connection:
                submit = headers = time.perf_counter_ns()
                deadline = submit + round(timeout_s * 1e9)
                connection.request("POST", address.path + self._path(), body, self._headers())
                response = connection.getresponse()
                headers = time.perf_counter_ns()
                if response.status != 200:
                    text = response.read(500).decode("utf-8", "replace")
                    return _failed(submit, headers, f"HTTP {response.status} {response.reason}: {text}")
                _read(response, pieces, deadline)
                chunked = bool(response.chunked)
            return Reply(submit, headers, time.perf_counter_ns(), read_answer(pieces, chunked=chunked))
        except TimeoutError:
            return replace(_failed(submit, headers, f"no whole answer within {timeout_s:g} s"), timed_out=True)
        except (OSError, http.client.HTTPException) as error:
            return _failed(submit, headers, f"{type(error).__name__}: {error}")

    def _probed(self, address: str) -> dict[str, Any]:
        """The wishes that a server understands, found out with requests for one token."""
        split = urlsplit(address)
        wishes = [wish for wish in _WISHES if self._wanted(wish)]
        problem = ""
        for start in range(len(wishes) + 1):
            asked: dict[str, Any] = {}
            for wish in reversed(wishes[start:]):
                asked |= wish
            body = json.dumps(self._body(asked, Prompt("probe", "hello"), 1)).encode()
            try:
                with contextlib.closing(_connected(split, self._timeout_s)) as connection:
                    connection.request("POST", split.path + self._path(), body, self._headers())
                    response = connection.getresponse()
                    text = response.read().decode("utf-8", "replace")
            except (OSError, http.client.HTTPException) as error:
                raise WorkerError(
                    f"{address} does not answer ({type(error).__name__}: {error})",
                    "start the server, check the address",
                ) from error
            if response.status == 200:
                return asked
            problem = f"HTTP {response.status} {response.reason}: {text[:300]}"
            if response.status not in (400, 422):
                break
        step = {
            401: f"put the key into {KEY_VARIABLE}",
            403: f"put the key into {KEY_VARIABLE}",
            404: "check the address (it ends in /v1) and the model's name",
        }
        raise ModelError(
            f"{address} refuses model {self._choice.parameters['name']}: {problem}",
            step.get(response.status, "look at the server's log"),
        )

    def _wanted(self, wish: Mapping[str, Any]) -> bool:
        usage = self._choice.parameters.get("usage", "continuous")
        options = wish.get("stream_options")
        if options is None:
            return True
        return usage == "continuous" or (usage == "final" and "continuous_usage_stats" not in options)

    def _path(self) -> str:
        return "/chat/completions" if self._endpoint == "chat" else "/completions"

    def _body(self, wishes: Mapping[str, Any], prompt: Prompt, max_new_tokens: int) -> dict[str, Any]:
        text = prompt.text if prompt.text is not None else " ".join(["word"] * (prompt.tokens or 1))
        content: dict[str, Any] = {"prompt": text}
        if self._endpoint == "chat":
            content = {"messages": [{"role": "user", "content": text}]}
        asked = {**wishes, **({"min_tokens": max_new_tokens} if "min_tokens" in wishes else {})}
        return {
            "model": self._choice.parameters["name"],
            **content,
            "max_tokens": max_new_tokens,
            "temperature": 0,
            "stream": True,
            **asked,
        }

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(KEY_VARIABLE, "")
        return {
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            "Connection": "close",
            **({"Authorization": f"Bearer {key}"} if key else {}),
        }

    def _warnings(self, work: Work, replies: list[Reply], data: RunData) -> list[str]:
        warnings = ["the server was started elsewhere: that it stays in the balloon was not verified"]
        if any(reply.answer.estimated for reply in replies):
            warnings.append("the server gave no running token counts: tokens an event are estimated")
        merged = sum(reply.answer.merged for reply in replies)
        if merged:
            warnings.append(f"{merged} server events arrived in one read with an earlier one, and count as one event")
        short = sum(row.status == "ok" and row.output_tokens != work.max_new_tokens for row in data.requests)
        if short:
            warnings.append(f"{short} requests gave other than {work.max_new_tokens} tokens: work was not equal")
        return warnings


def _connected(address: Any, timeout_s: float) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.hostname, address.port, timeout=timeout_s)
    connection.connect()
    return connection


def _read(response: http.client.HTTPResponse, pieces: list[tuple[int, bytes]], deadline_ns: int) -> None:
    """Read to the end of the stream, one system call a piece, each stamped; the framing stays in."""
    clock, keep = time.perf_counter_ns, pieces.append
    # Behind the headers the buffered reader has the socket: its read1 gives what is there, or waits for one read.
    read = response.fp.read1
    rest = -1 if response.chunked or response.length is None else response.length
    while rest:
        piece = read(PIECE)
        keep((clock(), piece))
        if not piece or (response.chunked and piece.endswith(b"0\r\n\r\n")):
            return
        rest -= len(piece)
        if pieces[-1][0] > deadline_ns:
            raise TimeoutError


def _events(reply: Reply) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """With the headers as the prompt's event: then the server had taken the prompt."""
    return (reply.headers_ns, *reply.answer.stamps_ns), (0, *reply.answer.tokens)


def _keep(run: _Run, replica: int, request: int, phase: str, prompt: Prompt, reply: Reply) -> None:
    answer = reply.answer
    row = RequestRow(
        replica=replica,
        request=request,
        phase=phase,
        prompt_id=prompt.prompt_id,
        scheduled_ns=None,
        submit_ns=reply.submit_ns,
        first_ns=answer.stamps_ns[0] if answer.stamps_ns else None,
        last_ns=answer.stamps_ns[-1] if answer.stamps_ns else None,
        end_ns=reply.end_ns,
        prompt_tokens=answer.prompt_tokens or 0,
        output_tokens=sum(answer.tokens),
        status="timeout" if reply.timed_out else "failed" if answer.error else "ok",
        error=answer.error,
    )
    with run.lock:
        run.rows.append(row)
        run.replies.append(reply)
        run.tokens += row.output_tokens
        run.events[request] = _events(reply)


def _failed(submit_ns: int, headers_ns: int, error: str) -> Reply:
    return Reply(submit_ns, headers_ns, time.perf_counter_ns(), Answer(error=error))
