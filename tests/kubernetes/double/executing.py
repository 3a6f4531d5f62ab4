"""`exec`: a process of a container over WebSocket channels, protocols v5, v4 and v1."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import threading
from dataclasses import dataclass
from typing import IO, Protocol

from tests.kubernetes.double.answers import Refused, bad_request
from tests.kubernetes.double.api import Request
from tests.kubernetes.double.kinds import Json
from tests.kubernetes.double.websocket import BINARY, CLOSE, PING, PONG, TEXT, WebSocket

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io")
FRAME_BYTES = 32768
STDIN, STDOUT, STDERR, ERROR, END = 0, 1, 2, 3, 255


class CannotStart(Exception):
    """The container runtime cannot start the command; the text is its own."""


class Runtime(Protocol):
    """The container runtime as exec and log need it."""

    def start(self, pod: Json, container: str, command: list[str], *, stdin: bool) -> subprocess.Popen[bytes]:
        """Start a process in a running container. CannotStart or Refused otherwise."""

    def running(self, pod: Json, container: str) -> bool:
        """Whether the container runs."""

    def log(self, pod: Json, container: str) -> bytes | None:
        """All output so far, None while the container has not started."""


@dataclass(frozen=True)
class Execution:
    """A checked exec request."""

    pod: Json
    container: str
    command: list[str]
    stdin: bool
    stdout: bool
    stderr: bool
    protocol: str


def container_of(request: Request, pod: Json) -> str:
    """The container that a request for exec or logs means; Refused where it names none of several, or a wrong one."""
    name, names = pod["metadata"]["name"], [container["name"] for container in pod["spec"]["containers"]]
    container = request.one("container")
    if not container and len(names) > 1:
        raise bad_request(f"a container name must be specified for pod {name}, choose one of: [{' '.join(names)}]")
    if container and container not in names:
        raise bad_request(f"container {container} is not valid for pod {name}")
    return container or names[0]


def execution_of(request: Request, pod: Json, runtime: Runtime) -> Execution:
    """The request's meaning; Refused as the API server and kubelet refuse."""
    if not any(request.yes(name) for name in ("stdin", "stdout", "stderr")):
        raise Refused(400, "you must specify at least 1 of stdin, stdout, stderr")
    container = container_of(request, pod)
    offered = [word.strip() for word in request.headers.get("sec-websocket-protocol", "").split(",") if word.strip()]
    protocol = next((name for name in PROTOCOLS if name in offered), "")
    if offered and not protocol:
        raise Refused(403, "")
    if not runtime.running(pod, container):
        raise Refused(500, f'container not found ("{container}")')
    return Execution(
        pod,
        container,
        request.query.get("command", []),
        request.yes("stdin"),
        request.yes("stdout"),
        request.yes("stderr"),
        protocol,
    )


def run(execution: Execution, runtime: Runtime, socket: WebSocket) -> None:
    """Serve the channels until the command ends or the client goes. The command outlives its client."""
    socket.send(BINARY, bytes([STDOUT if execution.stdout else STDERR]))
    try:
        process = runtime.start(execution.pod, execution.container, execution.command, stdin=execution.stdin)
    except CannotStart as error:
        _finish(socket, execution.protocol, _cannot_start(str(error)))
        return
    gone = threading.Event()
    reader = threading.Thread(target=_serve_client, args=(execution, process, socket, gone), daemon=True)
    reader.start()
    pumps = []
    for wanted, stream, channel in (
        (execution.stdout, process.stdout, STDOUT),
        (execution.stderr, process.stderr, STDERR),
    ):
        assert stream is not None
        pumps.append(threading.Thread(target=_pump, args=(stream, channel if wanted else -1, socket, gone)))
        pumps[-1].daemon = True
        pumps[-1].start()
    ended = threading.Thread(target=process.wait, daemon=True)
    ended.start()
    while ended.is_alive() and not gone.is_set():
        ended.join(0.02)
    if gone.is_set():
        return
    for pump in pumps:
        pump.join(1.0)
    status = process.returncode
    _finish(socket, execution.protocol, _outcome(status if status >= 0 else 128 - status))


def _serve_client(
    execution: Execution, process: subprocess.Popen[bytes], socket: WebSocket, gone: threading.Event
) -> None:
    assert process.stdin is None or execution.stdin
    while True:
        try:
            frame = socket.receive()
        except (OSError, ValueError, struct.error):
            frame = None
        if frame is None or frame[0] == CLOSE:
            gone.set()
            with contextlib.suppress(OSError, ValueError):
                socket.send(CLOSE, b"\x03\xe8")
            if process.stdin is not None:
                with contextlib.suppress(OSError, ValueError):
                    process.stdin.close()
            return
        opcode, payload = frame
        if opcode == PING:
            with contextlib.suppress(OSError, ValueError):  # a connection that was cut is found by the next read
                socket.send(PONG, payload)
        elif opcode in (TEXT, BINARY) and payload and process.stdin is not None:
            channel = payload[0]
            with contextlib.suppress(OSError, ValueError):
                if channel == STDIN:
                    process.stdin.write(payload[1:])
                    process.stdin.flush()
                elif channel == END and payload[1:2] == bytes([STDIN]) and execution.protocol == PROTOCOLS[0]:
                    process.stdin.close()


def _pump(stream: IO[bytes], channel: int, socket: WebSocket, gone: threading.Event) -> None:
    """Output to a channel, -1 for nowhere. When the client is gone the output is read on, so that nobody blocks: a
    writer that is cut off differs between runtimes."""
    while True:
        data = os.read(stream.fileno(), FRAME_BYTES)
        if not data:
            stream.close()
            return
        if channel >= 0 and not gone.is_set():
            try:
                socket.send(BINARY, bytes([channel]) + data)
            except (OSError, ValueError):
                gone.set()


def _finish(socket: WebSocket, protocol: str, outcome: Json) -> None:
    body = outcome
    if protocol == PROTOCOLS[0]:
        body = {"metadata": {}, **outcome}
    with contextlib.suppress(OSError, ValueError):
        if protocol in PROTOCOLS[:2]:
            socket.send(BINARY, bytes([ERROR]) + json.dumps(body, separators=(",", ":")).encode())
        socket.send(CLOSE, b"\x03\xe8")


def _outcome(code: int) -> Json:
    if code == 0:
        return {"status": "Success"}
    return {
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: command terminated with exit code {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def _cannot_start(text: str) -> Json:
    message = f"Internal error occurred: Internal error occurred: error executing command in container: {text}"
    cause = {"message": message.partition("Internal error occurred: ")[2]}
    return {
        "status": "Failure",
        "message": message,
        "reason": "InternalError",
        "details": {"causes": [cause]},
        "code": 500,
    }
