"""Merge patches (RFC 7386) and JSON patches (RFC 6902: test, add, replace, remove)."""

from __future__ import annotations

import copy
from typing import Any

from tests.kubernetes.double.kinds import Json


def merged(value: Any, patch: Any) -> Any:
    """The value with a merge patch applied."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(value) if isinstance(value, dict) else {}
    for key, member in patch.items():
        if member is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), member)
    return result


def patched(value: Json, operations: list[Json]) -> Json:
    """The value with a JSON patch applied. ValueError when a test fails or a path is not there."""
    result = copy.deepcopy(value)
    for operation in operations:
        *parents, last = [key.replace("~1", "/").replace("~0", "~") for key in operation["path"].split("/")[1:]]
        target: Any = result
        for key in parents:
            target = target[int(key)] if isinstance(target, list) else target[key]
        index: Any = int(last) if isinstance(target, list) and last != "-" else last
        if operation["op"] == "test":
            if (target.get(index) if isinstance(target, dict) else target[index]) != operation["value"]:
                raise ValueError("a test failed")
        elif operation["op"] == "remove":
            del target[index]
        elif isinstance(target, list) and operation["op"] == "add":
            target.insert(len(target) if index == "-" else index, operation["value"])
        else:
            target[index] = operation["value"]
    return result
