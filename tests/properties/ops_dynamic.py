"""Operators for graphs with dynamic sizes: [batch, sequence, C] tokens, and [batch, C, height, width] images.

The shapes in ``Value`` are those of the first probe where sizes are dynamic; no constant may name them.
"""

from __future__ import annotations

import numpy as np

from tests.properties.registry import op
from tests.properties.state import State, Value, divisors

BOTH = ("sequence", "image")


def _channels(v: Value) -> int:
    return v.shape[-1] if v.rank == 3 else v.shape[1]


def _with(v: Value, n: int) -> tuple[int, ...]:
    return (*v.shape[:-1], n) if v.rank == 3 else (v.shape[0], n, *v.shape[2:])


def _vector(s: State, v: Value, offset: float = 0.0) -> str:
    n = _channels(v)
    return s.b.weight(*((n,) if v.rank == 3 else (n, 1, 1)), offset=offset, fan_in=4)


def _axis(v: Value) -> int:
    return 2 if v.rank == 3 else 1


# -- tokens -------------------------------------------------------------------------------------
@op(lambda s, v: True, weight=3, kind="sequence")
def token_linear(s: State, v: Value) -> Value:
    n = s.size()
    return Value(s.b.linear(v.name, v.shape[2], n, bias=s.flag()), _with(v, n), v.degree)


@op(lambda s, v: True, kind="sequence")
def token_norm(s: State, v: Value) -> Value:
    return Value(s.b.layernorm(v.name, v.shape[2]), v.shape, 1) if v.shape[2] > 1 else s.add("Tanh", v, shape=v.shape)


