"""The HTTPS front: connections, watches, logs and upgrades to WebSocket."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.kubernetes.double import answers, executing
from tests.kubernetes.double.api import Address, Answer, Api, Request, request_of
from tests.kubernetes.double.faults import Faults
from tests.kubernetes.double.kinds import PODS, Json
from tests.kubernetes.double.store import now
from tests.kubernetes.double.websocket import Sink, WebSocket, accept_key

VERSION: Json = {
    "major": "1",
    "minor": "36",
    "emulationMajor": "1",
    "emulationMinor": "36",
    "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "35",
    "gitVersion": "v1.36.2",
    "gitCommit": "$Format:%H$",
    "gitTreeState": "clean",
    "buildDate": "2026-08-21T00:00:00Z",
    "goVersion": "go1.26.6",
    "compiler": "gc",
    "platform": "linux/amd64",
}
_WATCH_SECONDS = 1800.0
_BOOKMARK_SECONDS = 2.0


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A key and a certificate for 127.0.0.1 that is its own authority."""
    key, certificate = folder / "server.key", folder / "server.crt"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return key, certificate


class Server(ThreadingHTTPServer):
    """Serves until `shutdown`. A request's handler runs in a thread of its own."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, api: Api, runtime: executing.Runtime, faults: Faults, key: Path, certificate: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.api = api
        self.runtime = runtime
        self.faults = faults
        self.open = True
        self.on_request: Callable[[Request], None] = lambda request: None
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._connections: set[socket.socket] = set()

    def get_request(self) -> tuple[socket.socket, Any]:
        """A connection; its handshake is done in the handler's thread."""
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wrapped = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self._connections.add(wrapped)
        return wrapped, address

    def shutdown_request(self, request: Any) -> None:
        """A connection's end."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that break are the business of this server: they are not reported."""

    def drop_connections(self) -> None:
        """End every open connection, as a restart of the server or a lost network does."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        """The handshake, with patience, then the files."""
        self.request.settimeout(30)
        self.request.do_handshake()
        self.request.settimeout(None)
        super().setup()

    def log_message(self, *args: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """All methods are one."""
        self._handle()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def _handle(self) -> None:
        size = int(self.headers.get("content-length") or 0)
        headers = {key.lower(): value for key, value in self.headers.items()}
        request = request_of(self.command, self.path, headers, self.rfile.read(size))
        self.server.on_request(request)
        faults = self.server.faults
        if fault := faults.take(request, ("latency",)):
            time.sleep(fault.value)
        if faults.take(request, ("reset",)):
            self._reset()
            return
        try:
            faults.refuse(request)
            self._serve(request)
        except answers.Refused as refused:
            self._answer(Answer(refused.code, refused.body, refused.headers))
        except (BrokenPipeError, ConnectionError, ssl.SSLError):
            self.close_connection = True

    def _serve(self, request: Request) -> None:
        api = self.server.api
        if answer := _discovery(request, api):
            self._answer(answer)
            return
        address = api.address(request)
        user = api.permit(request, address)
        if address.kind is PODS and address.subresource == "exec":
            self._exec(request, address, user)
        elif address.kind is PODS and address.subresource == "log":
            self._log(request, address)
        elif api.verb(request, address) == "watch":
            self._watch(request, address)
        else:
            answer = api.answer(request, address, user)
            if self.server.faults.take(request, ("lost",)):
                self._reset()
            else:
                self._answer(answer)

    # ---------------------------------------------------------------------------------------------- plain answers

    def _answer(self, answer: Answer) -> None:
        text = isinstance(answer.body, str)
        data = answer.body.encode() if isinstance(answer.body, str) else json.dumps(answer.body).encode() + b"\n"
        self.send_response(answer.code, answers.PHRASES.get(answer.code, ""))
        self.send_header("Content-Type", "text/plain; charset=utf-8" if text else "application/json")
        if text and answer.code == 404:
            self.send_header("X-Content-Type-Options", "nosniff")
        for key, value in answer.headers:
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _reset(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.request.shutdown(socket.SHUT_RDWR)

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _begin_chunks(self, content: str) -> None:
        self.send_response(200, "OK")
        self.send_header("Content-Type", content)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    # ---------------------------------------------------------------------------------------------- watch and log

    def _watch(self, request: Request, address: Address) -> None:
        store = self.server.api.store
        version = request.one("resourceVersion")
        if version and not version.isdigit():
            text = f'Invalid value: "{version}": strconv.ParseUint: parsing "{version}": invalid syntax'
            body = answers.status(500, "", f"resourceVersion: {text}")
            body.pop("reason")
            raise answers.Refused(500, body)
        cut = self.server.faults.take(request, ("cut",))
        seconds = float(request.one("timeoutSeconds") or _WATCH_SECONDS)
        end = time.monotonic() + (min(cut.value, seconds) if cut else seconds)
        bookmarks = request.yes("allowWatchBookmarks")
        marked = False
        self._begin_chunks("application/json")
        known = int(version or 0)
        if 0 < known < store.oldest:
            self._event("ERROR", answers.expired(known, store.oldest))
            self._chunk(b"")
            return
        if known == 0:
            with store.changed:
                present, known = self.server.api.selected(request, address), store.version
            for value in present:
                self._event("ADDED", value)
            if bookmarks:
                self._bookmark(address, known, {"k8s.io/initial-events-end": "true"})
        while self.server.open and (left := end - time.monotonic()) > 0:
            changes, known = store.since(known, address.kind, timeout_s=min(left, 0.2))
            for change in changes:
                if self.server.api.wants(request, address, change.object):
                    self._event(change.type, change.object)
            if bookmarks and not marked and version and left < _BOOKMARK_SECONDS:
                marked = True
                self._bookmark(address, known, {})
        if cut:
            self._reset()
        else:
            self._chunk(b"")

    def _event(self, type_: str, value: Json) -> None:
        self._chunk(json.dumps({"type": type_, "object": value}).encode() + b"\n")

    def _bookmark(self, address: Address, version: int, annotations: Json) -> None:
        metadata: Json = {"resourceVersion": str(version), **({"annotations": annotations} if annotations else {})}
        kind = address.kind
        self._event("BOOKMARK", {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata})

    def _log(self, request: Request, address: Address) -> None:
        store, runtime = self.server.api.store, self.server.runtime
        pod = store.get(PODS, address.name, address.namespace)
        container = executing.container_of(request, pod)
        if request.yes("previous"):
            raise answers.bad_request(f'previous terminated container "{container}" in pod "{address.name}" not found')
        data = runtime.log(pod, container)
        if data is None:
            states = pod["status"].get("containerStatuses") or [{"state": {}}]
            reason = states[0]["state"].get("waiting", {}).get("reason", "ContainerCreating")
            text = f'container "{container}" in pod "{address.name}" is waiting to start: {reason}'
            raise answers.bad_request(text)
        self._begin_chunks("text/plain")
        if selected := _log_part(request, data):
            self._chunk(selected)
        sent = len(data)
        while request.yes("follow") and runtime.running(pod, container) and self.server.open:
            time.sleep(0.02)
            data = runtime.log(pod, container) or b""
            if len(data) > sent:
                self._chunk(data[sent:])
                sent = len(data)
        self._chunk(b"")

    # ------------------------------------------------------------------------------------------------------- exec

    def _exec(self, request: Request, address: Address, user: str) -> None:
        api = self.server.api
        if not api.access.may(user, "create", "", "pods/exec", address.namespace, address.name):
            text = f'pods "{address.name}" is forbidden: '
            raise answers.Refused(403, answers.status(403, "Forbidden", text, answers.details_of(PODS, address.name)))
        pod = api.store.get(PODS, address.name, address.namespace)
        execution = executing.execution_of(request, pod, self.server.runtime)
        self.send_response(101, "Switching Protocols")
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept_key(request.headers.get("sec-websocket-key", "")))
        if execution.protocol:
            self.send_header("Sec-WebSocket-Protocol", execution.protocol)
        self.end_headers()
        self.close_connection = True
        if cut := self.server.faults.take(request, ("cut",)):
            timer = threading.Timer(cut.value, self._reset)
            timer.daemon = True
            timer.start()
        short = self.server.faults.take(request, ("short",))
        web = WebSocket(self.rfile, Short(self.wfile, int(short.value), self._reset) if short else self.wfile)
        executing.run(execution, self.server.runtime, web)


class Short:
    """A stream to a client that ends when it has carried so many bytes."""

    def __init__(self, sink: Sink, size: int, end: Callable[[], None]) -> None:
        self._sink = sink
        self._left = size
        self._end = end

    def write(self, data: bytes, /) -> object:
        """All of it, or the end."""
        self._left -= len(data)
        if self._left < 0:
            self._end()
            raise BrokenPipeError
        return self._sink.write(data)


def _log_part(request: Request, data: bytes) -> bytes:
    """What a request asks of a log. Every line is taken as printed now."""
    if (request.one("sinceTime") or "") > now():
        return b""
    tail, limit = int(request.one("tailLines") or 0), int(request.one("limitBytes") or 0)
    lines = data.splitlines(keepends=True)[-tail:]
    if request.yes("timestamps"):
        stamp = now().replace("Z", ".000000000Z ").encode()
        lines = [stamp + line for line in lines]
    selected = b"".join(lines)
    return selected[:limit] if limit else selected


def _discovery(request: Request, api: Api) -> Answer | None:
    words = request.path.strip("/").split("/")
    if request.path in ("/readyz", "/healthz", "/livez"):
        return Answer(200, "ok")
    if request.path == "/version":
        return Answer(200, VERSION)
    if words[0] == "apis" and len(words) == 2:
        found = [kind for kind in api.kinds if kind.group == words[1]]
        if found:
            versions = [version for version in (found[0].version, found[0].older) if version]
            entries = [{"groupVersion": f"{words[1]}/{version}", "version": version} for version in versions]
            body = {"kind": "APIGroup", "apiVersion": "v1", "name": words[1], "versions": entries}
            return Answer(200, {**body, "preferredVersion": entries[0]})
    if words[0] == "apis" and len(words) == 3:
        found = [kind for kind in api.kinds if (kind.group, kind.version) == (words[1], words[2])]
        if found:
            return Answer(200, _resources(found[0].api_version, found))
    return None


def _resources(version: str, kinds: list[Any]) -> Json:
    verbs = ["delete", "get", "list", "patch", "create", "update", "watch"]
    entries = []
    for kind in kinds:
        names = {"name": kind.plural, "singularName": kind.singular}
        entries.append({**names, "namespaced": kind.namespaced, "kind": kind.kind, "verbs": verbs})
        if kind.status:
            names = {"name": f"{kind.plural}/status", "singularName": ""}
            entries.append(
                {**names, "namespaced": kind.namespaced, "kind": kind.kind, "verbs": verbs[1:2] + verbs[5:6]}
            )
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": entries}
