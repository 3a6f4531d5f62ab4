"""A worker as a process of this machine: lines in, lines out, and certain to end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pytest_nriperf.errors import ProvisionError, WorkerError
from pytest_nriperf.provision.out_of_memory import OutOfMemoryWatch, kill_first

_TAIL_BYTES = 4096
_READ_BYTES = 1 << 16


class ProcessStream:
    """A process in a session of its own (a terminal's Ctrl-C does not reach it), bound before it starts.

    The thread that starts it takes `cpus` as its own affinity first and then waits for the process: the kernel
    sends a parent-death signal when the starting THREAD ends, so that thread must live as long as the process.
    `memory_group` is the version 2 cgroup that the command joins, if it does.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        cpus: frozenset[int],
        before_start: Callable[[], None] = lambda: None,
        memory_group: Path | None = None,
    ) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._buffer = bytearray()
        outcome: list[subprocess.Popen[bytes] | BaseException] = []
        self._ended = ""
        self._closing = threading.Lock()
        self._receiving = threading.Lock()
        self._memory = OutOfMemoryWatch(memory_group)
        started = threading.Event()

        def keep() -> None:
            try:
                os.sched_setaffinity(0, cpus)
                before_start()
                process = subprocess.Popen(
                    command,
                    env=dict(environment),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    start_new_session=True,
                )
            except BaseException as error:  # noqa: BLE001 - raised again in the constructor's thread
                outcome.append(error)
            else:
                outcome.append(process)
            started.set()
            if isinstance(outcome[0], subprocess.Popen):
                outcome[0].wait()

        self._keeper = threading.Thread(target=keep, name="nriperf-worker", daemon=True)
        self._keeper.start()
        started.wait()
        if not isinstance(outcome[0], subprocess.Popen):
            self._errors.close()
            if isinstance(outcome[0], OSError):
                raise ProvisionError(f"{command[0]} cannot be started: {outcome[0]}") from outcome[0]
            raise outcome[0]
        process = outcome[0]
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._input, self._output = process, process.stdin, process.stdout
        self.pid: int | None = process.pid
        kill_first(process.pid)

    def send(self, line: bytes) -> None:
        """Write one line. Raises WorkerError when the process is gone."""
        try:
            self._input.write(line)
            self._input.flush()
        except (BrokenPipeError, ValueError) as error:
            raise WorkerError(f"worker {self.pid} no longer reads its input") from error

    def receive(self, timeout_s: float) -> bytes | None:
        """The next line with its newline, None at the end and after `close`. Raises TimeoutError."""
        # A descriptor that is closed while another thread reads it could be somebody else's file by then.
        with self._receiving:
            return None if self._output.closed else self._next_line(time.monotonic() + timeout_s)

    def _next_line(self, deadline_s: float) -> bytes | None:
        descriptor = self._output.fileno()
        poller = select.poll()
        poller.register(descriptor, select.POLLIN | select.POLLHUP)
        searched = 0
        while True:
            end = self._buffer.find(b"\n", searched)
            if end >= 0:
                line = bytes(self._buffer[: end + 1])
                del self._buffer[: end + 1]
                return line
            searched = len(self._buffer)
            left_s = deadline_s - time.monotonic()
            if left_s < 0 or not poller.poll(left_s * 1000):
                raise TimeoutError
            piece = os.read(descriptor, _READ_BYTES)
            if not piece:
                line = bytes(self._buffer)
                self._buffer.clear()
                return line or None
            self._buffer += piece

    def close(self, grace_s: float = 2.0) -> str:
        """End the process and its group; say how it ended."""
        with self._closing:
            if not self._ended:
                self._ended = self._end(grace_s)
        return self._ended

    def _end(self, grace_s: float) -> str:
        process = self._process
        with contextlib.suppress(OSError):
            self._input.close()
        forced = ""
        for patience, ending in ((grace_s, signal.SIGTERM), (grace_s, signal.SIGKILL), (None, None)):
            self._keeper.join(patience)
            if not self._keeper.is_alive() or ending is None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, ending)
                forced = f"; it did not end by itself and was sent {ending.name}"
        # What the engine itself started shares its group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with self._receiving:
            self._output.close()
        text = _how_it_ended(process.returncode) + forced
        if process.returncode == -signal.SIGKILL and not forced:
            text = self._memory.verdict() or text
        tail = self._tail()
        self._errors.close()
        return text if process.returncode == 0 or not tail else f"{text}\n{tail}"

    def _tail(self) -> str:
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _TAIL_BYTES))
        return self._errors.read().decode(errors="replace").strip()


def _how_it_ended(status: int | None) -> str:
    """An exit status in words.

    >>> _how_it_ended(3), _how_it_ended(-9)
    ('ended with status 3', 'killed by SIGKILL')
    """
    if status is None:
        return "still running"
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
