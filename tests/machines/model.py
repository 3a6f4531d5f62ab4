"""A small real model on disk, written without any machine learning library: configuration and safetensors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.machines.kernel import cache_folder

VOCABULARY, HIDDEN, INNER, LAYERS = 4096, 512, 1024, 2

CONFIGURATION = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "float32",
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}


def model_folder() -> Path:
    """Where the model is, on the host and in its guests."""
    return cache_folder() / "small-llama"


def shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the weights."""
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        start = f"model.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{start}.self_attn.{name}.weight", (HIDDEN, HIDDEN)
        yield f"{start}.mlp.gate_proj.weight", (INNER, HIDDEN)
        yield f"{start}.mlp.up_proj.weight", (INNER, HIDDEN)
        yield f"{start}.mlp.down_proj.weight", (HIDDEN, INNER)
        yield f"{start}.input_layernorm.weight", (HIDDEN,)
        yield f"{start}.post_attention_layernorm.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def weight_bytes() -> int:
    """Bytes of all weights."""
    return sum(4 * int(np.prod(shape)) for _, shape in shapes())


def write_model() -> None:
    """Write it once."""
    folder = model_folder()
    if (folder / "model.safetensors").exists():
        return
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIGURATION))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    numbers = np.random.default_rng(1)
    with (folder / "writing").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, shape in shapes():
            file.write((0.02 * numbers.standard_normal(shape)).astype("<f4").tobytes())
    (folder / "writing").rename(folder / "model.safetensors")
