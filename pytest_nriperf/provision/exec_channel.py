"""A command running in a pod, over the official client's WebSocket."""

from __future__ import annotations

import contextlib
import json
import select
import threading
import time
from typing import Any

from pytest_nriperf.errors import WorkerError

Json = dict[str, Any]

_STDOUT, _STDERR, _ERROR = 1, 2, 3


class ConnectionLost(Exception):
    """An exec's connection broke before the command had ended."""


class ExecChannel:
    """A running command's streams. One thread may read while others write."""

    def __init__(self, web: Any) -> None:
        self._web = web
        self._lock = threading.Lock()
        self.errors = b""
        self.outcome: Json | None = None

    def send(self, data: bytes) -> None:
        """To standard input. Raises ConnectionLost."""
        try:
            with self._lock:
                self._web.write_stdin(data)
        except Exception as error:
            raise ConnectionLost(str(error)) from error

    def receive(self, timeout_s: float) -> bytes | None:
        """Some of its output, None when it has ended (then `outcome` tells). TimeoutError, ConnectionLost."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                with self._lock:
                    self._web.update(timeout=0)
                    data: bytes = self._web.read_channel(_STDOUT)
                    self.errors = (self.errors + self._web.read_channel(_STDERR))[-4096:]
                    open_ = self._web.is_open()
            except Exception as error:
                raise ConnectionLost(str(error)) from error
            if data:
                return data
            if not open_:
                self._ended()
                return None
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._wait(min(left, 1.0))

    def run(self, timeout_s: float, data: bytes = b"") -> bytes:
        """All output of a command that ends by itself with status 0. Raises WorkerError otherwise."""
        if data:
            self.send(data)
        pieces = []
        deadline = time.monotonic() + timeout_s
        try:
            while (piece := self.receive(max(0.0, deadline - time.monotonic()))) is not None:
                pieces.append(piece)
        finally:
            self.close()
        if self.outcome is None or self.outcome.get("status") != "Success":
            raise WorkerError(f"the command in the pod failed: {self.how_it_ended()}")
        return b"".join(pieces)

    def close(self) -> None:
        """End the connection. The command may go on."""
        with contextlib.suppress(Exception):
            self._web.close(timeout=1)
        # When the server has closed first, the client leaves its socket open.
        with contextlib.suppress(Exception):
            self._web.sock.shutdown()

    @property
    def exit_code(self) -> int | None:
        """The command's exit status (128 + n for a signal), None when it is not known."""
        outcome = self.outcome or {}
        if outcome.get("status") == "Success":
            return 0
        causes = (outcome.get("details") or {}).get("causes") or []
        codes = [cause["message"] for cause in causes if cause.get("reason") == "ExitCode"]
        return int(codes[0]) if codes else None

    def how_it_ended(self) -> str:
        """In words, with its last errors."""
        outcome = self.outcome or {}
        text = "ended with status 0" if self.exit_code == 0 else str(outcome.get("message", "the connection ended"))
        text = text.rpartition("command terminated with ")[2] or text
        tail = self.errors.decode("utf-8", "replace").strip()
        return f"{text}\n{tail}" if tail else text

    def _ended(self) -> None:
        with self._lock:
            text = self._web.read_channel(_ERROR)
        if not text and self.outcome is None:
            raise ConnectionLost("the connection ended before the command did")
        if text:
            self.outcome = json.loads(text)

    def _wait(self, seconds: float) -> None:
        """For input, without holding the lock."""
        socket = self._web.sock.sock
        if socket is None or socket.fileno() < 0:
            return
        poll = select.poll()
        poll.register(socket.fileno(), select.POLLIN)
        poll.poll(seconds * 1000)
