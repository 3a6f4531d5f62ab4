"""Configurations of models that exist with random weights, and a tokenizer for those that have none."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

from pytest_nriperf.generate.child.engine import EngineError

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "gpt-neo-125m": {
        "model_type": "gpt_neo",
        "vocab_size": 50257,
        "max_position_embeddings": 2048,
        "hidden_size": 768,
        "num_layers": 12,
        "num_heads": 12,
        "attention_types": [[["global", "local"], 6]],
        "window_size": 256,
        "intermediate_size": 3072,
        "activation_function": "gelu_new",
        "bos_token_id": 50256,
        "eos_token_id": 50256,
    }
}


def configuration(location: str) -> dict[str, Any]:
    """A built-in configuration by name, or the content of a config.json."""
    if location in CONFIGURATIONS:
        return CONFIGURATIONS[location]
    path = Path(location)
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise EngineError(f"dummy model: {path}: {error.strerror}", "name a config.json that exists here") from error
    except ValueError as error:
        raise EngineError(f"dummy model: {path} is no JSON ({error})", "name a model's config.json") from error
    if not isinstance(values, dict) or "model_type" not in values:
        raise EngineError(f"dummy model: {path} has no model_type", "name a model's config.json")
    return values


def words_to_ids(text: str, vocabulary: int) -> list[int]:
    """An id for each word or sign, the same everywhere.

    >>> words_to_ids("to be, to", 1000)
    [756, 925, 878, 756]
    """
    return [zlib.crc32(word.encode()) % vocabulary for word in re.findall(r"\w+|[^\w\s]", text)] or [0]


def ids_to_words(ids: list[int]) -> str:
    """Readable text for made-up ids.

    >>> ids_to_words([5, 7])
    '<5> <7>'
    """
    return " ".join(f"<{number}>" for number in ids)
