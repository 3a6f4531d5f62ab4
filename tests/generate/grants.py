"""A grant for tests of generators: plain child processes on the CPUs of this test, no placement behind it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from pytest_nriperf.balloons import Placement
from pytest_nriperf.errors import WorkerError
from pytest_nriperf.generate.child.protocol import Lines
from pytest_nriperf.seams import Launch


class PipeStream:
    """A worker behind pipes."""

    def __init__(self, command: list[str], environment: Mapping[str, str], errors: Path) -> None:
        self._errors = errors
        with errors.open("wb") as sink:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        self._lines = Lines()
        self._ready: list[bytes] = []

    @property
    def pid(self) -> int | None:
        return self.process.pid

    def send(self, line: bytes) -> None:
        assert self.process.stdin
        try:
            self.process.stdin.write(line)
            self.process.stdin.flush()
        except (OSError, ValueError) as error:
            raise WorkerError("the worker is gone") from error

    def receive(self, timeout_s: float) -> bytes | None:
        assert self.process.stdout
        while not self._ready:
            try:
                if not select.select([self.process.stdout], [], [], timeout_s)[0]:
                    raise TimeoutError
                piece = os.read(self.process.stdout.fileno(), 65536)
            except ValueError:
                return None
            if not piece:
                return None
            self._ready.extend(self._lines.feed(piece))
        return self._ready.pop(0)

    def close(self, grace_s: float = 2.0) -> str:
        with contextlib.suppress(OSError, ValueError):
            assert self.process.stdin
            self.process.stdin.close()
        try:
            status = self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        tail = self._errors.read_text(errors="replace")[-2000:].strip()
        if status == 0:
            return "ended by itself with status 0"
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return f"{how}: {tail}" if tail else how


class PlainGrant:
    """`replicas` workers, each on the CPUs given for it (default: all CPUs that this process may use)."""

    mechanism = "none"

    def __init__(self, folder: Path, replicas: int = 1, cpus: frozenset[int] | None = None) -> None:
        self._folder = folder
        allowed = cpus or frozenset(os.sched_getaffinity(0))
        views = tuple(SimpleNamespace(visible=allowed, allocated=allowed) for _ in range(replicas))
        self.placement = cast(Placement, SimpleNamespace(replicas=views))
        self.streams: list[PipeStream] = []

    def start_worker(self, replica: int, launch: Launch) -> PipeStream:
        archive = self._folder / "worker.zip"
        archive.write_bytes(launch.archive)
        stream = PipeStream(
            [launch.python or sys.executable, str(archive), *launch.arguments],
            launch.environment,
            self._folder / f"stderr{replica}-{len(self.streams)}",
        )
        self.streams.append(stream)
        return stream

    def verify(self, replica: int, stream: object) -> Mapping[str, Any]:
        return {}


@contextlib.contextmanager
def plain_grant(replicas: int = 1) -> Iterator[PlainGrant]:
    """A grant whose processes are all gone when it ends; fails when a closed generator left one."""
    with tempfile.TemporaryDirectory() as folder:
        grant = PlainGrant(Path(folder), replicas)
        try:
            yield grant
        finally:
            left = [stream for stream in grant.streams if stream.process.poll() is None]
            for stream in grant.streams:
                stream.close(0)
                assert stream.process.stdout
                stream.process.stdout.close()
        assert not left, f"still running: {[stream.pid for stream in left]}"
