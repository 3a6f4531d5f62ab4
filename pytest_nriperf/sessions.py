"""Sessions: the folder that one pytest session on a node leaves behind, and what is found in it later.

`<out>/<session>/session.json` says when it ran, where and with which command line; every other folder in it is a
recording. A session that was not finished can be resumed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from pytest_nriperf.atomic import sync_folder
from pytest_nriperf.errors import RecordingError
from pytest_nriperf.recording import DOCUMENT, FORMAT, plain, read_json, write_json

SESSION = "session.json"
CELLS = "cells.jsonl"


def folder_name(test: str, ordinal: int = 1) -> str:
    """A folder name for a test's `ordinal`-th measurement: readable, safe in shells, different for different ids.

    The test's own id stands in the recording's document. No `=`, which DuckDB takes for a partition's column.

    >>> folder_name("perf/test_chat.py::test_chat[replicas=4-cpus=8]")
    'test_chat-test_chat-replicas_4-cpus_8.f5f9aa8a'
    """
    digest = hashlib.sha256(test.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    file, _, rest = test.partition("::")
    readable = f"{file.rpartition('/')[2].removesuffix('.py')}-{rest}"
    readable = re.sub(r"[^A-Za-z0-9-]+", lambda found: "-" if found[0] in ("::", "[") else "_", readable)
    readable = readable.strip("-_")[:80] or "test"
    return f"{readable}.{digest}" + (f".{ordinal}" if ordinal > 1 else "")


@dataclass
class Session:
    """The folder of one session, held open: a kernel lock on it ends with the process, however that ends.

    Leaving the context without `finish()` leaves a session that can be resumed.
    """

    folder: Path
    document: dict[str, Any]
    _lock: int | None = field(default=None, repr=False)

    @classmethod
    def start(cls, out: Path, **facts: Any) -> Session:
        """Create `<out>/<UTC time>-<random>/` with `facts` (node, command line, ...) in its session.json."""
        now = datetime.now(UTC)
        folder = out / f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
        try:
            new = not out.exists()
            folder.mkdir(parents=True)
            if new:
                (out / ".gitignore").write_text("*\n")
        except OSError as error:
            raise RecordingError(f"{folder}: {error.strerror}", "name a writable folder with --nri-out") from error
        document = {
            "format": FORMAT,
            "session": folder.name,
            **facts,
            "start": now.isoformat(),
            "end": None,
            "finished": False,
        }
        session = cls(folder, document, _lock_folder(folder))
        write_json(folder / SESSION, document)
        return session

    @classmethod
    def resume(cls, out: Path, **facts: Any) -> Session | None:
        """Take over the newest session under `out` that is unfinished, held by no process and agrees with `facts`."""
        for folder, document, lock in _unfinished(out, facts):
            document |= {"end": None, "resumed": [*document.get("resumed", ()), datetime.now(UTC).isoformat()]}
            write_json(folder / SESSION, document)
            return cls(folder, document, lock)
        return None

    def recording(self, test: str, ordinal: int = 1, *, durable: bool = True) -> Path:
        """The folder of the test's `ordinal`-th measurement, created where it does not exist yet."""
        folder = self.folder / folder_name(test, ordinal)
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise RecordingError(f"{folder}: {error.strerror}", "make room or name another --nri-out") from error
        if durable:
            sync_folder(self.folder)
        return folder

    def finish(self, **facts: Any) -> None:
        """Mark the session as finished: nothing is left to resume."""
        self.document |= {**facts, "finished": True}

    def close(self) -> None:
        """Write when the session ended and let go of it. May be called twice."""
        if self._lock is None:
            return
        self.document["end"] = datetime.now(UTC).isoformat()
        try:
            write_json(self.folder / SESSION, self.document)
        finally:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _unfinished(out: Path, facts: Mapping[str, Any]) -> Iterator[tuple[Path, dict[str, Any], int]]:
    """Sessions that can be taken over, the newest first, each with a descriptor that holds it."""
    for folder in reversed(find_sessions(out)):
        document = read_json(folder / SESSION)
        if document.get("finished") or any(document.get(key) != plain(value) for key, value in facts.items()):
            continue
        lock = _lock_folder(folder)
        if lock is not None:
            yield folder, document, lock


def resumable(out: Path, **facts: Any) -> Path | None:
    """The folder of the session that `Session.resume` would take over; it is not held."""
    for folder, _, lock in _unfinished(out, facts):
        os.close(lock)
        return folder
    return None


def note_cell(folder: Path, **facts: Any) -> None:
    """Add a line to the session's list of the cells of sweeps that are done (test, outcome, seconds, recordings)."""
    with (folder / CELLS).open("a", encoding="ascii") as file:
        file.write(json.dumps(plain(facts)) + "\n")


def read_cells(folder: Path, **facts: Any) -> list[dict[str, Any]]:
    """The cells of a session's sweeps that are done, oldest first; none when the session does not agree with `facts`.

    A line that a crash cut off is left out: that cell is measured again.
    """
    file = folder / CELLS
    if not file.is_file():
        return []
    if facts:
        document = read_json(folder / SESSION)
        if any(document.get(key) != plain(value) for key, value in facts.items()):
            return []
    found = []
    for line in file.read_text(encoding="ascii", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [cell for cell in found if isinstance(cell, dict) and {"test", "seconds", "recordings"} <= cell.keys()]


def find_sessions(out: Path) -> list[Path]:
    """Folders of the sessions under `out`, oldest first."""
    return sorted(file.parent for file in out.glob(f"*/{SESSION}"))


def find_recordings(path: Path) -> list[Path]:
    """Folders of the recordings that `path` names: a recording, a session (all of it) or an out folder (its newest).

    Raises RecordingError when there is none.
    """
    if path.name == DOCUMENT or (path / DOCUMENT).exists():
        return [path.parent if path.name == DOCUMENT else path]
    for folder in [path, *reversed(find_sessions(path))]:
        found = sorted(file.parent for file in folder.glob(f"*/{DOCUMENT}"))
        if found:
            return sorted(found, key=lambda each: ((each / DOCUMENT).stat().st_mtime_ns, each.name))
    what = "holds no recording" if path.is_dir() else "does not exist"
    raise RecordingError(f"{path} {what}", "name a recording, a session or the folder given to --nri-out")


def _lock_folder(folder: Path) -> int | None:
    """A descriptor that holds the folder until it is closed; None when another process holds it."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:  # a file system without locks: nobody can be seen to hold it
        pass
    return descriptor
