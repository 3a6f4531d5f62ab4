"""One measurement on a machine at a time: a lock that the kernel releases when its holder dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pytest_nriperf.errors import NodeBusyError, ProvisionError

LOCK_FOLDER = "NRIPERF_LOCK_DIR"


def lock_path() -> Path:
    """Where the lock file of this machine lies.

    Containers that share one machine's CPUs mount one folder of the host and name it in NRIPERF_LOCK_DIR, so that
    they exclude each other too.
    """
    named = os.environ.get(LOCK_FOLDER)
    if named:
        return Path(named) / "nriperf.lock"
    shared = Path("/run/lock")
    folder = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
    return folder / "nriperf.lock"


@contextlib.contextmanager
def node_lock(node: str) -> Iterator[None]:
    """Hold the machine. Raises NodeBusyError naming the holder and since when."""
    descriptor = _open(lock_path())
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NodeBusyError(
                f"node {node} is being measured by {_holder(descriptor)}",
                "wait until it ends (two measurements on one node spoil each other), or end it",
            ) from None
        holder = {"pid": os.getpid(), "command": " ".join(sys.argv)[:200], "since": time.strftime("%F %T")}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def check_lock() -> None:
    """Whether the lock could be taken by this user. Raises ProvisionError."""
    os.close(_open(lock_path()))


def _open(path: Path) -> int:
    """The lock file, made for everybody: the next user of this machine must be able to lock it too."""
    try:
        # An existing file of another user in a sticky folder may be opened only without O_CREAT
        # (fs.protected_regular), so creating is the second try.
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        with contextlib.suppress(PermissionError):
            os.fchmod(descriptor, 0o666)
    except OSError as error:
        raise ProvisionError(
            f"the node's lock {path} cannot be opened: {error.strerror}",
            f"make it writable, or name another folder in {LOCK_FOLDER}",
        ) from error
    return descriptor


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} ({holder['command']}) since {holder['since']}"
    except (ValueError, KeyError, OSError):
        return "another process"
