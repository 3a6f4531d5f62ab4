"""A server of streamed answers for tests: standard library, on loopback, with the habits of real ones."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StreamingServer(ThreadingHTTPServer):
    """Answers `max_tokens` words, `gap_s` apart, chunk by chunk.

    `habits`: `strict` refuses fields that OpenAI does not have, `silent` gives no usage, `dies` breaks every stream off
    after two tokens, `refuses` wants a key, `stops` ends after three tokens.
    """

    daemon_threads = True

    def __init__(self, *habits: str, gap_s: float = 0.002) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.habits = set(habits)
        self.gap_s = gap_s
        self.asked: list[dict[str, Any]] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StreamingServer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.asked.append({**asked, "path": self.path, "key": self.headers.get("Authorization")})
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._answer(asked)
        finally:
            with server.lock:
                server.in_flight -= 1

    def _answer(self, asked: dict[str, Any]) -> None:
        habits = self.server.habits
        strange = {"ignore_eos", "min_tokens"} & set(asked)
        strange |= {"continuous_usage_stats"} & set(asked.get("stream_options") or {})
        if "refuses" in habits and self.headers.get("Authorization") != "Bearer right":
            self._refuse(401, "who are you?")
        elif asked["model"] != "m":
            self._refuse(404, "no such model")
        elif "strict" in habits and strange:
            self._refuse(400, f"unknown field {min(strange)}")
        else:
            self._stream(asked, habits)

    def _refuse(self, status: int, text: str) -> None:
        data = json.dumps({"error": {"message": text}}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, asked: dict[str, Any], habits: set[str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        options = asked.get("stream_options") or {}
        if "silent" in habits:
            options = {}
        chat = "messages" in asked
        count = min(3, asked["max_tokens"]) if "stops" in habits else asked["max_tokens"]
        if chat:
            self._event({"choices": [{"delta": {"role": "assistant"}}]})
        for number in range(count):
            time.sleep(self.server.gap_s)
            choice = {"delta": {"content": f"w{number} "}} if chat else {"text": f"w{number} "}
            event: dict[str, Any] = {"choices": [choice]}
            if options.get("continuous_usage_stats"):
                event["usage"] = {"prompt_tokens": 4, "completion_tokens": number + 1}
            self._event(event)
            if "dies" in habits and number == 1:
                self.close_connection = True
                return
        if options.get("include_usage"):
            self._event({"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": count}})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _event(self, event: dict[str, Any]) -> None:
        self._chunk(f"data: {json.dumps(event)}\n\n".encode())

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()


@contextlib.contextmanager
def streaming_server(*habits: str, gap_s: float = 0.002) -> Iterator[StreamingServer]:
    """A server that is gone afterwards."""
    server = StreamingServer(*habits, gap_s=gap_s)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
