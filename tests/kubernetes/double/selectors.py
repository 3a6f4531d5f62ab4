"""Label and field selectors of lists and watches."""

from __future__ import annotations

import re

from tests.kubernetes.double.kinds import Json


def matches(value: Json, labels: str, fields: str) -> bool:
    """Whether an object is selected."""
    return _labels_match(value["metadata"].get("labels") or {}, labels) and _fields_match(value, fields)


def _labels_match(labels: dict[str, str], selector: str) -> bool:
    for part in re.findall(r"[^,(]+(?:\([^)]*\))?", selector):
        words = re.fullmatch(r"\s*([^\s=!]+)\s*(?:(==|=|!=)\s*(\S*)|\s(in|notin)\s*\(([^)]*)\))?\s*", part)
        assert words is not None, selector
        key, sign, value, word, values = words.groups()
        actual = labels.get(key)
        if sign in ("=", "=="):
            fits = actual == value
        elif sign == "!=":
            fits = actual != value
        elif word:
            fits = (actual in [v.strip() for v in values.split(",")]) == (word == "in")
        else:
            fits = actual is not None
        if not fits:
            return False
    return True


def _fields_match(value: Json, selector: str) -> bool:
    for part in filter(None, selector.split(",")):
        path, sign, wanted = re.split(r"(!=|==|=)", part, maxsplit=1)
        actual: object = value
        for key in path.split("."):
            actual = actual.get(key) if isinstance(actual, dict) else None
        if ((actual or "") == wanted) != (sign != "!="):
            return False
    return True
