"""Files of /proc and /sys, read often: descriptors stay open and are read at offset 0."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_nriperf.errors import CollectorError

CHUNK = 1 << 16
# Descriptors that one collector keeps; further files are opened for each reading.
KEPT = 200


class Files:
    """Reads files under `root` (empty: the machine itself; tests give a folder).

    Keeping a descriptor halves the cost of a reading. Keeping one of a task's file also pins the task: a number
    that is used again reads as gone, not as the new task.
    """

    def __init__(self, root: str | Path = "", kept: int = KEPT) -> None:
        self.root = str(root).rstrip("/")
        self._kept = kept
        self._open: dict[str, int] = {}

    def read(self, path: str) -> bytes:
        """The whole file; its descriptor stays open. Raises OSError."""
        descriptor = self._open.get(path)
        if descriptor is not None:
            return _read_all(descriptor)
        descriptor = os.open(self.root + path, os.O_RDONLY | os.O_CLOEXEC)
        if len(self._open) < self._kept:
            self._open[path] = descriptor
            return _read_all(descriptor)
        try:
            return _read_all(descriptor)
        finally:
            os.close(descriptor)

    def read_once(self, path: str) -> bytes:
        """The whole file, nothing stays open. Raises OSError."""
        descriptor = os.open(self.root + path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _read_all(descriptor)
        finally:
            os.close(descriptor)

    def text(self, path: str) -> str:
        """The file as stripped text, empty when it cannot be read; nothing stays open."""
        try:
            return self.read_once(path).decode("utf-8", "replace").strip()
        except OSError:
            return ""

    def names(self, folder: str) -> list[str]:
        """Names in a folder, sorted; none when it cannot be read."""
        try:
            return sorted(os.listdir(self.root + folder))
        except OSError:
            return []

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        return os.path.exists(self.root + path)

    def forget(self, path: str) -> None:
        """Close one file."""
        descriptor = self._open.pop(path, None)
        if descriptor is not None:
            os.close(descriptor)

    def close(self) -> None:
        """Close all."""
        for path in list(self._open):
            self.forget(path)


def _read_all(descriptor: int) -> bytes:
    """Until the end: the kernel hands out long files of /proc in pieces of a page."""
    pieces: list[bytes] = []
    offset = 0
    while True:
        piece = os.pread(descriptor, CHUNK, offset)
        if not piece:
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.append(piece)
        offset += len(piece)


def why(error: Exception) -> str:
    """An exception as a reason in words.

    >>> why(PermissionError(13, "Permission denied", "/proc/1/numa_maps"))
    '/proc/1/numa_maps: Permission denied'
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, CollectorError):
        return str(error)
    return f"{type(error).__name__}: {error}"
