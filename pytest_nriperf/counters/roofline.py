"""The physical limit of decoding: every token reads all weights and the KV cache of what came before. Pure."""

from __future__ import annotations


def bytes_per_token(weight_bytes: float, kv_bytes_per_token: float, context_tokens: float) -> float:
    """Bytes that one decoded token of one sequence has to read: weights, and KV of a context of mean length.

    The context of the k-th of N tokens after a prompt of P is P + k - 1; its mean is P + (N - 1) / 2. Holds for dense
    models decoded one sequence at a time; engines that batch sequences read the weights once for all of them.

    >>> bytes_per_token(269_000_000, 23_040, 32)
    269737280
    """
    return weight_bytes + kv_bytes_per_token * context_tokens


def mean_context(prompt_tokens: float, output_tokens: float) -> float:
    """Mean number of tokens before a decoded one.

    >>> mean_context(16, 33)
    32.0
    """
    return prompt_tokens + (output_tokens - 1) / 2


def limit(bandwidth: float, bytes_a_token: float) -> float:
    """Tokens per second that memory allows at most.

    >>> limit(20e9, 270e6)
    74.07407407407408
    """
    return bandwidth / bytes_a_token
