"""Random operators that real exports have now and then: folded batches, shape arithmetic, gates, quantisation."""

from __future__ import annotations

from math import prod

import numpy as np

from tests.properties.registry import op
from tests.properties.state import State, Value, divisors, fits, replace

BATCH = 2  # what a symbolic batch counts as, see the sources of random graphs


def _front(s: State, v: Value) -> int:
    """How many static positions lie in axis 0, beside the batch."""
    return v.shape[0] // BATCH if s.dynamic else v.shape[0]


def _sized(s: State, v: Value, *target: int | str) -> str:
    """A Reshape of ``v`` to sizes and 1-D values, put together in the graph."""
    parts = [t if isinstance(t, str) else s.b.ints(t) for t in target]
    return s.b.op("Reshape", v.name, s.b.op("Concat", *parts, axis=0))


def _size(s: State, name: str, axis: int) -> str:
    """Shape(x)[axis] as a 1-D value."""
    return s.b.op("Gather", s.b.op("Shape", name), s.b.ints(axis), axis=0)


# -- the batch folded into other axes -----------------------------------------------------------
@op(lambda s, v: v.rank >= 3 and v.shape[0] * v.shape[1] <= 64, weight=2)
def fold(s: State, v: Value) -> Value:
    """[B, n, ...] to [B*n, ...], by -1 or by the product of sizes."""
    n, rest = v.shape[1], v.shape[2:]
    shape = (v.shape[0] * n, *rest)
    if s.flag():
        return Value(s.b.reshape(v.name, -1, *rest), shape, v.degree)
    size = s.b.op("Mul", _size(s, v.name, 0), _size(s, v.name, 1) if s.flag() else s.b.ints(n))
    return Value(_sized(s, v, size, *rest), shape, v.degree)


