"""Operations that a test adds to a worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def operations(send: Callable[..., None]) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
    """One that answers and sends a message of its own."""

    def twice(message: dict[str, Any]) -> dict[str, Any]:
        send("noticed", number=message["number"])
        return {"number": 2 * message["number"]}

    return {"twice": twice}
