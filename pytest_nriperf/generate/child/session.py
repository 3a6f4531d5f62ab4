"""A worker that outlives its connection: a relay on standard input and output in front, a socket between them.

An exec into a container does not end what it started when its connection drops, and its pipes cannot be reached again.
So the worker listens on a socket; `python ARCHIVE --session NAME` starts it and relays, `--attach NAME` relays to the
one that runs already. The newest connection wins. A worker without one ends itself after `linger` seconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable

PIECE = 32 * 1024
TAIL = 4096
GONE = 3


def address(name: str) -> str:
    """The abstract socket of a session: no file, gone with the worker, of this network namespace."""
    return f"\0nriperf-worker-{os.getuid()}-{name}"


def start(name: str, serve: Callable[[socket.socket], None]) -> int:
    """Start the worker of a session and relay to it; how it ended as an exit status."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address(name))
    listener.listen(4)
    errors = os.memfd_create("stderr") if hasattr(os, "memfd_create") else os.dup(2)
    worker = os.fork()
    if worker == 0:
        try:
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor, source in ((0, null), (1, errors), (2, errors)):
                os.dup2(source, descriptor)
            serve(listener)
        finally:
            os._exit(1)
    listener.close()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(address(name))
    if not relay(connection):
        return 0
    status = _wait(worker)
    show_tail(errors)
    return status


def attach(name: str) -> int:
    """Relay to the worker of a session that runs already."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(address(name))
    except OSError as error:
        print(f"the worker of session {name} is gone ({error.strerror})", file=sys.stderr, flush=True)
        return GONE
    worker = peer(connection)[0]
    errors = -1
    with contextlib.suppress(OSError):
        errors = os.open(f"/proc/{worker}/fd/2", os.O_RDONLY)
    if not relay(connection):
        return 0
    show_tail(errors)
    return GONE


def relay(connection: socket.socket) -> bool:
    """Pass bytes both ways until one side ends; whether that was the worker's."""
    poll = select.poll()
    for descriptor in (0, connection.fileno()):
        poll.register(descriptor, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            try:
                piece = os.read(0, PIECE) if descriptor == 0 else connection.recv(PIECE)
            except OSError:
                piece = b""
            if not piece:
                connection.close()
                return descriptor != 0
            try:
                if descriptor == 0:
                    connection.sendall(piece)
                else:
                    _write(1, piece)
            except OSError:
                connection.close()
                return descriptor == 0


def accept(listener: socket.socket, connection: socket.socket | None, timeout_s: float | None) -> socket.socket | None:
    """Wait until the connection can be read (and return it), or for a new one; None when the time is over.

    Connections of other users are refused.
    """
    end = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        if connection is not None:
            poll.register(connection, select.POLLIN)
        ready = {number for number, _ in poll.poll(None if end is None else max(0.0, end - time.monotonic()) * 1000)}
        if not ready:
            return None
        if listener.fileno() not in ready:
            return connection
        newest, _ = listener.accept()
        if peer(newest)[1] in (0, os.getuid()):
            return newest
        newest.close()


def peer(connection: socket.socket) -> tuple[int, int]:
    """Process and user at the other end."""
    process, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return process, user


def show_tail(errors: int) -> None:
    """The last lines of the worker's standard error, on ours."""
    with contextlib.suppress(OSError):
        size = os.lseek(errors, 0, os.SEEK_END)
        _write(2, os.pread(errors, TAIL, max(0, size - TAIL)))


def _wait(worker: int) -> int:
    """The exit status of a child as a shell gives it."""
    for _ in range(200):
        process, status = os.waitpid(worker, os.WNOHANG)
        if process:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        time.sleep(0.01)
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    return 128 + signal.SIGKILL


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
