"""A worker in a pod: lines over exec. A relay in the pod keeps the worker when the connection breaks."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_nriperf.errors import ProvisionError, WorkerError
from pytest_nriperf.provision.api_errors import ApiFailure
from pytest_nriperf.provision.exec_channel import ConnectionLost, ExecChannel
from pytest_nriperf.provision.out_of_memory import NO_GROUP, NO_KILL_COUNTED
from pytest_nriperf.provision.pod_relay import NO_MEMORY_POLICY
from pytest_nriperf.units import format_bytes

Json = dict[str, Any]

# The worker beats each second, so a connection that is silent for longer is dead without having said so.
SILENT_S = 20.0
# How long the API server may take to say that a container has ended.
_STATUS_LAG_S = 3.0
RECONNECT_S = 60.0


@dataclass
class PodConnection:
    """How to reach a worker: `open` starts a command in its pod, `why_gone` says what became of the pod."""

    open: Callable[[list[str]], ExecChannel]
    run: list[str]
    attach: list[str]
    launch: Json
    why_gone: Callable[[], WorkerError | None]
    silent_s: float = SILENT_S
    reconnect_s: float = RECONNECT_S
    grace_s: float = 5.0
    name: str = ""
    notes: list[str] = field(default_factory=list)


class PodStream:
    """Implements `seams.WorkerStream`. `inner_pid` is the worker's number inside its pod."""

    def __init__(self, connection: PodConnection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._receiving = threading.Lock()
        self._unsent: deque[tuple[int, bytes]] = deque()
        self._number = 0
        self._have = 0
        self._rest = b""
        self._lines: deque[bytes] = deque()
        self._exit: Json | None = None
        self._ended = ""
        self._lost = ""
        self._channel: ExecChannel | None = None
        self._heard = time.monotonic()
        self.inner_pid = 0
        self.reconnections = 0
        self._begin()

    @property
    def pid(self) -> int | None:
        """Unknown: the pod has a PID namespace of its own."""
        return None

    # ------------------------------------------------------------------------------------------------- the seam's

    def send(self, line: bytes) -> None:
        """Write one line; it arrives also when the connection breaks meanwhile. Raises WorkerError when it ended."""
        if self._exit is not None or self._ended:
            raise WorkerError(f"worker {self._connection.name} no longer reads its input")
        with self._lock:
            self._number += 1
            frame = b"d %d %s\n" % (self._number, line.rstrip(b"\n"))
            self._unsent.append((self._number, frame))
            self._write(frame)

    def receive(self, timeout_s: float) -> bytes | None:
        """The next line, None at the end. Raises TimeoutError; WorkerError when the worker cannot be reached again."""
        deadline = time.monotonic() + timeout_s
        with self._receiving:
            while not self._lines:
                if self._exit is not None or self._ended:
                    return None
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self._take_some(left)
            return self._lines.popleft()

    def close(self, grace_s: float = 2.0) -> str:
        """Ask the relay to end the worker; how it ended."""
        if not self._ended:
            if self._exit is None and not self._lost:
                patience_s = 3 * grace_s + 2
                self._connection.reconnect_s = min(self._connection.reconnect_s, patience_s)
                with contextlib.suppress(Exception), self._lock:
                    self._write(b"q %g\n" % grace_s)
                self._wait_for_exit(patience_s)
            self._ended = self._words()
            if self._channel is not None:
                self._channel.close()
        return self._ended

    # ------------------------------------------------------------------------------------------------------- inside

    def _begin(self) -> None:
        """Start the worker. When the connection breaks before the relay has spoken it may or may not run: attaching
        tells."""
        try:
            self._channel = self._connection.open(self._connection.run)
            self._channel.send(json.dumps(self._connection.launch).encode() + b"\n")
            self._greet()
        except ConnectionLost:
            self._reconnect(start_again=True)

    def _greet(self) -> None:
        assert self._channel is not None
        self._rest = b""
        self._channel.send(b"c %d\n" % self._have)
        deadline = time.monotonic() + self._connection.silent_s
        while True:
            piece = self._receive(deadline - time.monotonic())
            *lines, self._rest = (self._rest + piece).split(b"\n")
            for index, line in enumerate(lines):
                if line.startswith(b"h "):
                    words = line.split()
                    self.inner_pid = int(words[2])
                    self._resend(int(words[1]))
                    for rest in lines[index + 1 :]:
                        self._frame(rest)
                    return

    def _receive(self, timeout_s: float) -> bytes:
        """Some bytes; ConnectionLost when there are none, WorkerError when the relay is not there."""
        assert self._channel is not None
        try:
            piece = self._channel.receive(max(0.0, timeout_s))
        except TimeoutError:
            raise ConnectionLost(f"silent for {self._connection.silent_s:g} s") from None
        if piece is None:
            text = self._channel.how_it_ended()
            if self._channel.exit_code in (None, 0):
                raise ConnectionLost(text)
            raise self._given_up(
                self._gone_soon() or WorkerError(f"the worker of pod {self._connection.name} cannot be reached: {text}")
            )
        self._heard = time.monotonic()
        return piece

    def _given_up(self, error: WorkerError) -> WorkerError:
        self._lost = error.fact
        return error

    def _gone_soon(self) -> WorkerError | None:
        """What became of the pod: its status follows the end of its processes by about a second."""
        deadline = time.monotonic() + _STATUS_LAG_S
        while (gone := self._gone()) is None and time.monotonic() < deadline:
            time.sleep(0.1)
        return gone

    def _gone(self) -> WorkerError | None:
        """What became of the pod; None also when nobody can be asked now."""
        try:
            return self._connection.why_gone()
        except ApiFailure:
            return None

    def _resend(self, arrived: int) -> None:
        with self._lock:
            while self._unsent and self._unsent[0][0] <= arrived:
                self._unsent.popleft()
            for _, frame in self._unsent:
                self._write(frame)

    def _write(self, frame: bytes) -> None:
        """Send now; when the connection is broken the reader finds out and sends what is left again."""
        with contextlib.suppress(ConnectionLost):
            if self._channel is not None:
                self._channel.send(frame)

    def _take_some(self, timeout_s: float) -> None:
        assert self._channel is not None
        try:
            try:
                piece = self._channel.receive(timeout_s)
            except TimeoutError:
                if time.monotonic() - self._heard > self._connection.silent_s:
                    raise ConnectionLost(f"silent for {self._connection.silent_s:g} s") from None
                return
            if piece is None:
                raise ConnectionLost(self._channel.how_it_ended())
        except ConnectionLost:
            self._reconnect()
            return
        self._heard = time.monotonic()
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._frame(line)

    def _frame(self, line: bytes) -> None:
        kind, _, rest = line.partition(b" ")
        if kind == b"a":
            with self._lock:
                while self._unsent and self._unsent[0][0] <= int(rest):
                    self._unsent.popleft()
            return
        if kind not in (b"d", b"x"):
            return
        number, _, text = rest.partition(b" ")
        if int(number) == self._have + 1:
            self._have += 1
            if kind == b"d":
                self._lines.append(text + b"\n")
            else:
                self._exit = json.loads(text)
        with self._lock:
            self._write(b"a %d\n" % self._have)

    def _reconnect(self, *, start_again: bool = False) -> None:
        """Attach again; WorkerError with what became of the pod when that cannot be."""
        deadline = time.monotonic() + self._connection.reconnect_s
        delay = 0.1
        if self._channel is not None:
            self._channel.close()
        last = ""
        while time.monotonic() < deadline:
            gone = self._gone()
            if gone is not None:
                raise self._given_up(gone)
            try:
                self._channel = self._connection.open(self._connection.attach)
                self._greet()
                self.reconnections += 1
                self._heard = time.monotonic()
                return
            except WorkerError:
                if not start_again:
                    raise
                start_again = False
                self._lost = ""
                with contextlib.suppress(ConnectionLost, ApiFailure):
                    self._begin()
                    return
            except (ConnectionLost, ApiFailure) as error:
                last = str(error)
            time.sleep(delay)
            delay = min(delay * 2, 2.0)
        raise self._given_up(
            WorkerError(
                f"the connection to the worker of pod {self._connection.name} broke and could not be made again for "
                f"{self._connection.reconnect_s:g} s ({last[:200]})",
                "check the network between here and the API server, and kubectl get nodes",
            )
        )

    def _wait_for_exit(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        # The link's reader may be waiting in `receive`: whoever of us reads, both see the end.
        while self._exit is None and time.monotonic() < deadline:
            if self._receiving.acquire(timeout=0.1):
                try:
                    self._take_some(min(0.5, max(0.0, deadline - time.monotonic())))
                except (WorkerError, ProvisionError):
                    return
                finally:
                    self._receiving.release()

    def _words(self) -> str:
        if self._exit is None:
            gone = self._gone()
            lost = self._lost or "it could not be reached to be ended; its relay ends it"
            return gone.fact if gone is not None else lost
        status, tail = int(self._exit["status"]), str(self._exit["tail"])
        if status == NO_MEMORY_POLICY:
            where = f"its memory cannot be bound or interleaved in pod {self._connection.name} ({tail})"
            return f"{where}: let the balloon type pin memory, allow set_mempolicy there, or use memory='any'"
        text = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        if status == -signal.SIGKILL and "kills" in self._exit:
            text = self._killed(self._exit)
        return text if status == 0 or not tail else f"{text}\n{tail}"

    @staticmethod
    def _killed(end: Mapping[str, Any]) -> str:
        """What the container's own counters say of a worker that was ended by SIGKILL."""
        if not end["kills"]:
            return NO_KILL_COUNTED
        limit = end["limit"]
        if end["limit_reached"] and limit is not None:
            return f"killed by the kernel: out of memory (the container's limit of {format_bytes(limit)} was reached)"
        return f"killed by the kernel: out of memory ({NO_GROUP})"
