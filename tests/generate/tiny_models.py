"""Tiny models for tests, saved as anybody saves one."""

from __future__ import annotations

from pathlib import Path

LLAMA = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WORDS = ["<unk>", "<s>", "</s>", "what", "happens", "at", "kubecon", "talks"]


def save_llama(path: Path) -> None:
    """A llama of two layers with random weights and a tokenizer of eight words."""
    import tokenizers
    import transformers

    config = transformers.AutoConfig.for_model(**LLAMA)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>").save_pretrained(path)


def save_gguf(path: Path) -> None:
    """A llama of one layer in float32, as llama.cpp's converter names its parts; no tokenizer."""
    import gguf
    import numpy as np

    size, heads, inner, words = 32, 4, 64, 64
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(size)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(size // heads)
    writer.add_vocab_size(words)
    numbers = np.random.default_rng(0)
    shapes = {
        "token_embd.weight": (words, size),
        "output.weight": (words, size),
        "output_norm.weight": (size,),
        "blk.0.attn_norm.weight": (size,),
        "blk.0.ffn_norm.weight": (size,),
        **{f"blk.0.attn_{name}.weight": (size, size) for name in ("q", "k", "v", "output")},
        "blk.0.ffn_gate.weight": (inner, size),
        "blk.0.ffn_up.weight": (inner, size),
        "blk.0.ffn_down.weight": (size, inner),
    }
    for name, shape in shapes.items():
        writer.add_tensor(name, numbers.normal(0, 0.02, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def save_in_hub_cache(home: Path, name: str, commit: str) -> None:
    """The llama where the hub's client would have put it."""
    folder = home / "hub" / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    save_llama(folder / "snapshots" / commit)
