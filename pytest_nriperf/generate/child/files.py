"""Reads the node's files for the host: once in pieces, or again and again with the time of each reading."""

from __future__ import annotations

import base64
import os
import threading
import time
from typing import Any

from pytest_nriperf.generate.child.protocol import Outbox

PIECE = 256 * 1024


def read_piece(path: str, offset: int) -> dict[str, Any]:
    """A piece of a file from `offset`: `data` in base64, `end` when nothing follows, `missing` when unreadable."""
    if not path.startswith("/"):
        return {"missing": "no absolute path"}
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return {"missing": error.strerror or type(error).__name__}
    try:
        os.lseek(descriptor, offset, os.SEEK_SET)
        pieces: list[bytes] = []
        size = 0
        while size < PIECE:
            piece = os.read(descriptor, PIECE - size)
            if not piece:
                break
            pieces.append(piece)
            size += len(piece)
    except OSError as error:
        return {"missing": error.strerror or type(error).__name__}
    finally:
        os.close(descriptor)
    return {"data": base64.b64encode(b"".join(pieces)).decode("ascii"), "end": size < PIECE}


class Sampling:
    """Reads small files at a steady rate, descriptors kept open; one message a round."""

    def __init__(self, paths: list[str], hertz: float, outbox: Outbox) -> None:
        self._paths = paths
        self._period_ns = int(1e9 / min(max(hertz, 0.01), 100.0))
        self._outbox = outbox
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampling", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the round that is under way."""
        self._stop.set()
        self._thread.join(2)

    def _run(self) -> None:
        files: dict[str, int] = {}
        for path in self._paths:
            try:
                files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                self._outbox.send("sample_missing", path=path, why=error.strerror or type(error).__name__)
        due = time.perf_counter_ns()
        while not self._stop.wait(max(0.0, (due - time.perf_counter_ns()) / 1e9)):
            self._round(files, due)
            due = max(due + self._period_ns, time.perf_counter_ns())
        for descriptor in files.values():
            os.close(descriptor)

    def _round(self, files: dict[str, int], due: int) -> None:
        readings = []
        before = time.thread_time_ns()
        for path, descriptor in list(files.items()):
            stamp = time.perf_counter_ns()
            try:
                text = os.pread(descriptor, 64 * 1024, 0).decode("utf-8", "replace")
            except OSError as error:
                del files[path]
                os.close(descriptor)
                self._outbox.send("sample_missing", path=path, why=error.strerror or type(error).__name__)
                continue
            readings.append([path, stamp, text])
        late = time.perf_counter_ns() - due
        self._outbox.send("samples", readings=readings, late_ns=late, cpu_ns=time.thread_time_ns() - before)
