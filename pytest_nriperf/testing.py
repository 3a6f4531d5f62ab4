"""Public fakes of the three seams, for tests of suites, of adapters and of this project.

Nothing here measures anything: a `FakeGenerator` makes its stamps up on a clock of its own, and what is recorded
through it says SIMULATED.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import random
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_nriperf.balloons import BalloonSpec, Placement, place
from pytest_nriperf.errors import NotHonouredError, WorkerError
from pytest_nriperf.seams import (
    Availability,
    ClockAnchor,
    Completion,
    CounterRow,
    Grant,
    Launch,
    NodeDescription,
    Progress,
    Prompt,
    RequestRow,
    RunData,
    Target,
    TokenEvents,
    Work,
    WorkerInfo,
    WorkerStream,
)
from pytest_nriperf.topology import Topology, simulated_topology

__all__ = [
    "FakeClock",
    "FakeCollector",
    "FakeGenerator",
    "FakeGrant",
    "FakeProvisioner",
    "FakeStream",
    "ServedGenerator",
]


@dataclass
class FakeClock:
    """A monotonic clock that moves only when told, nanoseconds."""

    now_ns: int = 1_000_000_000

    def __call__(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        """Move on."""
        self.now_ns += round(seconds * 1e9)


class FakeStream:
    """A worker that answers from a list of lines and remembers what it was sent."""

    pid: int | None = None

    def __init__(self, answers: Iterable[bytes] = ()) -> None:
        self.sent: list[bytes] = []
        self.closed = False
        self._answers = iter(answers)

    def send(self, line: bytes) -> None:
        """Remember."""
        if self.closed:
            raise WorkerError("the fake worker is closed")
        self.sent.append(line)

    def receive(self, timeout_s: float) -> bytes | None:  # noqa: ARG002 - the seam's signature
        """The next prepared answer."""
        return next(self._answers, None)

    def close(self, grace_s: float = 2.0) -> str:  # noqa: ARG002 - the seam's signature
        """Close."""
        self.closed = True
        return "ended with status 0"


@dataclass
class FakeGrant:
    """A grant without processes. `escape` names a fact that `verify` then finds."""

    placement: Placement
    mechanism: str = "simulated"
    escape: str = ""
    streams: list[FakeStream] = field(default_factory=list)

    def start_worker(self, replica: int, launch: Launch) -> WorkerStream:  # noqa: ARG002 - the seam's signature
        """A worker that says nothing."""
        self.streams.append(FakeStream())
        return self.streams[-1]

    def verify(self, replica: int, stream: WorkerStream) -> Mapping[str, Any]:  # noqa: ARG002 - the seam's signature
        """Nothing to see, or the prepared escape."""
        if self.escape:
            raise NotHonouredError(f"replica {replica}: {self.escape}")
        return {}


class FakeProvisioner:
    """A made-up node with real placement. `log` lists what happened, in order: that undo is complete can be seen."""

    def __init__(self, shape: str = "sim:2s4c2t-snc2", *, escape: str = "", files: Mapping[str, bytes] | None = None):
        self._topology = simulated_topology(shape)
        self._files = dict(files or {})
        self._shape = shape
        self.escape = escape
        self.log: list[str] = []

    def topology(self) -> Topology:
        """The made-up topology."""
        return self._topology

    def describe(self) -> NodeDescription:
        """The made-up node."""
        return NodeDescription(
            name=self._shape,
            allowed=self._topology.online,
            reserved=frozenset(),
            read=self._files.get,
            simulated=True,
        )

    @contextlib.contextmanager
    def session(self, specs: Sequence[BalloonSpec]) -> Iterator[None]:
        """Log it."""
        self.log.append(f"session opened for {len(specs)} balloons")
        try:
            yield
        finally:
            self.log.append("session closed")

    @contextlib.contextmanager
    def provision(self, spec: BalloonSpec) -> Iterator[Grant]:
        """Place it and log it."""
        placement = place(spec, self._topology, allowed=self._topology.online)
        self.log.append(f"provisioned {spec.canonical()}")
        try:
            yield FakeGrant(placement, escape=self.escape)
        finally:
            self.log.append(f"removed {spec.canonical()}")


class FakeGenerator:
    """Makes stamps up: `ttft_s` and `itl_s` seconds, normal noise of `cv`, deterministic by `seed`; no time passes.

    `fail_requests` are the numbers of measured requests that fail; `die` ends the run with a WorkerError.
    """

    def __init__(
        self,
        *,
        ttft_s: float = 0.02,
        itl_s: float = 0.005,
        cv: float = 0.02,
        seed: int = 0,
        fail_requests: Sequence[int] = (),
        die: str = "",
        clock: FakeClock | None = None,
    ) -> None:
        self._times = (ttft_s, itl_s, cv)
        self._random = random.Random(seed)  # noqa: S311 - made-up noise, not a secret
        self._fail = set(fail_requests)
        self._die = die
        self._replicas = 0
        self.clock = clock or FakeClock()
        self.closed = False

    def load(self, grant: Grant) -> Sequence[WorkerInfo]:
        """Ready at once."""
        self._replicas = len(grant.placement.replicas)
        return [
            WorkerInfo(
                replica=replica,
                pid=None,
                stream=None,
                model={"name": "fake", "dtype": "float32"},
                versions={"fake": "1"},
                threads=len(grant.placement.replicas[replica].visible),
                load_ns=0,
                anchor=self._anchor(),
            )
            for replica in range(self._replicas)
        ]

    def measure(self, work: Work, progress: Callable[[Progress], None]) -> RunData:
        """All replicas begin at the clock's time; the clock moves to the end of the slowest."""
        if self._die:
            raise WorkerError(self._die)
        begin = self.clock()
        data = RunData(requests=[], tokens=TokenEvents())
        ends = []
        for replica in range(self._replicas):
            now = begin
            before = self._anchor()
            for request in range(work.warmup + work.requests):
                completion = self._completion(now, work.max_new_tokens, replica)
                failed = request - work.warmup in self._fail
                phase = "warmup" if request < work.warmup else "measure"
                prompt = work.prompts[request % len(work.prompts)].prompt_id if work.prompts else "scenario"
                row = RequestRow.from_completion(replica, request, phase, prompt, completion)
                if failed:
                    row = replace(row, status="failed", error="failed on purpose")
                data.requests.append(row)
                data.tokens.add(replica, request, completion.stamps_ns, completion.tokens)
                now = completion.end_ns
            progress(Progress(replica, work.warmup + work.requests, work.requests * work.max_new_tokens))
            data.anchors[replica] = (before, self._anchor())
            ends.append(now)
        self.clock.now_ns = max(ends)
        return data

    def generate(self, prompt: Prompt, max_new_tokens: int, replica: int = 0) -> Completion:  # noqa: ARG002
        """One made-up completion; the clock moves to its end."""
        completion = self._completion(self.clock(), max_new_tokens, replica)
        self.clock.now_ns = completion.end_ns
        return completion

    def close(self) -> None:
        """Remember."""
        self.closed = True

    def _completion(self, now_ns: int, tokens: int, replica: int) -> Completion:
        ttft_s, itl_s, cv = self._times
        stamps = [now_ns + 1000]
        for index in range(tokens):
            mean = itl_s if index else ttft_s
            stamps.append(stamps[-1] + max(1, round(1e9 * mean * (1 + cv * self._random.gauss(0, 1)))))
        return Completion(
            text=f"replica {replica} " + "word " * tokens,
            token_ids=tuple(range(tokens)),
            submit_ns=now_ns,
            stamps_ns=tuple(stamps),
            tokens=(0, *([1] * tokens)),
            end_ns=stamps[-1] + 1000,
            prompt_tokens=8,
        )

    def _anchor(self) -> ClockAnchor:
        return ClockAnchor(wall_ns=self.clock(), monotonic_ns=self.clock(), boot_ns=self.clock())


