"""Blocks of several operators: attention in its variants, recurrent layers in all directions, norms written out."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tests.properties.registry import op
from tests.properties.state import State, Value, divisors, replace


def _heads(s: State, width: int) -> tuple[int, int]:
    """Number and width of heads."""
    heads = s.pick(divisors(width)[1:-1])
    return heads, width // heads


# -- attention ----------------------------------------------------------------------------------
@op(lambda s, v: v.rank == 3 and 4 <= v.shape[2] <= 24 and len(divisors(v.shape[2])) > 2, weight=4, kind="stress")
def attention(s: State, v: Value) -> Value:
    """q, k, v from one or three matrices, heads split off, a residual around it or not."""
    _, length, width = v.shape
    heads, dim = _heads(s, width)
    bounded = s.b.op("Tanh", v.name)
    if s.flag():
        fused = s.b.linear(bounded, width, 3 * width)
        q, k, u = s.b.ops("Split", fused, outputs=3, axis=-1, num_outputs=3)
    else:
        q, k, u = (s.b.linear(bounded, width, width, bias=s.flag()) for _ in range(3))
    q, k, u = (s.b.transpose(s.b.reshape(x, 0, length, heads, dim), 0, 2, 1, 3) for x in (q, k, u))
    x = _attended(s, q, k, u, dim)
    x = s.b.linear(s.b.reshape(s.b.transpose(x, 0, 2, 1, 3), 0, length, width), width, width)
    return Value(s.b.op("Add", x, v.name) if s.flag() else x, v.shape, max(v.degree, 2))


def _attended(s: State, q: str, k: str, u: str, dim: int) -> str:
    scores = s.b.op("MatMul", q, s.b.transpose(k, 0, 1, 3, 2))
    scores = s.b.op("Mul", scores, s.b.scalar(dim**-0.5))
    return s.b.op("MatMul", s.b.op("Softmax", scores, axis=-1), u)


@op(lambda s, v: v.rank == 3 and v.shape[2] <= 24, weight=4, kind="stress")
def grouped_query_attention(s: State, v: Value) -> Value:
    """Fewer key heads than query heads: repeated by Expand or Gather; rotated halves or not."""
    _, length, width = v.shape
    groups, per_group, half = s.number(1, 3), s.number(1, 3), s.number(1, 2)
    dim, heads = 2 * half, groups * per_group
    bounded = s.b.op("Tanh", v.name)
    q = s.b.reshape(s.b.linear(bounded, width, heads * dim), 0, length, heads, dim)
    k, u = (s.b.reshape(s.b.linear(bounded, width, groups * dim), 0, length, groups, dim) for _ in range(2))
    q, k, u = (s.b.transpose(x, 0, 2, 1, 3) for x in (q, k, u))
    if s.flag():
        q, k = (_rotated(s, x, length, half) for x in (q, k))
    k, u = (_repeated(s, x, groups, per_group, length, dim) for x in (k, u))
    x = s.b.reshape(s.b.transpose(_attended(s, q, k, u, dim), 0, 2, 1, 3), 0, length, heads * dim)
    return Value(s.b.linear(x, heads * dim, width), v.shape, 2)


def _rotated(s: State, x: str, length: int, half: int) -> str:
    angles = np.outer(np.arange(length), 10.0 ** -np.arange(half))
    tables = [np.concatenate([f(angles)] * 2, axis=1)[None, None].astype(np.float32) for f in (np.cos, np.sin)]
    first, second = s.b.slice(x, 3, 0, half), s.b.slice(x, 3, half, 2 * half)
    turned = s.b.op("Concat", s.b.op("Neg", second), first, axis=-1)
    cos, sin = (s.b.const(t) for t in tables)
    return s.b.op("Add", s.b.op("Mul", x, cos), s.b.op("Mul", turned, sin))


def _repeated(s: State, x: str, groups: int, times: int, length: int, dim: int) -> str:
    if s.flag():
        return s.b.op("Gather", x, s.b.const(np.repeat(np.arange(groups), times)), axis=1)
    x = s.b.op("Unsqueeze", x, s.b.ints(2))
    x = s.b.op("Expand", x, s.b.ints(1, groups, times, length, dim))
    return s.b.reshape(x, 0, groups * times, length, dim)


# -- recurrent ----------------------------------------------------------------------------------
@op(lambda s, v: v.rank == 3 and not s.dynamic and prod(v.shape[:2]) <= 60, weight=8, kind="stress")
def any_recurrent(s: State, v: Value) -> list[Value]:
    """All directions and layouts, with or without bias, lengths, states, peepholes; any of the outputs."""
    kind, hidden, layout = s.pick(["LSTM", "GRU", "RNN"]), s.number(2, 6), 0
    gates, way = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], s.pick(["forward", "reverse", "bidirectional"])
    both, (steps, batch, width) = 1 + (way == "bidirectional"), v.shape
    w = s.b.weight(both, gates * hidden, width, fan_in=width)
    r = s.b.weight(both, gates * hidden, hidden, fan_in=hidden)
    bias = s.b.weight(both, 2 * gates * hidden) if s.flag() else ""
    lengths = s.b.const(s.b.rng.integers(1, steps + 1, batch).astype(np.int32)) if s.flag() else ""
    h = s.b.weight(both, batch, hidden) if s.flag() else ""
    inputs = [s.b.op("Tanh", v.name), w, r, bias, lengths, h]
    if kind == "LSTM":
        inputs += [s.b.weight(both, batch, hidden) if h else "", s.b.weight(both, 3 * hidden) if s.flag() else ""]
    while not inputs[-1]:
        inputs.pop()
    attrs: dict[str, Any] = {"hidden_size": hidden, "direction": way, "layout": layout}
    if kind == "GRU":
        attrs["linear_before_reset"] = int(s.flag())
    if kind == "LSTM" and s.flag():
        attrs["input_forget"] = 1
    if s.flag():
        attrs["clip"] = 2.0
    if s.flag():
        per_way = {"LSTM": ["Sigmoid", "Tanh", "Relu"], "GRU": ["Sigmoid", "Softsign"], "RNN": ["Relu"]}[kind]
        attrs["activations"] = per_way * both
    outs = s.b.ops(kind, *inputs, outputs=3 if kind == "LSTM" else 2, **attrs)
    shapes = [(steps, both, batch, hidden), (both, batch, hidden), (both, batch, hidden)]
    made = [Value(o, n, 2) for o, n in zip(outs, shapes, strict=False)]
    if both == 2 and s.flag():  # as exporters lay it out: directions side by side
        x = s.b.reshape(s.b.transpose(made[0].name, 0, 2, 1, 3), steps, batch, 2 * hidden)
        made[0] = Value(x, (steps, batch, 2 * hidden), 2)
    return made if s.flag() else made[:1]


# -- norms and gates ----------------------------------------------------------------------------
@op(lambda s, v: v.rank >= 2 and v.shape[-1] >= 2, weight=2, kind="stress")
def rms_norm(s: State, v: Value) -> Value:
    """Written out, as most exporters do."""
    mean = s.b.op("ReduceMean", s.b.op("Mul", v.name, v.name), s.b.ints(-1), keepdims=1)
    x = s.b.op("Div", v.name, s.b.op("Sqrt", s.b.op("Add", mean, s.b.scalar(0.01))))
    return Value(s.b.op("Mul", x, s.b.weight(v.shape[-1], offset=1, fan_in=9)), v.shape, 1)


@op(lambda s, v: v.rank in (3, 4) and len(divisors(v.shape[1])) > 1 and prod(v.shape[2:]) > 1, weight=2, kind="stress")
def group_norm(s: State, v: Value) -> Value:
    """Reshape, InstanceNormalization, Reshape, scale and shift: GroupNorm before opset 18."""
    groups, n = s.pick(divisors(v.shape[1])), v.shape[1]
    ones, zeros = s.b.const(np.ones(groups, np.float32)), s.b.const(np.zeros(groups, np.float32))
    x = s.b.op("InstanceNormalization", s.b.reshape(v.name, 0, groups, -1), ones, zeros, epsilon=1e-2)
    x = s.b.op("Reshape", x, s.b.op("Shape", v.name)) if s.flag() else s.b.reshape(x, *s.target(v.shape))
    column = (n, *[1] * (v.rank - 2))
    x = s.b.op("Mul", x, s.b.weight(*column, offset=1, fan_in=9))
    return Value(s.b.op("Add", x, s.b.weight(*column)), v.shape, 1)


@op(lambda s, v: v.rank == 4, weight=2, kind="stress")
def squeeze_excite(s: State, v: Value) -> Value:
    n, m = v.shape[1], s.number(2, 6)
    pooled = s.b.op("GlobalAveragePool", v.name)
    gate = s.b.op("Sigmoid", s.b.conv(s.b.op("Relu", s.b.conv(pooled, n, m, 1)), m, n, 1))
    return s.add("Mul", v, gate, shape=v.shape)


@op(lambda s, v: v.rank >= 2 + s.first, weight=2, kind="stress")
def gated_mlp(s: State, v: Value) -> Value:
    """Two halves of one matrix, or two matrices, multiplied; a residual around it."""
    width, hidden = v.shape[-1], s.size()
    bounded = s.b.op("Tanh", v.name)
    if s.flag():
        a, g = s.b.ops("Split", s.b.linear(bounded, width, 2 * hidden), outputs=2, axis=-1, num_outputs=2)
    else:
        a, g = (s.b.linear(bounded, width, hidden, bias=False) for _ in range(2))
    x = s.b.linear(s.b.op("Mul", a, s.b.silu(g)), hidden, width)
    return Value(s.b.op("Add", x, v.name), v.shape, max(v.degree, 2))


# -- positions ----------------------------------------------------------------------------------
@op(lambda s, v: v.rank in (3, 4) and len(divisors(v.shape[1])) > 2, weight=3, kind="stress")
def channel_shuffle(s: State, v: Value) -> Value:
    n, rest = v.shape[1], v.shape[2:]
    g = s.pick(divisors(n)[1:-1])
    x = s.b.reshape(v.name, 0, g, n // g, *rest)
    x = s.b.transpose(x, 0, 2, 1, *range(3, 3 + len(rest)))
    return Value(s.b.reshape(x, 0, n, *rest), v.shape, v.degree)


@op(lambda s, v: bool(s.axes(v, 2)), weight=2, kind="stress")
def scatter(s: State, v: Value) -> Value:
    """Some positions of an axis written anew, at constant indices."""
    axis = s.pick(s.axes(v, 2))
    if s.dynamic or axis != 0:
        count = s.number(1, v.shape[axis])
        index = np.sort(s.b.rng.permutation(v.shape[axis])[:count])
        part = s.b.op("Tanh", s.b.op("Gather", v.name, s.b.const(index), axis=axis))
        if s.dynamic:
            return Value(part, replace(v.shape, axis, count), 1)
        wide = np.broadcast_to(
            index.reshape([-1 if a == axis else 1 for a in range(v.rank)]), replace(v.shape, axis, count)
        )
        return s.add("ScatterElements", v, s.b.const(wide.copy()), part, shape=v.shape, axis=axis)
    index = s.b.rng.permutation(v.shape[0])[: s.number(1, v.shape[0])][:, None]
    part = s.b.op("Tanh", s.b.op("GatherND", v.name, s.b.const(index)))
    return s.add("ScatterND", v, s.b.const(index), part, shape=v.shape)


@op(lambda s, v: v.rank >= 1 + s.first, weight=2, kind="stress")
def tied_pair(s: State, v: Value) -> Value:
    """A matrix used as it is and, transposed, as the way back."""
    n_in, n = v.shape[-1], s.size()
    weight = s.b.weight(n_in, n, fan_in=n_in, name=s.b.fresh("tied"))
    x = s.b.op("Relu", s.b.op("MatMul", v.name, weight))
    return Value(s.b.op("MatMul", x, s.b.transpose(weight, 1, 0)), v.shape, v.degree)


@op(lambda s, v: True, kind="stress")
def shared_constant(s: State, v: Value) -> Value:
    """One vector for two uses that have nothing else in common, as exporters share zeros and ones."""
    n = v.shape[-1]
    found = [name for name, size in s.vectors if size == n]
    name = s.pick(found) if found else s.bias(n)
    return s.add("Add", v, name, shape=v.shape)
