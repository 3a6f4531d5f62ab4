"""The host's end of the worker protocol: one link a worker, a reader thread each, replies matched to operations."""

from __future__ import annotations

import base64
import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pytest_nriperf.errors import MemoryFault, ModelError, NriperfError, SpecError, WorkerError, worker_ended
from pytest_nriperf.generate.child.protocol import VERSION, Message, ProtocolError, decode, encode
from pytest_nriperf.seams import WorkerStream

PING_S = 20.0
TICK_S = 1.0
GRACE_S = 2.0


class Link:
    """A started worker.

    `on_message(replica, message)` gets everything that is no reply, in the reader's thread. `changed` is notified at
    each message, so that one thread can wait for several links. `silence_s` is how long a worker may say nothing at
    all (it beats each second).
    """

    def __init__(
        self,
        replica: int,
        stream: WorkerStream,
        on_message: Callable[[int, Message], None],
        changed: threading.Condition,
        silence_s: float = 60.0,
    ) -> None:
        self.replica = replica
        self.stream = stream
        self.stage = "starting"
        self.failure: WorkerError | None = None
        self.hello: Message | None = None
        self._on_message = on_message
        self._changed = changed
        self._silence_s = silence_s
        self._number = 0
        self._sequence = 0
        self._replies: dict[int, Message] = {}
        self._heard = time.monotonic()
        self._pinged = time.monotonic()
        self._closing = False
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, name=f"worker{replica}", daemon=True)
        self._reader.start()

    @property
    def name(self) -> str:
        """What messages call this worker."""
        return f"the worker of replica {self.replica}"

    def post(self, operation: str, **fields: Any) -> int:
        """Send an operation; the number to wait for. Raises WorkerError."""
        with self._lock:
            self._number += 1
            number = self._number
            try:
                line = encode({"op": operation, "id": number, **fields})
            except ProtocolError as error:
                raise WorkerError(f"{self.name} cannot be given this: {error}", "use a shorter prompt") from error
            # The reader sees the end of the stream too, and says how the worker ended.
            with contextlib.suppress(WorkerError):
                self.stream.send(line)
        return number

    def reply(self, number: int) -> Message | None:
        """The reply, once; None as long as there is none. Raises what the worker reports, or how it ended."""
        with self._changed:
            answer = self._replies.pop(number, None)
            if answer is not None:
                if "error" in answer:
                    raise self._reported(answer["error"])
                return answer
            if self.failure is not None:
                raise self.failure
        return None

    def wait(self, timeout_s: float, waiting: Iterable[tuple[Link, int]]) -> None:
        """Until something changed on one of the links, which share `changed`, or the time is over."""
        with self._changed:
            if not any(number in link._replies or link.failure for link, number in waiting):
                self._changed.wait(timeout_s)

    def call(self, operation: str, timeout_s: float, **fields: Any) -> Message:
        """One operation and its reply. Raises WorkerError, also after `timeout_s`."""
        return wait_for([(self, self.post(operation, **fields))], Patience(timeout_s))[0]

    def read(self, path: str, timeout_s: float = 30.0) -> bytes | None:
        """A file of the worker's node, None when it cannot be read."""
        pieces: list[bytes] = []
        while True:
            answer = self.call("read", timeout_s, path=path, offset=sum(map(len, pieces)))
            if "missing" in answer:
                return None
            pieces.append(base64.b64decode(answer["data"]))
            if answer["end"]:
                return b"".join(pieces)

    def close(self) -> str:
        """End the worker; how it ended. May be called twice."""
        self._closing = True
        self._post_quietly({"op": "bye"})
        # One that failed has no more to say.
        grace_s = GRACE_S if self.failure is None else GRACE_S / 10
        self._reader.join(grace_s)
        return self.stream.close(grace_s)

    def _read(self) -> None:
        while not self._closing:
            try:
                line = self.stream.receive(min(TICK_S, self._silence_s / 4))
            except TimeoutError:
                self._idle()
            except (NriperfError, OSError, ValueError):
                self._ended()
            else:
                if line is None or not line.endswith(b"\n"):
                    self._ended()
                else:
                    self._take(line)
            if self.failure is not None:
                return

    def _take(self, line: bytes) -> None:
        try:
            message = decode(line)
            self._heard = time.monotonic()
            sequence = int(message["seq"])
            if sequence != self._sequence + 1:
                raise ProtocolError(f"message {sequence} after message {self._sequence}")
            self._sequence = sequence
            self._dispatch(message)
        except (ProtocolError, KeyError, TypeError, ValueError, IndexError) as error:
            self._fail(
                WorkerError(
                    f"{self.name} wrote something that is no message: {line[:120]!r} ({type(error).__name__}: {error})",
                    "something in the image or the engine writes to the worker's own channel",
                )
            )
            return
        self._ping()

    def _dispatch(self, message: Message) -> None:
        kind = message["type"]
        if kind == "hello":
            self._greet(message)
        elif kind == "beat":
            self.stage = str(message["stage"])
        if kind != "reply":
            self._on_message(self.replica, message)
        with self._changed:
            if kind == "reply":
                self._replies[int(message["id"])] = message
            self._changed.notify_all()

    def _greet(self, message: Message) -> None:
        self.hello = message
        if message["protocol"] != VERSION:
            self._fail(
                WorkerError(
                    f"{self.name} speaks version {message['protocol']} of the protocol, we speak {VERSION}",
                    "use the same version of pytest-nriperf on both sides",
                )
            )
        if message["clock_offset_ns"]:
            self._fail(
                WorkerError(
                    f"{self.name} runs in a time namespace of its own (monotonic clock off by "
                    f"{message['clock_offset_ns'] / 1e9:g} s), so its stamps join with nothing",
                    "run it in the node's time namespace",
                )
            )

    def _idle(self) -> None:
        self._ping()
        silent = time.monotonic() - self._heard
        if silent > self._silence_s:
            self._fail(
                WorkerError(
                    f"{self.name} has said nothing for {silent:.0f} s (last: {self.stage}), it hangs",
                    "look at what the node does (swap, a stopped process)",
                )
            )

    def _ping(self) -> None:
        if time.monotonic() - self._pinged > PING_S:
            self._pinged = time.monotonic()
            self._post_quietly({"op": "ping", "id": 0})

    def _ended(self) -> None:
        """The stream has ended: find out how the worker did."""
        if self._closing:
            return
        words = self.stream.close(GRACE_S)
        self._fail(worker_ended(f"{self.name} ended while {self.stage}", words))

    def _fail(self, error: WorkerError) -> None:
        with self._changed:
            if self.failure is None and not self._closing:
                self.failure = error
            self._changed.notify_all()

    def _reported(self, error: Any) -> NriperfError:
        fact = f"replica {self.replica}: {error.get('fact', error)}"
        step = str(error.get("next_step", ""))
        if error.get("kind") == "model":
            return ModelError(fact, step)
        if error.get("kind") == "memory":
            return MemoryFault(fact, step or "use a smaller model or dtype, or fewer replicas")
        if error.get("kind") == "request":
            return SpecError(fact, step)
        return WorkerError(fact, step)

    def _post_quietly(self, message: Message) -> None:
        # Never wait for a thread that is sending: it may itself wait for the worker, which waits until we read.
        if self._lock.acquire(blocking=False):
            try:
                with contextlib.suppress(WorkerError):
                    self.stream.send(encode(message))
            finally:
                self._lock.release()