@op(lambda s, v: len(divisors(v.shape[2])) > 2, weight=3, kind="sequence")
def token_attention(s: State, v: Value) -> Value:
    """Heads split off by constants, by -1 or by sizes computed in the graph; causal or not."""
    width = v.shape[2]
    heads = s.pick(divisors(width)[1:-1])
    bounded = s.b.op("Tanh", v.name)
    sizes = s.b.op("Shape", v.name)
    target = s.b.op("Concat", s.b.slice(sizes, 0, 0, 2), s.b.ints(heads, width // heads), axis=0)
    parts = []
    for _ in range(3):
        x = s.b.linear(bounded, width, width)
        x = s.b.op("Reshape", x, target) if s.flag() else s.b.reshape(x, 0, 0, heads, -1)
        parts.append(s.b.transpose(x, 0, 2, 1, 3))
    scores = s.b.op("MatMul", parts[0], s.b.transpose(parts[1], 0, 1, 3, 2))
    if s.flag():
        dim = s.b.op("Cast", s.b.slice(s.b.op("Shape", parts[0]), 0, 3, 4), to=1)
        scores = s.b.op("Div", scores, s.b.op("Sqrt", dim))
    x = s.b.transpose(s.b.op("MatMul", s.b.op("Softmax", scores, axis=-1), parts[2]), 0, 2, 1, 3)
    x = s.b.op("Reshape", x, sizes) if s.flag() else s.b.reshape(x, 0, 0, width)
    return Value(s.b.op("Add", s.b.linear(x, width, width), v.name), v.shape, max(v.degree, 2))


@op(lambda s, v: v.shape[2] <= 12, kind="sequence")
def token_convolution(s: State, v: Value) -> Value:
    """A 1-D convolution over time, plain or depthwise."""
    n = v.shape[2]
    group = n if s.flag() else 1
    x = s.b.transpose(v.name, 0, 2, 1)
    weight = s.b.weight(n, n // group, 3, fan_in=3 * n // group)
    x = s.b.op("Conv", x, weight, s.bias(n), pads=[1, 1], group=group)
    return Value(s.b.transpose(x, 0, 2, 1), v.shape, v.degree)


@op(lambda s, v: True, kind="sequence")
def token_recurrent(s: State, v: Value) -> Value:
    """Time first, both directions side by side."""
    kind, hidden, n = s.pick(["LSTM", "GRU", "RNN"]), s.number(2, 5), v.shape[2]
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    x = s.b.transpose(v.name, 1, 0, 2)
    w, r = s.b.weight(2, gates * hidden, n, fan_in=n), s.b.weight(2, gates * hidden, hidden, fan_in=hidden)
    x = s.b.op(kind, x, w, r, hidden_size=hidden, direction="bidirectional")
    x = s.b.reshape(s.b.transpose(x, 2, 0, 1, 3), 0, 0, 2 * hidden)
    return Value(x, _with(v, 2 * hidden), 1)


@op(lambda s, v: len(divisors(v.shape[2])) > 2, kind="sequence")
def token_folded(s: State, v: Value) -> Value:
    """Heads beside the batch and back, through computed sizes."""
    width = v.shape[2]
    heads = s.pick(divisors(width)[1:-1])
    x = s.b.transpose(s.b.reshape(v.name, 0, 0, heads, width // heads), 0, 2, 1, 3)
    sizes = s.b.op("Shape", x)
    front = s.b.op("Mul", s.b.slice(sizes, 0, 0, 1), s.b.slice(sizes, 0, 1, 2))
    folded = s.b.op("Concat", front, s.b.slice(sizes, 0, 2, 4), axis=0)
    x = s.b.op("Relu", s.b.op("Reshape", x, folded))
    x = s.b.op("Reshape", x, sizes)
    return Value(s.b.reshape(s.b.transpose(x, 0, 2, 1, 3), 0, 0, width), v.shape, v.degree)


@op(lambda s, v: True, kind="sequence")
def embedding(s: State, v: Value) -> Value:
    """Rows of a table at computed indices; the table is used, transposed, as a matrix as well."""
    n = v.shape[2]
    table = s.b.weight(9, n, name=s.b.fresh("table"))
    logits = s.b.op("MatMul", v.name, s.b.transpose(table, 1, 0))
    index = s.b.op("ArgMax", logits, axis=-1, keepdims=0)
    return s.add("Add", v, s.b.op("Gather", table, index, axis=0), shape=v.shape)


# -- images -------------------------------------------------------------------------------------
@op(lambda s, v: v.shape[1] <= 24, weight=4, kind="image")
def image_conv(s: State, v: Value) -> Value:
    n_in = v.shape[1]
    group = s.pick(divisors(n_in)) if s.flag() else 1
    n = group * s.number(1, max(1, 12 // group)) if group > 1 else s.size(n_in)
    kernel = s.pick([1, 3])
    return Value(s.b.conv(v.name, n_in, n, kernel, group=group, bias=s.flag()), _with(v, n), v.degree)


@op(lambda s, v: True, kind="image")
def image_norm(s: State, v: Value) -> Value:
    if s.flag():
        return Value(s.b.batchnorm(v.name, v.shape[1]), v.shape, v.degree)
    n = v.shape[1]
    scale = s.b.weight(n, offset=1, fan_in=9)
    return s.add("InstanceNormalization", v, scale, s.bias(n), shape=v.shape, degree=1, epsilon=1e-2)


@op(lambda s, v: True, kind="image")
def image_resized_to(s: State, v: Value) -> Value:
    """Down by a pool and up again to the size of the tensor itself, read in the graph."""
    x = s.b.op("AveragePool", v.name, kernel_shape=[2, 2], strides=[2, 2])
    sizes = s.b.op("Shape", v.name)
    if s.flag():
        sizes = s.b.op("Concat", s.b.slice(s.b.op("Shape", x), 0, 0, 2), s.b.slice(sizes, 0, 2, 4), axis=0)
    x = s.b.op("Resize", x, "", "", sizes, mode=s.pick(["nearest", "linear"]))
    return Value(x, v.shape, v.degree)


@op(lambda s, v: True, weight=2, kind="image")
def image_gate(s: State, v: Value) -> Value:
    """Squeeze and excite."""
    n, m = v.shape[1], s.number(2, 6)
    pooled = s.b.op("GlobalAveragePool", v.name)
    gate = s.b.op("Sigmoid", s.b.conv(s.b.op("Relu", s.b.conv(pooled, n, m, 1)), m, n, 1))
    return s.add("Mul", v, gate, shape=v.shape)


@op(lambda s, v: len(divisors(v.shape[1])) > 2, kind="image")
def image_shuffle(s: State, v: Value) -> Value:
    """A channel shuffle whose sizes are computed in the graph, or the groups of a GroupNorm."""
    n = v.shape[1]
    g = s.pick(divisors(n)[1:-1])
    sizes = s.b.op("Shape", v.name)
    if s.flag():
        ones, zeros = s.b.const(np.ones(g, np.float32)), s.b.const(np.zeros(g, np.float32))
        x = s.b.op("InstanceNormalization", s.b.reshape(v.name, 0, g, -1), ones, zeros, epsilon=1e-2)
        return Value(s.b.op("Reshape", x, sizes), v.shape, 1)
    batch, space = s.b.slice(sizes, 0, 0, 1), s.b.slice(sizes, 0, 2, 4)
    x = s.b.op("Reshape", v.name, s.b.op("Concat", batch, s.b.ints(g, n // g), space, axis=0))
    x = s.b.op("Reshape", s.b.transpose(x, 0, 2, 1, 3, 4), sizes)
    return Value(x, v.shape, v.degree)


@op(lambda s, v: 2 <= v.shape[1] <= 16, kind="image")
def image_tokens(s: State, v: Value) -> Value:
    """To tokens, through a gated layer, and back to the image's own size."""
    n, m = v.shape[1], s.size()
    sizes = s.b.op("Shape", v.name)
    x = s.b.transpose(s.b.reshape(v.name, 0, 0, -1), 0, 2, 1)
    x = s.b.linear(s.b.op("Gelu", s.b.linear(s.b.layernorm(x, n), n, m)), m, n)
    return Value(s.b.op("Reshape", s.b.transpose(x, 0, 2, 1), sizes), v.shape, 1)


# -- both ---------------------------------------------------------------------------------------
def _pointwise(s: State, v: Value) -> Value:
    kind = s.pick(["Relu", "Sigmoid", "Tanh", "Gelu", "HardSwish", "Mish", "Abs", "Softplus"])
    return s.add(kind, v, shape=v.shape)


def _parameter(s: State, v: Value) -> Value:
    return s.add(s.pick(["Add", "Mul", "Sub"]), v, _vector(s, v, 1.0), shape=v.shape)


def _join(s: State, v: Value) -> Value:
    w = s.pick(s.pool)
    if _channels(w) == _channels(v) and s.flag():
        return s.add(s.pick(["Add", "Max"]), v, w.name, shape=v.shape, degree=max(v.degree, w.degree))
    n = _channels(v) + _channels(w)
    return s.add("Concat", v, w.name, shape=_with(v, n), degree=max(v.degree, w.degree), axis=_axis(v))


def _cut(s: State, v: Value) -> list[Value]:
    n = _channels(v)
    first = s.number(1, n - 1)
    outs = s.b.ops("Split", v.name, s.b.ints(first, n - first), outputs=2, axis=_axis(v))
    return [Value(o, _with(v, m), v.degree) for o, m in zip(outs, (first, n - first), strict=True)]


def _mixed(s: State, v: Value) -> Value:
    """Channels in another order, some of them twice."""
    n = _channels(v)
    index = s.b.rng.integers(-n, n, s.number(2, 8)) if s.flag() else s.b.rng.permutation(n)
    return s.add("Gather", v, s.b.const(index), shape=_with(v, len(index)), axis=_axis(v))


for _kind in BOTH:
    for _make, _test in (
        (_pointwise, lambda s, v: True),
        (_parameter, lambda s, v: True),
        (_join, lambda s, v: _channels(v) <= 32),
        (_cut, lambda s, v: _channels(v) >= 2),
        (_mixed, lambda s, v: _channels(v) >= 2),
    ):
        op(_test, weight=2, kind=_kind, name=_kind + _make.__name__)(_make)
