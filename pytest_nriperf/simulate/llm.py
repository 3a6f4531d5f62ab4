"""The size of a language model as far as time depends on it, from `sim:` parameters or a model's configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_nriperf.errors import ModelError, UsageError
from pytest_nriperf.seams import ModelChoice
from pytest_nriperf.units import parse_seconds

DTYPE_BYTES = {"float64": 8.0, "float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "int4": 0.5}
PARAMETERS = ("parameters", "layers", "kv_heads", "head_dim", "dtype", "itl", "ttft", "cv", "seed", "off")
# Words of the simulated engine in a real worker, without a meaning here.
OF_WORKERS = frozenset({"prefill", "chunk", "load", "memory", "wait", "threads", "fail", "fail_at", "fail_replica"})


@dataclass(frozen=True)
class ModelSize:
    """What a decode step reads and computes: `parameters` numbers of `dtype`, and the key-value cache.

    `itl_s` and `ttft_s`, where given, are fixed times that no placement changes. `cv` is the coefficient of
    variation of one token's time where given, `seed` that of the noise. `off` names causes of the
    machine that are switched off.
    """

    parameters: float = 8e9
    layers: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    dtype: str = "bfloat16"
    itl_s: float | None = None
    ttft_s: float | None = None
    cv: float | None = None
    seed: int = 0
    off: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise UsageError(f"simulated model: dtype {self.dtype!r} is unknown", f"known are {', '.join(DTYPE_BYTES)}")
        if min(self.parameters, self.layers, self.kv_heads, self.head_dim) <= 0:
            raise UsageError("simulated model: a size is not above zero", "write for example sim:parameters=8G")

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights: what one decode step reads once, however many requests it serves."""
        return self.parameters * DTYPE_BYTES[self.dtype]

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes of keys and values that one token of context adds: 2 x layers x heads x head size x 2 bytes.

        >>> ModelSize().kv_bytes_per_token
        131072.0
        """
        return 2.0 * self.layers * self.kv_heads * self.head_dim * max(2.0, DTYPE_BYTES[self.dtype])


# Real models by name, so that a simulated node can stand in for the real run of the same test.
KNOWN: dict[str, ModelSize] = {
    "smollm2": ModelSize(parameters=134.5e6, layers=30, kv_heads=3, head_dim=64, dtype="float32"),
    "gpt-neo-125m": ModelSize(parameters=125.2e6, layers=12, kv_heads=12, head_dim=64, dtype="float32"),
}


def model_size(choice: ModelChoice) -> ModelSize:
    """The size of the chosen model; a model that has to be downloaded to be known is refused.

    >>> model_size(ModelChoice("sim:parameters=1.5G,dtype=int8", "sim",
    ...     parameters={"parameters": "1.5G", "dtype": "int8"})).weight_bytes
    1500000000.0
    """
    if choice.kind == "sim":
        size = from_parameters(choice.parameters)
    elif choice.text.split("?")[0].removeprefix("dummy:") in KNOWN:
        size = KNOWN[choice.text.split("?")[0].removeprefix("dummy:")]
    else:
        size = _from_folder(choice)
    return replace(size, dtype=choice.dtype) if choice.dtype in DTYPE_BYTES else size


def from_parameters(given: Mapping[str, str]) -> ModelSize:
    """From the words after `sim:`; `off=bandwidth+noise` switches causes of the machine off."""
    unknown = sorted(set(given) - set(PARAMETERS) - OF_WORKERS)
    if unknown:
        raise UsageError(f"simulated model: unknown parameter {unknown[0]!r}", f"known are {', '.join(PARAMETERS)}")
    values: dict[str, Any] = {}
    for name, text in given.items():
        if name in OF_WORKERS:
            continue
        if name in ("itl", "ttft"):
            values[f"{name}_s"] = parse_seconds(text)
        elif name == "off":
            values[name] = frozenset(filter(None, text.split("+")))
        else:
            values[name] = text if name == "dtype" else _number(name, text)
    return ModelSize(**values)


def from_configuration(config: Mapping[str, Any]) -> ModelSize:
    """From a transformers configuration (config.json): parameters counted from its shapes.

    Decoder layers: attention 2 d^2 + 2 d d_kv, and the feed-forward part (three matrices when gated, else two);
    embedding and output head once when tied, else twice.
    """
    hidden = int(config.get("hidden_size") or config["n_embd"])
    layers = int(config.get("num_hidden_layers") or config.get("num_layers") or config["n_layer"])
    heads = int(config.get("num_attention_heads") or config.get("num_heads") or config["n_head"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or hidden // heads)
    inner = int(config.get("intermediate_size") or config.get("n_inner") or 4 * hidden)
    gated = str(config.get("hidden_act", config.get("activation_function", ""))) in ("silu", "swiglu", "geglu")
    attention = 2 * hidden * heads * head_dim + 2 * hidden * kv_heads * head_dim
    embedding = int(config.get("vocab_size", 0)) * hidden
    tied = bool(config.get("tie_word_embeddings", True))
    parameters = layers * (attention + (3 if gated else 2) * hidden * inner) + embedding * (1 if tied else 2)
    dtype = str(config.get("torch_dtype") or config.get("dtype") or "float32").removeprefix("torch.")
    return ModelSize(float(parameters), layers, kv_heads, head_dim, dtype if dtype in DTYPE_BYTES else "float32")


def _from_folder(choice: ModelChoice) -> ModelSize:
    path = Path(choice.location)
    file = path if path.suffix == ".json" else path / "config.json"
    try:
        return from_configuration(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"model {choice.text}: its size is unknown to a simulated node ({type(error).__name__} at {file})",
            "name a folder with config.json, dummy:gpt-neo-125m, smollm2, or sim:parameters=8G,layers=32",
        ) from error


def _number(name: str, text: str) -> float | int:
    match = re.fullmatch(r"(\d+(?:\.\d*)?(?:e\d+)?)([kKMGBT]?)", text.strip())
    if match is None:
        raise UsageError(f"simulated model: {name}={text!r} is no number", f"write for example {name}=32")
    scale = {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}[match[2]]
    value = float(match[1]) * scale
    return value if name in ("parameters", "cv") else round(value)