@dataclass(frozen=True)
class Patience:
    """How long to wait: `seconds` from `since(link)` on (a monotonic moment); `late` says what is missing."""

    seconds: float
    since: Callable[[Link], float] | None = None
    late: Callable[[Link], str] = lambda link: f"{link.name} did not finish (last: {link.stage})"


def wait_for(
    pending: Iterable[tuple[Link, int]],
    patience: Patience,
    meanwhile: Callable[[], None] = lambda: None,
) -> list[Message]:
    """The replies to all, in order. The first failure is raised at once; `meanwhile` runs a few times a second."""
    waiting = dict(enumerate(pending))
    replies: dict[int, Message] = {}
    began = time.monotonic()
    while True:
        for position, (link, number) in list(waiting.items()):
            answer = link.reply(number)
            if answer is not None:
                replies[position] = answer
                del waiting[position]
        meanwhile()
        if not waiting:
            return [replies[position] for position in sorted(replies)]
        for link, _ in waiting.values():
            since = patience.since(link) if patience.since else began
            if time.monotonic() - since > patience.seconds:
                raise WorkerError(
                    f"{patience.late(link)} within {patience.seconds:g} s", "raise timeout=, or ask for less work"
                )
        next(iter(waiting.values()))[0].wait(0.2, waiting.values())
