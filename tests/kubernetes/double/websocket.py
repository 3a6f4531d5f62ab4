"""The server's side of a WebSocket (RFC 6455): frames in and out of a socket."""

from __future__ import annotations

import base64
import hashlib
import struct
import threading
from typing import Protocol

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Source(Protocol):
    """Where frames come from."""

    def read(self, count: int, /) -> bytes:
        """Exactly `count` bytes, fewer at the end."""


class Sink(Protocol):
    """Where frames go."""

    def write(self, data: bytes, /) -> object:
        """All of it."""


def accept_key(key: str) -> str:
    """The answer to a client's key.

    >>> accept_key("dGhlIHNhbXBsZSBub25jZQ==")
    's3pPLMBiTxaQ9kYGzzhZRbK+xOo='
    """
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()


class WebSocket:
    """Frames; several threads may send."""

    def __init__(self, source: Source, sink: Sink) -> None:
        self._source = source
        self._sink = sink
        self._sending = threading.Lock()

    def receive(self) -> tuple[int, bytes] | None:
        """The next frame's opcode and payload, None at the end of the connection."""
        payload = b""
        opcode = 0
        while True:
            head = self._source.read(2)
            if len(head) < 2:
                return None
            final, code = head[0] & 0x80, head[0] & 0x0F
            opcode = code or opcode
            length = head[1] & 0x7F
            if length == 126:
                (length,) = struct.unpack(">H", self._source.read(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", self._source.read(8))
            mask = self._source.read(4) if head[1] & 0x80 else b""
            data = self._source.read(length)
            if mask:
                repeated = (mask * (length // 4 + 1))[:length]
                data = (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(length, "big")
            payload += data
            if final:
                return opcode, payload

    def send(self, opcode: int, payload: bytes) -> None:
        """One frame, unmasked as servers do."""
        length = len(payload)
        if length < 126:
            head = struct.pack(">BB", 0x80 | opcode, length)
        elif length < 1 << 16:
            head = struct.pack(">BBH", 0x80 | opcode, 126, length)
        else:
            head = struct.pack(">BBQ", 0x80 | opcode, 127, length)
        with self._sending:
            self._sink.write(head + payload)