class FakeCollector:
    """Counts up by `step` a sample; `fail_at` is the sample that raises."""

    def __init__(self, name: str = "fake", *, step: float = 1, fail_at: int | None = None) -> None:
        self.name = name
        self._step = step
        self._fail_at = fail_at
        self.samples = 0
        self.running = False

    def probe(self) -> Availability:
        """Always there."""
        return Availability(True, gives=("count",))

    def start(self, target: Target) -> Iterable[CounterRow]:  # noqa: ARG002 - the seam's signature
        """The reading before."""
        self.running = True
        return [self._reading()]

    def sample(self) -> Iterable[CounterRow]:
        """The next reading."""
        from pytest_nriperf.errors import CollectorError

        if self.samples == self._fail_at:
            raise CollectorError(f"collector {self.name} fails on purpose")
        return [self._reading()]

    def stop(self) -> Iterable[CounterRow]:
        """The reading after."""
        rows = [self._reading()] if self.running else []
        self.running = False
        return rows

    def _reading(self) -> CounterRow:
        self.samples += 1
        now = time.perf_counter_ns()
        return CounterRow(now, now, self.name, "count", "cumulative", self.samples * self._step, "")


_SERVER = """
import http.server, json, os, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["max_tokens"]
        self.send_response(200)
        self.end_headers()
        for index in range(wanted):
            time.sleep(0.002)
            self.wfile.write(b'data: {"token": %d}\\n' % index)
            self.wfile.flush()
    def log_message(self, *words):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(json.dumps({"port": server.server_address[1]}), flush=True)
server.serve_forever()
"""


