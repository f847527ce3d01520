"""Attention in further spellings: shared keys, rotary layouts, position biases, and products without a softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.graphs.attention import attend, to_heads
from tests.graphs.builder import Builder
from tests.graphs.registry import golden

if TYPE_CHECKING:
    from onnx import ModelProto


def _start(name: str, opset: int = 20) -> tuple[Builder, str]:
    """5 tokens of width 10."""
    b = Builder(name, opset=opset)
    return b, b.source("hidden", [1, 5, 10])


def _qkv(b: Builder, x: str, heads: int = 4, dims: int = 6, value: int = 3) -> list[str]:
    """Three projections as [1, heads, 5, dims]."""
    sizes = (("q", dims), ("k", dims), ("v", value))
    return [to_heads(b, b.linear(x, 10, heads * n, p), 1, 5, heads, n) for p, n in sizes]


def _finish(b: Builder, y: str, heads: int = 4, value: int = 3) -> ModelProto:
    """[1, 5, heads, value] merged and projected."""
    width = heads * value
    return b.build(b.linear(b.reshape(y, 1, 5, width), width, 7, "proj"))


# -- fewer keys than queries -----------------------------------------------------------------------------


def _grouped(name: str, groups: int) -> tuple[Builder, str, str, str]:
    b, x = _start(name)
    q = to_heads(b, b.linear(x, 10, 48, "q"), 1, 5, 8, 6)
    k = to_heads(b, b.linear(x, 10, 6 * groups, "k"), 1, 5, groups, 6)
    v = to_heads(b, b.linear(x, 10, 3 * groups, "v"), 1, 5, groups, 3)
    return b, q, k, v


@golden(2, 3, 4, 6)
def gqa_interleaved_gather() -> ModelProto:
    """repeat_interleave as a Gather with indices 0 0 0 0 1 1 1 1: 2 key/value heads, 4 queries each."""
    b, q, k, v = _grouped("gqa_interleaved_gather", 2)
    index = b.const(np.repeat(np.arange(2), 4))
    k, v = (b.op("Gather", t, index, axis=1) for t in (k, v))
    return _finish(b, attend(b, q, k, v, 6**-0.5), 8)


@golden(2, 3, 4, 6)
def gqa_tile() -> ModelProto:
    """Key/value heads as blocks that are tiled inside an axis of their own."""
    b, q, k, v = _grouped("gqa_tile", 2)
    k, v = (
        b.reshape(b.op("Tile", b.op("Unsqueeze", t, b.ints(2)), b.ints(1, 1, 4, 1, 1)), 1, 8, 5, n)
        for t, n in ((k, 6), (v, 3))
    )
    return _finish(b, attend(b, q, k, v, 6**-0.5), 8)


@golden(2, 3, 4, 6)
def gqa_tiled_blocks() -> ModelProto:
    """All key/value heads repeated as a block: query h reads key h mod 2, so the query group is the outer factor."""
    b, q, k, v = _grouped("gqa_tiled_blocks", 2)
    k, v = (b.op("Tile", t, b.ints(1, 4, 1, 1)) for t in (k, v))
    return _finish(b, attend(b, q, k, v, 6**-0.5), 8)


@golden(3, 6, 8)
def mqa_broadcast() -> ModelProto:
    """One key/value head that broadcasts over 8 queries."""
    b, q, k, v = _grouped("mqa_broadcast", 1)
    return _finish(b, attend(b, q, k, v, 6**-0.5), 8)


@golden(3, 6, 8)
def mqa_expand() -> ModelProto:
    """One key/value head expanded to 8."""
    b, q, k, v = _grouped("mqa_expand", 1)
    k, v = (b.op("Expand", t, b.ints(1, 8, 5, n)) for t, n in ((k, 6), (v, 3)))
    return _finish(b, attend(b, q, k, v, 6**-0.5), 8)


# -- rotary positions ------------------------------------------------------------------------------------


def _angles(b: Builder, shape: tuple[int, ...]) -> tuple[str, str]:
    """Tables for 5 tokens and 3 pairs."""
    angle = np.outer(np.arange(1, 6), 10.0 ** -np.arange(3)).reshape(shape).astype(np.float32)
    return b.const(np.cos(angle), "cos"), b.const(np.sin(angle), "sin")


def _turn(b: Builder, left: str, right: str, cos: str, sin: str) -> tuple[str, str]:
    """Both dims of every pair, turned."""
    mul = lambda x, y: b.op("Mul", x, y)  # noqa: E731
    return b.op("Sub", mul(left, cos), mul(right, sin)), b.op("Add", mul(left, sin), mul(right, cos))


@golden(3, 3, 4)
def rope_strided_slices() -> ModelProto:
    """x[..., ::2] and x[..., 1::2], put back with a new last axis: 3 pairs, 4 heads, 3 value dims."""
    b, x = _start("rope_strided_slices")
    q, k, v = _qkv(b, x)
    cos, sin = _angles(b, (1, 1, 5, 3))
    turned = []
    for t in (q, k):
        parts = _turn(b, b.slice(t, 3, 0, 6, 2), b.slice(t, 3, 1, 6, 2), cos, sin)
        both = b.op("Concat", *(b.op("Unsqueeze", p, b.ints(4)) for p in parts), axis=4)
        turned.append(b.reshape(both, 1, 4, 5, 6))
    return _finish(b, attend(b, *turned, v, 6**-0.5))


@golden(3, 3, 4)
def rope_reshaped_pairs() -> ModelProto:
    """Dims as (3, 2), the pair axis gathered: the complex-number spelling."""
    b, x = _start("rope_reshaped_pairs")
    q, k, v = _qkv(b, x)
    cos, sin = _angles(b, (1, 1, 5, 3))
    turned = []
    for t in (q, k):
        pairs = b.reshape(t, 1, 4, 5, 3, 2)
        parts = _turn(b, b.pick(pairs, 0, 4), b.pick(pairs, 1, 4), cos, sin)
        both = b.op("Concat", *(b.op("Unsqueeze", p, b.ints(4)) for p in parts), axis=4)
        turned.append(b.reshape(both, 1, 4, 5, 6))
    return _finish(b, attend(b, *turned, v, 6**-0.5))


@golden(2, 2, 3, 4)
def rope_partial() -> ModelProto:
    """4 of 6 dims turn as halves: 2 pairs, 2 dims that do not turn, 4 heads, 3 value dims."""
    b, x = _start("rope_partial")
    q, k, v = _qkv(b, x)
    angle = np.outer(np.arange(1, 6), [1.0, 0.1])[None, None].astype(np.float32)
    cos, sin = b.const(np.cos(angle), "cos"), b.const(np.sin(angle), "sin")
    turned = []
    for t in (q, k):
        head, rest = b.ops("Split", t, b.ints(4, 2), outputs=2, axis=3)
        parts = _turn(b, b.slice(head, 3, 0, 2), b.slice(head, 3, 2, 4), cos, sin)
        turned.append(b.op("Concat", *parts, rest, axis=3))
    return _finish(b, attend(b, *turned, v, 6**-0.5))


@golden(3, 3, 4)
def rope_computed_tables() -> ModelProto:
    """Angles from positions and inverse frequencies inside the graph: the frequencies leave with their pair."""
    b, x = _start("rope_computed_tables")
    q, k, v = _qkv(b, x)
    rates = b.const(np.array([[1.0, 0.1, 0.01]], np.float32), "inv_freq")
    angle = b.op("MatMul", b.const(np.arange(1, 6, dtype=np.float32)[:, None], "steps"), rates)
    angle = b.op("Concat", angle, angle, axis=1)
    cos, sin = b.op("Cos", angle), b.op("Sin", angle)
    turned = []
    for t in (q, k):
        swapped = b.op("Concat", b.op("Neg", b.slice(t, 3, 3, 6)), b.slice(t, 3, 0, 3), axis=3)
        turned.append(b.op("Add", b.op("Mul", t, cos), b.op("Mul", swapped, sin)))
    return _finish(b, attend(b, *turned, v, 6**-0.5))


# -- biases on the scores --------------------------------------------------------------------------------


@golden(3, 4, 6)
def bias_buckets() -> ModelProto:
    """A table of 9 distance buckets by 4 heads, gathered and laid out as [1, 4, 5, 5]: its columns are the heads."""
    b, x = _start("bias_buckets")
    q, k, v = _qkv(b, x)
    steps = np.arange(5)[:, None] - np.arange(5)[None] + 4
    bias = b.op("Gather", b.weight(9, 4, name="buckets"), b.const(steps), axis=0)
    bias = b.op("Unsqueeze", b.transpose(bias, 2, 0, 1), b.ints(0))
    return _finish(b, attend(b, q, k, v, 6**-0.5, bias))


@golden(3, 4, 6)
def bias_slopes() -> ModelProto:
    """Distances times one constant slope per head."""
    b, x = _start("bias_slopes")
    q, k, v = _qkv(b, x)
    slopes = b.const(2.0 ** -np.arange(1, 5, dtype=np.float32).reshape(1, 4, 1, 1), "slopes")
    distance = b.const(-np.abs(np.arange(5)[:, None] - np.arange(5)[None]).astype(np.float32), "distance")
    return _finish(b, attend(b, q, k, v, 6**-0.5, b.op("Mul", slopes, distance)))


@golden(3, 4, 6, 10)
def disentangled_positions() -> ModelProto:
    """Contents against relative positions, both ways, which have the heads and dims of q and k; 10 position units."""
    b, x = _start("disentangled_positions")
    q, k, v = _qkv(b, x)
    table = b.op("LayerNormalization", b.weight(1, 9, 10, name="relative"), b.const(np.ones(10, np.float32)))
    pos_k = to_heads(b, b.linear(table, 10, 24, "pos_k"), 1, 9, 4, 6)
    pos_q = to_heads(b, b.linear(table, 10, 24, "pos_q"), 1, 9, 4, 6)
    steps = np.arange(5)[:, None] - np.arange(5)[None] + 4
    index = b.op("Expand", b.const(steps[None, None]), b.ints(1, 4, 5, 5))
    c2p = b.op("GatherElements", b.op("MatMul", q, b.transpose(pos_k, 0, 1, 3, 2)), index, axis=3)
    p2c = b.op("GatherElements", b.op("MatMul", k, b.transpose(pos_q, 0, 1, 3, 2)), index, axis=3)
    bias = b.op("Add", c2p, b.transpose(p2c, 0, 1, 3, 2))
    return _finish(b, attend(b, q, k, v, 18**-0.5, bias))


@golden(3, 4, 6)
def attention_sinks() -> ModelProto:
    """One learned logit per head beside the scores; its probability is thrown away."""
    b, x = _start("attention_sinks")
    q, k, v = _qkv(b, x)
    scores = b.op("MatMul", b.op("Mul", q, b.scalar(6**-0.5)), b.transpose(k, 0, 1, 3, 2))
    sink = b.op("Expand", b.weight(1, 4, 1, 1, name="sinks"), b.ints(1, 4, 5, 1))
    probs = b.slice(b.op("Softmax", b.op("Concat", scores, sink, axis=3), axis=3), 3, 0, 5)
    return _finish(b, b.transpose(b.op("MatMul", probs, v), 0, 2, 1, 3))


# -- what heads can be -----------------------------------------------------------------------------------


@golden(3, 4, 6)
def normed_queries() -> ModelProto:
    """q and k normalised per head, with one scale vector for all heads: 6 dims with the entries of both vectors."""
    b, x = _start("normed_queries", opset=23)
    q, k, v = _qkv(b, x)
    q, k = (
        b.op("RMSNormalization", t, b.weight(6, offset=1, fan_in=9, name=f"{p}.norm"))
        for t, p in ((q, "qn"), (k, "kn"))
    )
    return _finish(b, attend(b, q, k, v, 6**-0.5))


@golden(3, 4, 6)
def unit_queries() -> ModelProto:
    """q and k of length one, and a learned temperature per head."""
    b, x = _start("unit_queries")
    q, k, v = _qkv(b, x)
    q, k = (b.op("LpNormalization", t, axis=-1, p=2) for t in (q, k))
    scores = b.op("Mul", b.op("MatMul", q, b.transpose(k, 0, 1, 3, 2)), b.weight(4, 1, 1, offset=5, name="temperature"))
    return _finish(b, b.transpose(b.op("MatMul", b.op("Softmax", scores, axis=-1), v), 0, 2, 1, 3))


@golden(3, 4, 6, 8, 9)
def cross_attention() -> ModelProto:
    """Queries of one input, keys and values of another: both have embeddings of their own."""
    b = Builder("cross_attention")
    x = b.linear(b.source("hidden", [1, 5, 10]), 10, 8, "embed_x")
    y = b.linear(b.source("memory", [1, 7, 10]), 10, 9, "embed_y")
    q = to_heads(b, b.linear(x, 8, 24, "q"), 1, 5, 4, 6)
    k = to_heads(b, b.linear(y, 9, 24, "k"), 1, 7, 4, 6)
    v = to_heads(b, b.linear(y, 9, 12, "v"), 1, 7, 4, 3)
    return _finish(b, attend(b, q, k, v, 6**-0.5))


@golden(3, 3, 4)
def differential_attention() -> ModelProto:
    """Two maps per head, one subtracted from the other: 4 heads of two maps, whose 3 dims are those of both."""
    b, x = _start("differential_attention")
    q, k = (to_heads(b, b.linear(x, 10, 24, p), 1, 5, 8, 3) for p in "qk")
    v = to_heads(b, b.linear(x, 10, 12, "v"), 1, 5, 4, 3)
    scores = b.op("MatMul", b.op("Mul", q, b.scalar(3**-0.5)), b.transpose(k, 0, 1, 3, 2))
    maps = b.reshape(b.op("Softmax", scores, axis=-1), 1, 4, 2, 5, 5)
    share = b.op("Exp", b.const(np.float32(-0.7), "lambda"))
    probs = b.op("Sub", b.pick(maps, 0, 2), b.op("Mul", share, b.pick(maps, 1, 2)))
    return _finish(b, b.transpose(b.op("MatMul", probs, v), 0, 2, 1, 3))


@golden(3, 4, 5, 6, 6)
def talking_heads() -> ModelProto:
    """Scores of 4 heads mixed into 5, probabilities mixed into 6: three kinds of heads; 6 dims, 3 value dims."""
    b, x = _start("talking_heads")
    q, k = (to_heads(b, b.linear(x, 10, 24, p), 1, 5, 4, 6) for p in "qk")
    v = to_heads(b, b.linear(x, 10, 18, "v"), 1, 5, 6, 3)
    scores = b.op("MatMul", b.op("Mul", q, b.scalar(6**-0.5)), b.transpose(k, 0, 1, 3, 2))
    scores = b.linear(b.transpose(scores, 0, 2, 3, 1), 4, 5, "mix_scores")
    probs = b.op("Softmax", b.transpose(scores, 0, 3, 1, 2), axis=-1)
    probs = b.linear(b.transpose(probs, 0, 2, 3, 1), 5, 6, "mix_probs")
    y = b.op("MatMul", b.transpose(probs, 0, 3, 1, 2), v)
    return _finish(b, b.transpose(y, 0, 2, 1, 3), 6)


@golden(4, 6)
def cross_covariance() -> ModelProto:
    """Channels attend to channels: the softmax goes over the dims of k, which are those of v; 6 of q, 4 heads."""
    b, x = _start("cross_covariance")
    sizes = (("q", 6), ("k", 3), ("v", 3))
    q, k, v = (b.transpose(b.reshape(b.linear(x, 10, 4 * n, p), 1, 5, 4, n), 0, 2, 3, 1) for p, n in sizes)
    q, k = (b.op("LpNormalization", t, axis=-1, p=2) for t in (q, k))
    scores = b.op("Mul", b.op("MatMul", q, b.transpose(k, 0, 1, 3, 2)), b.weight(4, 1, 1, offset=2, name="temperature"))
    y = b.op("MatMul", b.op("Softmax", scores, axis=-1), v)
    return _finish(b, b.transpose(y, 0, 3, 1, 2), 4, 6)


@golden(3, 4, 6)
def linear_attention_elu() -> ModelProto:
    """Feature map elu + 1, and the normaliser q times the sum of k: 4 heads, 6 dims, 3 value dims."""
    b, x = _start("linear_attention_elu")
    q, k, v = _qkv(b, x)
    q, k = (b.op("Add", b.op("Elu", t), b.scalar(1)) for t in (q, k))
    state = b.op("MatMul", b.transpose(k, 0, 1, 3, 2), v)
    total = b.op("Unsqueeze", b.op("ReduceSum", k, b.ints(2), keepdims=0), b.ints(3))
    y = b.op("Div", b.op("MatMul", q, state), b.op("MatMul", q, total))
    return _finish(b, b.transpose(y, 0, 2, 1, 3))


@golden(2, 4, 4, 8)
def convolutional_projections() -> ModelProto:
    """Depthwise then pointwise convolutions make q, k, v; the 8 channels in front carry the depthwise kernels along."""
    b = Builder("convolutional_projections")
    x = b.conv(b.source("image", [1, 3, 4, 4]), 3, 8, 3, "stem")
    parts = []
    for p, stride, n in (("q", 1, 16), ("k", 2, 16), ("v", 2, 8)):
        y = b.conv(b.conv(x, 8, 8, 3, f"{p}.depth", stride=stride, group=8), 8, n, 1, f"{p}.point")
        parts.append(b.transpose(b.reshape(y, 1, 4, n // 4, 16 // stride**2), 0, 1, 3, 2))
    y = b.reshape(attend(b, *parts, 0.5), 1, 16, 8)
    return b.build(b.linear(y, 8, 7, "proj"))


@golden(3, 4, 6)
def rolled_windows() -> ModelProto:
    """A 4x4 map shifted by one, cut into 2x2 windows with a mask, attended, and put back."""
    b = Builder("rolled_windows")

    def roll(x: str, by: int) -> str:
        for axis in (1, 2):
            x = b.op("Concat", b.slice(x, axis, by, 4), b.slice(x, axis, 0, by), axis=axis)
        return x

    x = roll(b.source("hidden", [1, 4, 4, 10]), 1)
    x = b.reshape(b.transpose(b.reshape(x, 1, 2, 2, 2, 2, 10), 0, 1, 3, 2, 4, 5), 4, 4, 10)
    q, k, v = (to_heads(b, b.linear(x, 10, 4 * n, p), 4, 4, 4, n) for p, n in (("q", 6), ("k", 6), ("v", 3)))
    mask = np.where(b.rng.random((4, 1, 4, 4)) < 0.3, -100, 0).astype(np.float32)
    y = b.linear(b.reshape(attend(b, q, k, v, 6**-0.5, b.const(mask, "mask")), 4, 4, 12), 12, 10, "proj")
    y = b.reshape(b.transpose(b.reshape(y, 1, 2, 2, 2, 2, 10), 0, 1, 3, 2, 4, 5), 1, 4, 4, 10)
    return b.build(roll(y, 3))


@golden(2, 4, 5, 6, 8)
def attention_operator() -> ModelProto:
    """The standard operator: 2 key/value heads, 4 queries each, 6 dims of q and k, 5 of v; 8 units behind."""
    b, x = _start("attention_operator", opset=23)
    q, k, v = (b.linear(x, 10, n, name) for name, n in (("q", 48), ("k", 12), ("v", 10)))
    y = b.op("Attention", q, k, v, q_num_heads=8, kv_num_heads=2, is_causal=1)
    y = b.op("Relu", b.linear(y, 40, 8, "o"))
    return b.build(b.linear(y, 8, 7, "head"))


@golden(2, 3, 3, 4)
def rotary_operator() -> ModelProto:
    """The standard operators together: 2 key/value heads, 4 queries each, 3 pairs, 3 value dims."""
    b, x = _start("rotary_operator", opset=23)
    cos, sin = _angles(b, (1, 5, 3))
    q, k = (b.op("RotaryEmbedding", b.linear(x, 10, 6 * n, p), cos, sin, num_heads=n) for p, n in (("q", 8), ("k", 2)))
    y = b.op("Attention", q, k, b.linear(x, 10, 6, "v"), q_num_heads=8, kv_num_heads=2)
    return _finish(b, y, 8)
