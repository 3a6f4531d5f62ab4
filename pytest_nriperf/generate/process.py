"""A fresh worker process per replica inside the granted balloon: load, measure from one common instant, stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_nriperf.errors import ModelError, SpecError, WorkerError
from pytest_nriperf.generate.archive import worker_archive
from pytest_nriperf.generate.child import dummies
from pytest_nriperf.generate.child.engine import EngineError
from pytest_nriperf.generate.child.protocol import Message, ProtocolError, unpack_events
from pytest_nriperf.generate.link import Link, Patience, wait_for
from pytest_nriperf.generate.models import sim_settings
from pytest_nriperf.seams import (
    ClockAnchor,
    Completion,
    CounterRow,
    Grant,
    Launch,
    ModelChoice,
    Progress,
    Prompt,
    RequestRow,
    RunData,
    TokenEvents,
    Work,
    WorkerInfo,
)

START_TIMEOUT_S = 120.0
MARGIN_NS = 50_000_000


def thread_environment(threads: int) -> dict[str, str]:
    """What sizes every thread pool of an engine to `threads`; set before its libraries are loaded.

    Their own guess would be all CPUs of the machine, or would ignore what the balloon shows.
    """
    pools = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "BLIS", "RAYON")
    names = [f"{pool}_NUM_THREADS" for pool in pools] + ["VECLIB_MAXIMUM_THREADS"]
    return {
        **dict.fromkeys(names, str(threads)),
        "OMP_DYNAMIC": "FALSE",
        # A setting of the user's shell that pins threads would leave the balloon; this one outranks the others.
        "OMP_PROC_BIND": "FALSE",
        "MKL_DYNAMIC": "FALSE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def unread(answers: Sequence[Message]) -> Iterator[str]:
    """Why reference loads, one of each replica, gave no memory bandwidth: a line for each reason.

    >>> list(unread([{"memory_bandwidth": None, "missing": "no time"}, {"memory_bandwidth": 2e10}]))
    ['replica 0: the reference load has no memory bandwidth (no time)']
    >>> list(unread([{"memory_bandwidth": None, "missing": "no time"}] * 2))
    ['replicas 0, 1: the reference load has no memory bandwidth (no time)']
    """
    reasons: dict[str, list[str]] = {}
    for number, answer in enumerate(answers):
        if answer["memory_bandwidth"] is None:
            reasons.setdefault(answer.get("missing") or "no reason given", []).append(str(number))
    for why, replicas in reasons.items():
        who = f"replica{'s' if len(replicas) > 1 else ''} {', '.join(replicas)}"
        yield f"{who}: the reference load has no memory bandwidth ({why})"


@dataclass
class _Replica:
    """What a replica has reported of the run under way."""

    rows: list[Message] = field(default_factory=list)
    events: dict[int, tuple[list[int], list[int]]] = field(default_factory=dict)
    tokens: int = 0
    finished: float = 0.0


class WorkerGenerator:
    """Implements `seams.Generator` over `Grant.start_worker`. A request may take `Work.timeout_s`.

    `python` is the interpreter on the node (empty: the provisioner's choice), `notice` hears what happens once and
    takes long, `reference` brackets each run with the short reference load (default: unless simulated), `silence_s` is
    when a worker counts as hanging, `generate_timeout_s` when one call of `generate` does.
    """

    def __init__(
        self,
        choice: ModelChoice,
        *,
        python: str = "",
        environment: Mapping[str, str] | None = None,
        load_timeout_s: float = 1800.0,
        silence_s: float = 60.0,
        generate_timeout_s: float = 600.0,
        reference: bool | None = None,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._choice = choice
        self._python = python
        self._environment = dict(environment or {})
        self._load_timeout_s = load_timeout_s
        self._silence_s = silence_s
        self._generate_timeout_s = generate_timeout_s
        self._reference = choice.kind != "sim" if reference is None else reference
        self._notice = notice
        self._changed = threading.Condition()
        self._links: list[Link] = []
        self._loading: list[tuple[Link, int]] = []
        self._loaded: list[Message] = []
        self._state: list[_Replica] = []
        self._parts: dict[tuple[int, int], list[Message]] = {}
        self._said: set[str] = set()
        # Why the memory was not read, in the order of time, each once; until the next run's warnings say it.
        self._unread: dict[str, None] = {}
        self._visible: list[frozenset[int]] = []

    def load(self, grant: Grant) -> Sequence[WorkerInfo]:
        """Start every replica and load the model in all of them at the same time."""
        if self._loaded:
            raise WorkerError("this generator is loaded already", "make a new one for each run")
        if not self._loading:
            self.start_loading(grant)
        self._loaded = wait_for(
            self._loading, Patience(self._load_timeout_s, late=lambda link: f"{link.name} has not loaded the model")
        )
        return [self._info(link, message) for link, message in zip(self._links, self._loaded, strict=True)]

    def start_loading(self, grant: Grant) -> None:
        """The same without waiting: `load` goes on from there."""
        for number, replica in enumerate(grant.placement.replicas):
            threads = int(self._choice.parameters.get("threads", 0)) or len(replica.visible)
            environment = {**thread_environment(threads), **self._environment}
            launch = Launch(worker_archive(), environment=environment, python=self._python)
            stream = grant.start_worker(number, launch)
            self._state.append(_Replica())
            self._visible.append(replica.visible)
            self._links.append(Link(number, stream, self._hear, self._changed, self._silence_s))
        self._loading = [(link, link.post("load", **self._model_fields(link.replica))) for link in self._links]

    def measure(self, work: Work, progress: Callable[[Progress], None]) -> RunData:
        """Warm up, begin at one common instant, do the work; all that was stamped."""
        self._check(work)
        self._state[:] = [_Replica() for _ in self._links]
        counters = self.reference_load() if self._reference else []
        shown = [(-1, -1)] * len(self._links)

        def show() -> None:
            for number, state in enumerate(self._state):
                now = (len(state.rows), state.tokens)
                if now != shown[number]:
                    shown[number] = now
                    progress(Progress(number, *now))

        self._send_prompts(work)
        ready = self._together("prepare", work.timeout_s, show, work=_work_fields(work))
        work.rendezvous()
        at_ns = self._common_instant()
        done = self._together("start", work.timeout_s, show, at_ns=at_ns)
        counters += self.reference_load() if self._reference else []
        return self._run_data(ready, done, counters)

    def generate(self, prompt: Prompt, max_new_tokens: int, replica: int = 0) -> Completion:
        """One call; calls from several threads run side by side in the worker."""
        if not 0 <= replica < len(self._links):
            raise SpecError(f"there is no replica {replica}", f"replicas are 0 to {len(self._links) - 1}")
        link = self._links[replica]
        number = link.post("generate", prompt=_prompt_fields(prompt), max_new_tokens=max_new_tokens)
        message = wait_for([(link, number)], Patience(self._generate_timeout_s))[0]
        stamps: list[int] = []
        tokens: list[int] = []
        ids: list[int] = []
        for part in self._parts.pop((replica, number), []):
            more_stamps, more_tokens = unpack_events(part)
            stamps += more_stamps
            tokens += more_tokens
            ids += part["ids"]
        return Completion(
            text=message["text"],
            token_ids=tuple(ids + message["ids"]),
            submit_ns=message["submit_ns"],
            stamps_ns=tuple(stamps),
            tokens=tuple(tokens),
            end_ns=message["end_ns"],
            prompt_tokens=message["prompt_tokens"],
        )

    def reference_load(self) -> list[CounterRow]:
        """The short reference load in all replicas at once: memory read bandwidth and a small matrix product.

        What a replica has no figure of is left out of all: their sum would be that of some. The next run's warnings
        say why there is no bandwidth.
        """
        rows: list[CounterRow] = []
        everyone = frozenset().union(*self._visible)
        pending = [
            (link, link.post("reference", beside=sorted(everyone - own)))
            for link, own in zip(self._links, self._visible, strict=True)
        ]
        answers = wait_for(pending, Patience(START_TIMEOUT_S))
        for name, unit in (("memory_bandwidth", "B/s"), ("matrix_product", "FLOP/s")):
            if any(answer[name] is None for answer in answers):
                continue
            for number, answer in enumerate(answers):
                begin, end = answer["t_ns"], answer["t_ns"] + answer["took_ns"]
                rows.append(CounterRow(begin, end, "reference", name, "gauge", answer[name], unit, replica=number))
        self._unread |= dict.fromkeys(unread(answers))
        return rows

    def read(self, path: str, replica: int = 0) -> bytes | None:
        """A file as the worker sees it, None when it cannot be read."""
        return self._links[replica].read(path)

    def close(self) -> None:
        """End every worker, all at the same time."""
        links, self._links = self._links, []
        closers = [threading.Thread(target=link.close, daemon=True) for link in links]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join()

    def _model_fields(self, replica: int) -> dict[str, Any]:
        choice = self._choice
        return {
            "kind": choice.kind,
            "location": choice.location,
            "dtype": choice.dtype,
            "weights": choice.weights,
            "parameters": dict(choice.parameters),
            "numbers": _numbers(choice),
            "replica": replica,
        }

    def _info(self, link: Link, message: Message) -> WorkerInfo:
        hello = link.hello or {}
        return WorkerInfo(
            replica=link.replica,
            pid=link.stream.pid if link.stream.pid is not None else hello.get("pid"),
            stream=link.stream,
            model={**message["model"], "stamp_ns": message["stamp_ns"]},
            versions={"python": hello.get("python", ""), **message["versions"]},
            threads=message["threads"],
            load_ns=message["load_ns"],
            anchor=ClockAnchor(*message["anchor"]),
        )

    def _check(self, work: Work) -> None:
        if not self._links:
            raise WorkerError("no model is loaded", "call load first")
        batch = int(self._loaded[0]["batch"])
        if work.requests % batch:
            raise SpecError(
                f"requests={work.requests} cannot be done in batches of {batch}",
                f"ask for {(work.requests // batch + 1) * batch} requests",
            )

    def _send_prompts(self, work: Work) -> None:
        for position, prompt in enumerate(work.prompts):
            for link in self._links:
                link.post("prompt", prompt=_prompt_fields(prompt), first=position == 0)

    def _together(self, operation: str, timeout_s: float, show: Callable[[], None], **fields: Any) -> list[Message]:
        """One operation in all replicas, each of whose requests may take `timeout_s`."""
        began = time.monotonic()

        def late(link: Link) -> str:
            state = self._state[link.replica]
            done = f"{len(state.rows)} requests and {state.tokens} tokens"
            return f"{link.name} has finished only {done} and then no request while {link.stage}"

        def since(link: Link) -> float:
            return max(began, self._state[link.replica].finished)

        pending = [(link, link.post(operation, **fields)) for link in self._links]
        return wait_for(pending, Patience(timeout_s, since, late), show)

    def _common_instant(self) -> int:
        """A moment on the node's clock that every worker still has before it when it hears of it."""
        latest, slowest = 0, 0
        for link in self._links:
            before = time.perf_counter_ns()
            stamp = link.call("ping", START_TIMEOUT_S)["t_ns"]
            latest = max(latest, stamp)
            slowest = max(slowest, time.perf_counter_ns() - before)
        return latest + len(self._links) * slowest * 2 + MARGIN_NS

    def _hear(self, replica: int, message: Message) -> None:
        """Everything that is no reply; runs in the links' threads, each for its own replica only."""
        state, kind = self._state[replica], message["type"]
        if kind == "stamps":
            stamps, tokens = unpack_events(message)
            seen = state.events.setdefault(message["request"], ([], []))
            if len(seen[0]) != message["start"]:
                raise ProtocolError(f"events from {message['start']} on, {len(seen[0])} are known")
            seen[0].extend(stamps)
            seen[1].extend(tokens)
            state.tokens += sum(tokens)
        elif kind == "request":
            state.rows.append(message)
            state.finished = time.monotonic()
        elif kind == "part":
            self._parts.setdefault((replica, message["id"]), []).append(message)
        elif kind == "beat" and message.get("notice") and message["stage"] not in self._said:
            self._said.add(message["stage"])
            self._notice(message["stage"])

    def _run_data(self, ready: list[Message], done: list[Message], counters: list[CounterRow]) -> RunData:
        data = RunData([], TokenEvents(), counters=counters, warnings=list(self._unread))
        self._unread = {}
        for number, state in enumerate(self._state):
            for message in sorted(state.rows, key=lambda row: row["request"]):
                stamps, tokens = state.events.get(message["request"], ([], []))
                if len(stamps) != message["events"]:
                    raise WorkerError(f"replica {number} lost stamps: {len(stamps)} of {message['events']} arrived")
                data.requests.append(_row(number, message, stamps, tokens))
                data.tokens.add(number, message["request"], stamps, tokens)
            data.anchors[number] = (ClockAnchor(*ready[number]["anchor"]), ClockAnchor(*done[number]["anchor"]))
            threads, visible = int(self._loaded[number]["threads"]), len(self._visible[number])
            if threads > visible:
                data.warnings.append(
                    f"replica {number} computes with {threads} threads, its balloon shows {visible} CPUs: "
                    "they wait for each other; leave threads= out, or see what sets OMP_NUM_THREADS"
                )
            late_ns = done[number]["late_ns"]
            if late_ns:
                data.warnings.append(f"replica {number} began {late_ns / 1e6:.1f} ms after the common instant")
        data.cost = {
            "stamp_ns": max(message["stamp_ns"] for message in self._loaded),
            "reporter_cpu_ns": float(sum(message["reporter_cpu_ns"] for message in done)),
            "events": float(len(data.tokens)),
        }
        return data


def _row(replica: int, message: Message, stamps: list[int], tokens: list[int]) -> RequestRow:
    visible = [stamp for stamp, n in zip(stamps, tokens, strict=True) if n]
    return RequestRow(
        replica=replica,
        request=message["request"],
        phase=message["phase"],
        prompt_id=message["prompt_id"],
        scheduled_ns=None,
        submit_ns=message["submit_ns"],
        first_ns=visible[0] if visible else None,
        last_ns=visible[-1] if visible else None,
        end_ns=message["end_ns"],
        prompt_tokens=message["prompt_tokens"],
        output_tokens=sum(tokens),
        status=message["status"],
        error=message["error"],
    )


def _numbers(choice: ModelChoice) -> dict[str, Any]:
    """Settings of a simulated model; the content of a dummy's configuration, which may be on this machine only."""
    if choice.kind == "sim":
        return dict(sim_settings(choice))
    if choice.kind == "dummy" and Path(choice.location).is_file():
        try:
            return {"configuration": dummies.configuration(choice.location)}
        except EngineError as error:
            raise ModelError(error.fact, error.next_step) from error
    return {}


def _prompt_fields(prompt: Prompt) -> dict[str, Any]:
    return {"prompt_id": prompt.prompt_id, "text": prompt.text, "tokens": prompt.tokens}


def _work_fields(work: Work) -> dict[str, int]:
    return {
        "max_new_tokens": work.max_new_tokens,
        "requests": work.requests,
        "concurrency": work.concurrency,
        "warmup": work.warmup,
    }
