"""Structural schemas as the API server applies them: unknown fields, defaults, violations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.kubernetes.double.kinds import Json

_NAMES = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array"}


def type_name(value: Any) -> str:
    """JSON's name of a value's type."""
    return "null" if value is None else _NAMES[type(value)]


def unknown_fields(value: Any, schema: Json, path: str = "") -> Iterator[str]:
    """Paths of fields that the schema does not know."""
    if isinstance(value, dict) and schema.get("type") == "object":
        properties, rest = schema.get("properties"), schema.get("additionalProperties")
        for key, member in value.items():
            below = f"{path}.{key}" if path else key
            if properties is not None and key in properties:
                yield from unknown_fields(member, properties[key], below)
            elif rest is not None:
                yield from unknown_fields(member, rest, below)
            elif properties is not None and not schema.get("x-kubernetes-preserve-unknown-fields"):
                yield below
    elif isinstance(value, list):
        for number, member in enumerate(value):
            yield from unknown_fields(member, schema.get("items", {}), f"{path}[{number}]")


def pruned(value: Any, schema: Json) -> Any:
    """The value without fields that the schema does not know, with the schema's defaults filled in."""
    if isinstance(value, dict) and schema.get("type") == "object":
        properties, rest = schema.get("properties"), schema.get("additionalProperties")
        if properties is None and rest is None:
            return value
        kept = {}
        for key, member in value.items():
            if properties is not None and key in properties:
                kept[key] = pruned(member, properties[key])
            elif rest is not None:
                kept[key] = pruned(member, rest)
        for key, below in (properties or {}).items():
            if key not in kept and "default" in below:
                kept[key] = pruned(below["default"], below)
        return kept
    if isinstance(value, list):
        return [pruned(member, schema.get("items", {})) for member in value]
    return value


def violations(value: Any, schema: Json, path: str = "") -> Iterator[Json]:
    """Causes as a 422 lists them."""
    kind = schema.get("type")
    fits = kind is None or type_name(value) == kind or (kind == "number" and type_name(value) == "integer")
    if schema.get("x-kubernetes-int-or-string"):
        fits = isinstance(value, int | str)
    if not fits:
        shown = type_name(value)
        inner = path.removeprefix("status.") if path.startswith("status.") else path
        yield _cause(
            "FieldValueTypeInvalid",
            f'Invalid value: "{shown}": {inner} in body must be of type {kind}: "{shown}"',
            path,
        )
        return
    if "enum" in schema and value not in schema["enum"]:
        choices = ", ".join(f'"{choice}"' for choice in schema["enum"])
        yield _cause("FieldValueNotSupported", f'Unsupported value: "{value}": supported values: {choices}', path)
    if "pattern" in schema and isinstance(value, str) and not re.search(schema["pattern"], value):
        text = f"Invalid value: \"{value}\": {path} in body should match '{schema['pattern']}'"
        yield _cause("FieldValueInvalid", text, path)
    yield from _members(value, schema, path)


def _members(value: Any, schema: Json, path: str) -> Iterator[Json]:
    if isinstance(value, dict):
        for key in schema.get("required", ()):
            if key not in value:
                yield _cause("FieldValueRequired", "Required value", f"{path}.{key}" if path else key)
        for key, member in value.items():
            below = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
            if below is not None:
                yield from violations(member, below, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and "items" in schema:
        for number, member in enumerate(value):
            yield from violations(member, schema["items"], f"{path}[{number}]")


def _cause(reason: str, message: str, field: str) -> Json:
    return {"reason": reason, "message": message, "field": field}


def typed_schema(model: str) -> Json:
    """The schema of a built-in type by its name in the official client (`V1Pod`), as deep as it goes."""
    from kubernetes import client

    return _of_type(client, model)


_KNOWN: dict[str, Json] = {}


def _of_type(client: Any, name: str) -> Json:
    """A schema that may contain itself: only values are walked."""
    if name not in _KNOWN:
        _KNOWN[name] = {}
        _KNOWN[name].update(_read_type(client, name))
    return _KNOWN[name]


def _read_type(client: Any, name: str) -> Json:
    if match := re.fullmatch(r"list\[(.+)\]", name, re.IGNORECASE):
        return {"type": "array", "items": _of_type(client, match[1])}
    if match := re.fullmatch(r"dict(?:\(|\[)str, (.+)(?:\)|\])", name, re.IGNORECASE):
        return {"type": "object", "additionalProperties": _of_type(client, match[1])}
    simple = {
        "str": "string",
        "bytes": "string",
        "datetime": "string",
        "int": "integer",
        "bool": "boolean",
        "float": "number",
    }
    if name in simple:
        return {"type": simple[name]}
    model = getattr(client, name, None)
    if model is None or not hasattr(model, "openapi_types"):
        return {}
    return {
        "type": "object",
        "properties": {
            model.attribute_map[field]: _of_type(client, type_) for field, type_ in model.openapi_types.items()
        },
    }