@op(lambda s, v: v.rank <= 4 and len(divisors(_front(s, v))) > 1, weight=3)
def unfold(s: State, v: Value) -> Value:
    """[B*n, ...] to [B, n, ...], by -1 or by a quotient of sizes."""
    n, rest = s.pick(divisors(_front(s, v))[1:]), v.shape[1:]
    shape = (v.shape[0] // n, n, *rest)
    if s.flag():
        return Value(s.b.reshape(v.name, -1, n, *rest), shape, v.degree)
    size = s.b.op("Div", _size(s, v.name, 0), s.b.ints(n))
    return Value(_sized(s, v, size, n, *rest), shape, v.degree)


@op(lambda s, v: v.rank == 3 and len(divisors(v.shape[2])) > 2, weight=2)
def sequence_first(s: State, v: Value) -> Value:
    """Heads beside the batch: [B, N, H*D] to [N, B*H, D], mixed with itself, and back."""
    length, width = v.shape[1:]
    heads = s.pick(divisors(width)[1:-1])
    x = s.b.transpose(v.name, 1, 0, 2)
    if s.flag():
        x = s.b.reshape(x, length, -1, width // heads)
    else:
        size = s.b.op("Mul", _size(s, x, 1), s.b.ints(heads))
        x = _sized(s, Value(x, v.shape), length, size, width // heads)
    x = s.b.transpose(x, 1, 0, 2)
    scores = s.b.op("Softmax", s.b.op("MatMul", x, s.b.transpose(x, 0, 2, 1)), axis=-1)
    x = s.b.transpose(s.b.op("MatMul", scores, x), 1, 0, 2)
    x = s.b.reshape(x, length, -1, width)
    return Value(s.b.transpose(x, 1, 0, 2), v.shape, v.degree)


# -- sizes computed in the graph ----------------------------------------------------------------
@op(lambda s, v: bool(s.axes(v)), weight=2)
def reshape_by_sizes(s: State, v: Value) -> Value:
    """An axis cut in two or joined to the next; sizes come from Shape, one quotient is computed."""
    axis = s.pick(s.axes(v))
    n = v.shape[axis]
    before = [_size(s, v.name, i) for i in range(axis)]
    after = [_size(s, v.name, i) for i in range(axis + 1, v.rank)]
    d = s.pick(divisors(n))
    quotient = s.b.op("Div", _size(s, v.name, axis), s.b.ints(d))
    shape = (*v.shape[:axis], d, n // d, *v.shape[axis + 1 :])
    if not fits(shape):
        return s.add("Identity", v, shape=v.shape)
    return Value(_sized(s, v, *before, d, quotient, *after), shape, v.degree)


@op(lambda s, v: v.rank >= 1 + s.first)
def scaled_by_width(s: State, v: Value) -> Value:
    """x / sqrt(Shape(x)[-1]), as attention has it."""
    width = s.b.op("Cast", s.b.op("Squeeze", _size(s, v.name, -1), s.b.ints(0)), to=1)
    return s.add("Div", v, s.b.op("Sqrt", width), shape=v.shape)


@op(lambda s, v: v.rank == 4 and prod(v.shape) <= 1024)
def upsample(s: State, v: Value) -> Value:
    shape = (*v.shape[:2], 2 * v.shape[2], 2 * v.shape[3])
    if s.flag():
        scales = s.b.const(np.array([1, 1, 2, 2], np.float32))
        return s.add("Resize", v, "", scales, shape=shape, mode="nearest")
    sizes = s.b.op("Concat", s.b.slice(s.b.op("Shape", v.name), 0, 0, 2), s.b.ints(*shape[2:]), axis=0)
    return s.add("Resize", v, "", "", sizes, shape=shape, mode="nearest")


# -- other operators ----------------------------------------------------------------------------
@op(lambda s, v: v.rank >= 2)
def prelu(s: State, v: Value) -> Value:
    slope = s.b.weight(v.shape[1], *[1] * (v.rank - 2))
    return s.add("PRelu", v, slope, shape=v.shape)


@op(lambda s, v: True)
def gate(s: State, v: Value) -> Value:
    """Where on a comparison of the tensor itself."""
    above = Value(s.b.op("Greater", v.name, s.b.scalar(-0.25)), v.shape)
    return s.add("Where", above, v.name, s.b.scalar(-0.25), shape=v.shape, degree=v.degree)


@op(lambda s, v: v.rank == 3)
def einsum(s: State, v: Value) -> Value:
    """A weight by letters, or the tensor with itself."""
    if s.flag():
        n = s.size()
        weight = s.b.weight(v.shape[1], n, fan_in=v.shape[1])
        equation = s.pick(["bij,ik->bkj", "bij,ik->bjk"])
        shape = (v.shape[0], n, v.shape[2]) if equation.endswith("kj") else (v.shape[0], v.shape[2], n)
        return s.add("Einsum", v, weight, shape=shape, equation=equation)
    bounded = s.b.op("Tanh", v.name)
    shape = (v.shape[0], v.shape[1], v.shape[1])
    return Value(s.b.op("Einsum", bounded, bounded, equation="bij,bkj->bik"), shape)


@op(lambda s, v: v.rank == 3 and not s.dynamic)
def recurrent(s: State, v: Value) -> Value:
    kind, hidden = s.pick(["LSTM", "GRU", "RNN"]), s.size()
    gates, n = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], v.shape[2]
    w, r = s.b.weight(1, gates * hidden, n, fan_in=n), s.b.weight(1, gates * hidden, hidden, fan_in=hidden)
    more = (s.b.weight(1, 2 * gates * hidden),) if s.flag() else ()
    x = s.b.op(kind, v.name, w, r, *more, hidden_size=hidden)
    return Value(s.b.op("Squeeze", x, s.b.ints(1)), (*v.shape[:2], hidden))


@op(lambda s, v: bool(s.axes(v, 2)))
def top_k(s: State, v: Value) -> Value:
    """The largest of an axis in order."""
    axis = s.pick(s.axes(v, 2))
    k = s.number(1, v.shape[axis])
    out = s.b.ops("TopK", v.name, s.b.ints(k), outputs=2, axis=axis)[0]
    return Value(out, replace(v.shape, axis, k), v.degree)


@op(lambda s, v: v.rank >= 1 + s.first)
def quantized(s: State, v: Value) -> Value:
    """A pair that rounds to 8 bits, and a weight stored that way."""
    bounded = s.b.op("Tanh", v.name)
    x = s.b.op("QuantizeLinear", bounded, s.b.scalar(1 / 64), s.b.const(np.int8(3)))
    x = s.b.op("DequantizeLinear", x, s.b.scalar(1 / 64), s.b.const(np.int8(3)))
    n_in, n = v.shape[-1], s.size()
    stored = s.b.const(s.b.rng.integers(-99, 100, (n_in, n)).astype(np.int8))
    scales = s.b.const(s.b.rng.uniform(0.005, 0.01, n).astype(np.float32))
    weight = s.b.op("DequantizeLinear", stored, scales, s.b.const(np.zeros(n, np.int8)), axis=1)
    return Value(s.b.op("MatMul", x, weight), replace(v.shape, v.rank - 1, n))