class ServedGenerator:
    """A server in the balloon, the client outside: real processes, real HTTP on loopback, made-up tokens.

    Stamps are taken where the client reads them, on the same monotonic clock.
    """

    def __init__(self) -> None:
        self._servers: list[tuple[WorkerStream, int]] = []

    def load(self, grant: Grant) -> Sequence[WorkerInfo]:
        """Start one server per replica."""
        infos = []
        for replica in range(len(grant.placement.replicas)):
            stream = grant.start_worker(replica, Launch(archive=_zipped(_SERVER)))
            line = stream.receive(30.0)
            if line is None:
                raise WorkerError(f"replica {replica}: the server did not start: {stream.close()}")
            self._servers.append((stream, json.loads(line)["port"]))
            infos.append(
                WorkerInfo(replica, stream.pid, stream, {"name": "served", "dtype": ""}, {}, 1, 0, ClockAnchor.now())
            )
        return infos

    def measure(self, work: Work, progress: Callable[[Progress], None]) -> RunData:
        """One request after another on each replica."""
        data = RunData(requests=[], tokens=TokenEvents())
        for replica in range(len(self._servers)):
            before = ClockAnchor.now()
            for request in range(work.warmup + work.requests):
                completion = self.generate(work.prompts[0], work.max_new_tokens, replica)
                phase = "warmup" if request < work.warmup else "measure"
                prompt_id = work.prompts[0].prompt_id
                data.requests.append(RequestRow.from_completion(replica, request, phase, prompt_id, completion))
                data.tokens.add(replica, request, completion.stamps_ns, completion.tokens)
                progress(Progress(replica, request + 1, (request + 1) * work.max_new_tokens))
            data.anchors[replica] = (before, ClockAnchor.now())
        return data

    def generate(self, prompt: Prompt, max_new_tokens: int, replica: int = 0) -> Completion:
        """One streamed answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._servers[replica][1], timeout=30)
        body = json.dumps({"prompt": prompt.text, "max_tokens": max_new_tokens})
        stamps: list[int] = []
        try:
            submit = time.perf_counter_ns()
            connection.request("POST", "/", body)
            answer = connection.getresponse()
            while answer.readline():
                stamps.append(time.perf_counter_ns())
        finally:
            connection.close()
        ids = tuple(range(len(stamps)))
        return Completion("", ids, submit, tuple(stamps), tuple(1 for _ in stamps), time.perf_counter_ns(), 1)

    def close(self) -> None:
        """End the servers."""
        for stream, _ in self._servers:
            stream.close(0.0)


def _zipped(source: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("__main__.py", source)
    return content.getvalue()
