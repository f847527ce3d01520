"""Models whose inputs and outputs hold channels: KV caches, hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.graphs.builder import Builder
from tests.graphs.registry import golden

if TYPE_CHECKING:
    from onnx import ModelProto


@golden(4, 9)
def cached_decoder() -> ModelProto:
    """2 key/value heads with caches of any length, 4 queries each, 6 dims of q and k, 5 of v, on 9 embedding units.

    The caches are the model's interface: only the queries of a group and the embedding are free.
    """
    b = Builder("cached_decoder")
    x = b.linear(b.source("hidden", [1, 3, 10]), 10, 9, "embed")
    past_key, past_value = b.source("past_key", [1, 2, "past", 6]), b.source("past_value", [1, 2, "past", 5])
    q = b.transpose(b.reshape(b.linear(x, 9, 48, "q"), 1, 3, 2, 4, 6), 0, 2, 3, 1, 4)
    k = b.transpose(b.reshape(b.linear(x, 9, 12, "k"), 1, 3, 2, 6), 0, 2, 1, 3)
    v = b.transpose(b.reshape(b.linear(x, 9, 10, "v"), 1, 3, 2, 5), 0, 2, 1, 3)
    keys, values = b.op("Concat", past_key, k, axis=2), b.op("Concat", past_value, v, axis=2)
    wide = b.transpose(b.op("Unsqueeze", keys, b.ints(2)), 0, 1, 2, 4, 3)
    scores = b.op("Softmax", b.op("Mul", b.op("MatMul", q, wide), b.scalar(6**-0.5)), axis=-1)
    y = b.op("MatMul", scores, b.op("Unsqueeze", values, b.ints(2)))
    y = b.linear(b.reshape(b.transpose(y, 0, 3, 1, 2, 4), 1, 3, 40), 40, 7, "o")
    return b.build(y, b.op("Identity", keys), b.op("Identity", values))


@golden(20)
def encoder_states() -> ModelProto:
    """A residual stream of 12 that is the output; 20 units of the MLP are free."""
    b = Builder("encoder_states")
    x = b.linear(b.source("hidden", [1, 4, 10]), 10, 12, "embed")
    y = b.op("Gelu", b.linear(b.layernorm(x, 12, "ln1"), 12, 20, "up"))
    x = b.op("Add", x, b.linear(y, 20, 12, "down"))
    return b.build(b.layernorm(x, 12, "ln2"))
