"""Attention in the spellings exporters use: fused, split, grouped queries with rotary positions, Einsum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.graphs.builder import Builder
from tests.graphs.registry import golden

if TYPE_CHECKING:
    from onnx import ModelProto


def to_heads(b: Builder, x: str, *shape: int) -> str:
    """[B, N, H*D] to [B, H, N, D]."""
    return b.transpose(b.reshape(x, *shape), 0, 2, 1, 3)


def attend(b: Builder, q: str, k: str, v: str, scale: float, bias: str | None = None) -> str:
    """softmax(scale * q k^T + bias) v on [B, H, N, D], back as [B, N, H, D]."""
    scores = b.op("MatMul", b.op("Mul", q, b.scalar(scale)), b.transpose(k, 0, 1, 3, 2))
    if bias:
        scores = b.op("Add", scores, bias)
    return b.transpose(b.op("MatMul", b.op("Softmax", scores, axis=-1), v), 0, 2, 1, 3)


def _tokens(b: Builder) -> str:
    """An image as 5 tokens of width 20: patch convolution, class token, position table."""
    x = b.conv(b.source("image", [1, 3, 8, 8]), 3, 20, 4, "patch", stride=4, pad=0)
    x = b.transpose(b.reshape(x, 1, 20, 4), 0, 2, 1)
    x = b.op("Concat", b.weight(1, 1, 20, name="cls"), x, axis=1)
    return b.op("Add", x, b.weight(1, 5, 20, name="positions"))


def _fused_qkv(b: Builder, x: str) -> list[str]:
    """96 rows as (3, H=4, D=8), permuted to the front and gathered."""
    x = b.reshape(b.linear(x, 20, 96, "qkv"), 1, 5, 3, 4, 8)
    x = b.transpose(x, 2, 0, 3, 1, 4)
    return [b.pick(x, i, 0) for i in range(3)]


def _split_qkv(b: Builder, x: str) -> list[str]:
    """96 rows cut in three, each seen as (H=4, D=8)."""
    parts = b.ops("Split", b.linear(x, 20, 96, "qkv"), outputs=3, axis=-1, num_outputs=3)
    return [to_heads(b, part, 1, 5, 4, 8) for part in parts]


def _vit(name: str, *, fused: bool) -> ModelProto:
    b = Builder(name)
    x = _tokens(b)
    q, k, v = (_fused_qkv if fused else _split_qkv)(b, b.layernorm(x, 20, "ln1"))
    y = b.reshape(attend(b, q, k, v, 8**-0.5), 1, 5, 32)
    x = b.op("Add", x, b.linear(y, 32, 20, "proj"))
    y = b.op("Gelu", b.linear(b.layernorm(x, 20, "ln2"), 20, 24, "fc1"))
    x = b.op("Add", x, b.linear(y, 24, 20, "fc2"))
    return b.build(b.gemm(b.pick(b.layernorm(x, 20, "ln3"), 0, 1), 20, 5, "classifier"))


@golden(4, 8, 20, 24)
def vit_fused_qkv() -> ModelProto:
    """20: residual stream. 24: MLP. 4 heads: 24 qkv rows and 8 proj columns each. 8 dims.

    The dims are the same in q, k and v: the box (3, H, D) ties the dims of v to those of q and k.
    """
    return _vit("vit_fused_qkv", fused=True)


@golden(4, 8, 8, 20, 24)
def vit_split_qkv() -> ModelProto:
    """As the fused form, but the cut comes before the heads: 8 dims of q and k, and 8 of v."""
    return _vit("vit_split_qkv", fused=False)


def _rotate(b: Builder, x: str, cos: str, sin: str) -> str:
    """Rotary positions with the half swap: x cos + (-x[3:], x[:3]) sin."""
    swapped = b.op("Concat", b.op("Neg", b.slice(x, 3, 3, 6)), b.slice(x, 3, 0, 3), axis=3)
    return b.op("Add", b.op("Mul", x, cos), b.op("Mul", swapped, sin))


def _repeat_kv(b: Builder, x: str) -> str:
    """2 key/value heads to 8, as Unsqueeze, Expand, Reshape."""
    x = b.op("Expand", b.op("Unsqueeze", x, b.ints(2)), b.ints(1, 2, 4, 5, 6))
    return b.reshape(x, 1, 8, 5, 6)


def _gqa(b: Builder, x: str, n: int) -> str:
    """8 query heads and 2 key/value heads of 6 dims, on 5 tokens of width n."""
    angle = np.outer(np.arange(1, 6), 10.0 ** -np.arange(3))
    angle = np.concatenate([angle, angle], axis=1)[None, None].astype(np.float32)
    cos, sin = b.const(np.cos(angle), "cos"), b.const(np.sin(angle), "sin")
    q = _rotate(b, to_heads(b, b.linear(x, n, 48, "q", bias=False), 1, 5, 8, 6), cos, sin)
    k = _rotate(b, to_heads(b, b.linear(x, n, 12, "k", bias=False), 1, 5, 2, 6), cos, sin)
    v = to_heads(b, b.linear(x, n, 12, "v", bias=False), 1, 5, 2, 6)
    y = attend(b, q, _repeat_kv(b, k), _repeat_kv(b, v), 6**-0.5)
    return b.linear(b.reshape(y, 1, 5, 48), 48, n, "o", bias=False)


@golden(2, 3, 4, 6)
def gqa_rope() -> ModelProto:
    """2 key/value groups, 4 times "the j-th query of each group", 3 rotary pairs, 6 value dims."""
    b = Builder("gqa_rope")
    return b.build(_gqa(b, b.source("hidden", [1, 5, 10]), 10))


@golden(2, 3, 4, 6, 14, 20)
def gqa_block() -> ModelProto:
    """The same inside a residual stream of 14 with a gated MLP of 20."""
    b = Builder("gqa_block")
    x = b.linear(b.source("hidden", [1, 5, 10]), 10, 14, "embed")
    x = b.op("Add", x, _gqa(b, b.layernorm(x, 14, "ln1"), 14))
    y = b.layernorm(x, 14, "ln2")
    y = b.op("Mul", b.silu(b.linear(y, 14, 20, "gate")), b.linear(y, 14, 20, "up"))
    x = b.op("Add", x, b.linear(y, 20, 14, "down"))
    return b.build(b.linear(x, 14, 7, "head"))


@golden(2, 3, 5)
def attention_shape_scale() -> ModelProto:
    """2 heads, 5 dims of q and k, 3 of v; the scale is 1/sqrt(Shape(q)[-1]), computed in the graph."""
    b = Builder("attention_shape_scale")
    x = b.source("hidden", [1, 4, 10])
    q = to_heads(b, b.linear(x, 10, 10, "q"), 1, 4, 2, 5)
    k = to_heads(b, b.linear(x, 10, 10, "k"), 1, 4, 2, 5)
    v = to_heads(b, b.linear(x, 10, 6, "v"), 1, 4, 2, 3)
    width = b.op("Cast", b.pick(b.op("Shape", q), -1, 0), to=1)
    scores = b.op("MatMul", q, b.transpose(k, 0, 1, 3, 2))
    probs = b.op("Softmax", b.op("Div", scores, b.op("Sqrt", width)), axis=-1)
    y = b.transpose(b.op("MatMul", probs, v), 0, 2, 1, 3)
    return b.build(b.linear(b.reshape(y, 1, 4, 6), 6, 7, "proj"))


@golden(2, 3, 5)
def attention_einsum() -> ModelProto:
    """2 heads, 5 dims of q and k, 3 of v, with both products as Einsum and no transposes."""
    b = Builder("attention_einsum")
    x = b.source("hidden", [1, 4, 10])
    q = b.reshape(b.linear(x, 10, 10, "q"), 1, 4, 2, 5)
    k = b.reshape(b.linear(x, 10, 10, "k"), 1, 4, 2, 5)
    v = b.reshape(b.linear(x, 10, 6, "v"), 1, 4, 2, 3)
    scores = b.op("Einsum", q, k, equation="bnhd,bmhd->bhnm")
    y = b.op("Einsum", b.op("Softmax", scores, axis=-1), v, equation="bhnm,bmhd->bnhd")
    return b.build(b.linear(b.reshape(y, 1, 4, 6), 6, 7, "proj"))


@golden(2, 5, 6, 9)
def linear_attention() -> ModelProto:
    """Attention without softmax, q (k^T v): 2 heads, 5 dims of q and k, 6 of v, 9 embedding units."""
    b = Builder("linear_attention")
    x = b.linear(b.source("hidden", [1, 4, 10]), 10, 9, "embed")
    q = to_heads(b, b.op("Sigmoid", b.linear(x, 9, 10, "q")), 1, 4, 2, 5)
    k = to_heads(b, b.op("Sigmoid", b.linear(x, 9, 10, "k")), 1, 4, 2, 5)
    v = to_heads(b, b.linear(x, 9, 12, "v"), 1, 4, 2, 6)
    state = b.op("MatMul", b.transpose(k, 0, 1, 3, 2), v)
    y = b.transpose(b.op("MatMul", q, state), 0, 2, 1, 3)
    return b.build(b.linear(b.reshape(y, 1, 4, 12), 12, 7, "proj"))
