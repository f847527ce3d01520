"""Random models made of layers with blocks: grouped convolutions, group norms, heads, and what may tie the blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from hypothesis import strategies as st

from tests.graphs.builder import Builder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnx import ModelProto

T = TypeVar("T")
SIDE = 4


class Draw:
    """A builder with the draw function."""

    def __init__(self, draw: st.DrawFn, *, dynamic: bool) -> None:
        self.draw = draw
        self.dynamic = dynamic
        self.b = Builder("blocks", opset=21, seed=draw(st.integers(0, 2**16)))
        self.story: list[str] = []

    def pick(self, options: Sequence[T]) -> T:
        return self.draw(st.sampled_from(options))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def batch(self, shape: Sequence[int]) -> tuple[int, ...]:
        """A shape for Reshape, with the batch in front."""
        return (-1 if self.dynamic else 2, *shape)


# -- layers of images (batch, n, 4, 4) --------------------------------------------------------------------
def pointwise(s: Draw, x: str, n: int) -> tuple[str, int]:
    wide = s.pick([6, 8, 12, 16, 24])
    return s.b.conv(x, n, wide, 1, bias=s.flag()), wide


def grouped(s: Draw, x: str, n: int) -> tuple[str, int]:
    groups = s.pick([g for g in (2, 3, 4, 6) if n % g == 0])
    out = groups * s.pick([1, 2, 3, 4])
    return s.b.conv(x, n, out, s.pick([1, 3]), group=groups, bias=s.flag()), out


def depthwise(s: Draw, x: str, n: int) -> tuple[str, int]:
    times = s.pick([1, 1, 2]) if n <= 12 else 1
    return s.b.conv(x, n, n * times, group=n), n * times


def transposed(s: Draw, x: str, n: int) -> tuple[str, int]:
    groups, per = s.pick([g for g in (2, 3) if n % g == 0]), s.pick([2, 3, 4])
    w = s.b.weight(n, per, 1, 1, fan_in=n // groups)
    return s.b.op("ConvTranspose", x, w, group=groups), groups * per


def norm_op(s: Draw, x: str, n: int) -> tuple[str, int]:
    groups = s.pick([g for g in (2, 3, 4) if n % g == 0])
    scale = s.b.weight(n, offset=1, fan_in=9)
    y = s.b.op("GroupNormalization", x, scale, s.b.weight(n), num_groups=groups, epsilon=1e-2)
    return s.b.hint(y, "batch" if s.dynamic else 2, n, SIDE, SIDE), n


def norm_chain(s: Draw, x: str, n: int) -> tuple[str, int]:
    """GroupNorm as it was exported before the operator existed."""
    groups = s.pick([g for g in (2, 3, 4) if n % g == 0])
    y = s.b.reshape(x, *s.batch([groups, n // groups * SIDE * SIDE]))
    ones, zeros = s.b.const(np.ones(groups, np.float32)), s.b.const(np.zeros(groups, np.float32))
    y = s.b.op("InstanceNormalization", y, ones, zeros, epsilon=1e-2)
    y = s.b.op("Mul", s.b.reshape(y, *s.batch([n, SIDE, SIDE])), s.b.weight(n, 1, 1, offset=1, fan_in=9))
    return s.b.op("Add", y, s.b.weight(n, 1, 1)), n


def batchnorm(s: Draw, x: str, n: int) -> tuple[str, int]:
    return s.b.batchnorm(x, n), n


def activation(s: Draw, x: str, n: int) -> tuple[str, int]:
    return s.b.op(s.pick(["Relu", "Sigmoid", "Softplus"]), x), n


def gate(s: Draw, x: str, n: int) -> tuple[str, int]:
    """Squeeze and excite, the second half perhaps grouped."""
    y = s.b.conv(s.b.op("GlobalAveragePool", x), n, 6, 1)
    groups = s.pick([g for g in (1, 2, 3) if n % g == 0])
    return s.b.op("Mul", x, s.b.op("Sigmoid", s.b.conv(s.b.op("Relu", y), 6, n, 1, group=groups))), n


def residual(s: Draw, x: str, n: int) -> tuple[str, int]:
    groups = s.pick([g for g in (1, 2, 3, 4) if n % g == 0])
    return s.b.op("Add", x, s.b.op("Relu", s.b.conv(x, n, n, group=groups))), n


def joined(s: Draw, x: str, n: int) -> tuple[str, int]:
    y = s.b.conv(x, n, 4, 1)
    return s.b.op("Concat", *((x, y) if s.flag() else (y, x)), axis=1), n + 4


def shuffled(s: Draw, x: str, n: int) -> tuple[str, int]:
    groups = s.pick([g for g in (2, 3) if n % g == 0])
    y = s.b.reshape(x, *s.batch([groups, n // groups, SIDE, SIDE]))
    return s.b.reshape(s.b.transpose(y, 0, 2, 1, 3, 4), *s.batch([n, SIDE, SIDE])), n


def scaled_groups(s: Draw, x: str, n: int) -> tuple[str, int]:
    """A weight over groups and offsets, over groups alone, or over offsets alone, which ties the groups."""
    groups = s.pick([g for g in (2, 3, 4) if n % g == 0])
    shape = s.pick([(groups, n // groups), (groups, 1), (1, n // groups)])
    y = s.b.reshape(x, *s.batch([groups, n // groups, SIDE, SIDE]))
    y = s.b.op("Mul", y, s.b.weight(*shape, 1, 1, offset=1, fan_in=4))
    if s.flag():
        y = s.b.op("Mul", y, s.b.op("ReduceMean", y, s.b.ints(2), keepdims=1))
    if s.flag():
        y = s.b.op("Add", y, s.b.op("ReduceSum", y, s.b.ints(1), keepdims=1))
    return s.b.reshape(y, *s.batch([n, SIDE, SIDE])), n


IMAGE = {f.__name__: f for f in (pointwise, grouped, depthwise, transposed, norm_op, norm_chain, batchnorm,
                                 activation, gate, residual, joined, shuffled, scaled_groups)}  # fmt: skip
GROUPED = {"grouped", "transposed", "norm_op", "norm_chain", "shuffled", "scaled_groups"}


# -- layers of tokens (batch, 5, n) -----------------------------------------------------------------------
def _heads(s: Draw, x: str, heads: int, dims: int) -> str:
    return s.b.transpose(s.b.reshape(x, *s.batch([5, heads, dims])), 0, 2, 1, 3)


def _flavour(s: Draw, x: str, heads: int, dims: int) -> str:
    """What models do to (batch, heads, 5, dims) before the product."""
    kind = s.pick(["none", "none", "per head", "per dim", "norm", "half", "softmax"])
    s.story.append(kind)
    if kind == "per head":
        return s.b.op("Mul", x, s.b.weight(1, heads, 1, dims, offset=1, fan_in=4))
    if kind == "per dim":
        return s.b.op("Mul", x, s.b.weight(dims, offset=1, fan_in=4))
    if kind == "norm":
        return s.b.op("LpNormalization", x, axis=-1, p=2)
    if kind == "half" and dims % 2 == 0:
        half = dims // 2
        return s.b.op("Concat", s.b.slice(x, 3, half, dims), s.b.slice(x, 3, 0, half), axis=3)
    return s.b.op("Softmax", x, axis=2) if kind == "softmax" else x


def attention(s: Draw, x: str, n: int) -> tuple[str, int]:
    """Heads, perhaps with fewer keys than queries, with products of matrices or an Einsum."""
    kv, times, dims, wide = s.pick([1, 2, 3]), s.pick([1, 1, 2]), s.pick([2, 4, 6]), s.pick([2, 3, 4])
    heads = kv * times
    q = _flavour(s, _heads(s, s.b.linear(x, n, heads * dims), heads, dims), heads, dims)
    k = _flavour(s, _heads(s, s.b.linear(x, n, kv * dims), kv, dims), kv, dims)
    v = _heads(s, s.b.linear(x, n, kv * wide, bias=s.flag()), kv, wide)
    if times > 1:
        k, v = (
            s.b.reshape(
                s.b.op("Expand", s.b.op("Unsqueeze", t, s.b.ints(2)), s.b.ints(1, 1, times, 1, 1)),
                *s.batch([heads, 5, d]),
            )
            for t, d in ((k, dims), (v, wide))
        )
    if s.flag():  # heads laid out behind the batch
        q, k, v = (s.b.reshape(t, -1, 5, d) for t, d in ((q, dims), (k, dims), (v, wide)))
        y = s.b.op("MatMul", s.b.op("Softmax", s.b.op("MatMul", q, s.b.transpose(k, 0, 2, 1)), axis=-1), v)
        y = s.b.reshape(y, *s.batch([heads, 5, wide]))
    elif s.flag():
        scores = s.b.op("Softmax", s.b.op("Einsum", q, k, equation="bhnd,bhmd->bhnm"), axis=-1)
        y = s.b.op("Einsum", scores, v, equation="bhnm,bhmd->bhnd")
    else:
        y = s.b.op("MatMul", s.b.op("MatMul", q, s.b.transpose(k, 0, 1, 3, 2)), v)
    y = s.b.reshape(s.b.transpose(y, 0, 2, 1, 3), *s.batch([5, heads * wide]))
    return s.b.linear(y, heads * wide, n), n


def fused(s: Draw, x: str, n: int) -> tuple[str, int]:
    """One projection seen as (3, heads, dims) or (heads, 3, dims)."""
    heads, dims = s.pick([2, 3]), s.pick([3, 4])
    first = s.flag()
    shape = (5, 3, heads, dims) if first else (5, heads, 3, dims)
    y = s.b.reshape(s.b.linear(x, n, 3 * heads * dims), *s.batch(shape))
    y = s.b.transpose(y, *((2, 0, 3, 1, 4) if first else (3, 0, 2, 1, 4)))
    q, k, v = (s.b.pick(y, i, 0) for i in range(3))
    y = s.b.op("MatMul", s.b.op("Softmax", s.b.op("MatMul", q, s.b.transpose(k, 0, 1, 3, 2)), axis=-1), v)
    y = s.b.reshape(s.b.transpose(y, 0, 2, 1, 3), *s.batch([5, heads * dims]))
    return s.b.linear(y, heads * dims, n), n


def across(s: Draw, x: str, n: int) -> tuple[str, int]:
    """Attention over channels: the dims of every head against each other."""
    heads, dims = 2, s.pick([3, 4])
    q, k, v = (_heads(s, s.b.linear(x, n, heads * dims), heads, dims) for _ in range(3))
    scores = s.b.op("MatMul", s.b.transpose(q, 0, 1, 3, 2), k)
    y = s.b.op("MatMul", v, s.b.transpose(scores, 0, 1, 3, 2))
    y = s.b.reshape(s.b.transpose(y, 0, 2, 1, 3), *s.batch([5, heads * dims]))
    return s.b.linear(y, heads * dims, n), n


def gram(s: Draw, x: str, n: int) -> tuple[str, int]:
    """Blocks against each other: the offsets of all blocks are compared."""
    heads, dims = s.pick([2, 3]), s.pick([3, 4])
    y = s.b.reshape(s.b.linear(x, n, heads * dims), *s.batch([5, heads, dims]))
    y = s.b.op("MatMul", y, s.b.transpose(y, 0, 1, 3, 2))
    return s.b.linear(s.b.reshape(y, *s.batch([5, heads * heads])), heads * heads, n), n


def perceptron(s: Draw, x: str, n: int) -> tuple[str, int]:
    return s.b.linear(s.b.op("Gelu", s.b.linear(x, n, 8)), 8, n), n


def layernorm(s: Draw, x: str, n: int) -> tuple[str, int]:
    return s.b.layernorm(x, n), n


TOKENS = {f.__name__: f for f in (attention, attention, fused, across, gram, perceptron, layernorm)}


@st.composite
def block_models(draw: st.DrawFn, *, dynamic: bool = False) -> ModelProto:
    """A random chain of layers with blocks; its doc string lists them."""
    s = Draw(draw, dynamic=dynamic)
    batch = "batch" if dynamic else 2
    image = s.pick([True, True, False])
    layers: dict[str, Callable[[Draw, str, int], tuple[str, int]]] = IMAGE if image else TOKENS
    if image:
        x, n = s.b.conv(s.b.source("x", [batch, 3, SIDE, SIDE]), 3, 12, 1), 12
    else:
        x, n = s.b.linear(s.b.source("x", [batch, 5, 7]), 7, 9), 9
    for _ in range(draw(st.integers(1, 6 if image else 3))):
        usable = [k for k in layers if k not in GROUPED or (n % 2 == 0 or n % 3 == 0)]
        usable = [k for k in usable if n <= 32 or k in ("pointwise", "activation", "batchnorm")]
        if n % 2 and n % 3:
            usable = [k for k in usable if k != "grouped"]
        name = s.pick(usable)
        if name in ("norm_op", "norm_chain", "transposed", "scaled_groups", "shuffled", "grouped") and n % 6:
            x, n = s.b.conv(x, n, 12, 1), 12
        s.story.append(name)
        y, wide = layers[name](s, x, n)
        x, n = (s.b.op("Add", x, y), n) if not image and name != "layernorm" else (y, wide)
    out = s.b.classifier(x, n) if image else s.b.linear(x, n, 3)
    model = s.b.build(out)
    model.graph.doc_string = " ".join(s.story)
    return model
