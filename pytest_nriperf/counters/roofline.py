"""The physical limit of decoding: every token reads all weights and the KV cache of what came before. Pure."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Numbers = TypeVar("Numbers", float, NDArray[np.float64])


def bytes_per_token(weight_bytes: float, kv_bytes_per_token: float, context_tokens: float) -> float:
    """Bytes that one decoded token of one sequence has to read: weights, and KV of a context of mean length.

    The first of N tokens comes out of the prompt P; the k-th (k > 1) has P + k - 1 tokens before it, on average
    P + N / 2. Holds for dense models decoded one sequence at a time; engines that batch sequences read the weights
    once for all of them.

    >>> bytes_per_token(269_000_000, 23_040, 32)
    269737280
    """
    return weight_bytes + kv_bytes_per_token * context_tokens


def mean_context(prompt_tokens: Numbers, output_tokens: Numbers) -> Numbers:
    """Mean number of tokens before a decoded one, for numbers or arrays of them.

    >>> mean_context(16.0, 33.0)
    32.5
    """
    return prompt_tokens + output_tokens / 2


def limit(bandwidth: float, bytes_a_token: float) -> float:
    """Tokens per second that memory allows at most.

    >>> limit(20e9, 270e6)
    74.07407407407408
    """
    return bandwidth / bytes_a_token
