"""Random operators that compute: pointwise, normalisation, reduction, contraction."""

from __future__ import annotations

from math import prod
from typing import Any

from tests.properties.registry import op
from tests.properties.state import MAX_DEGREE, State, Value, broadcast, divisors, fits, replace


# -- pointwise ----------------------------------------------------------------------------------
@op(lambda s, v: True)
def unary(s: State, v: Value) -> Value:
    kind = s.pick(["Relu", "Sigmoid", "Tanh", "Neg", "Abs", "LeakyRelu", "Softplus", "Elu", "Gelu", "Erf", "Clip"])
    bounded = kind in ("Sigmoid", "Tanh", "Erf", "Clip")
    more = (s.b.scalar(-0.5), s.b.scalar(2.0)) if kind == "Clip" else ()
    return s.add(kind, v, *more, shape=v.shape, degree=1 if bounded else v.degree)


@op(lambda s, v: True)
def with_parameter(s: State, v: Value) -> Value:
    """Add, Sub or Mul with a weight of a suffix shape, some axes broadcast."""
    start = s.number(s.first, v.rank - 1)
    shape = tuple(n if s.flag() else 1 for n in v.shape[start:])
    return s.add(s.pick(["Add", "Mul", "Sub"]), v, s.b.weight(*shape), shape=v.shape)


def _partners(s: State, v: Value) -> list[tuple[Value, tuple[int, ...]]]:
    found = []
    for w in reversed(s.pool):
        shape = broadcast(v.shape, w.shape)
        if shape and fits(shape) and not (s.dynamic and w.rank != v.rank):
            found.append((w, shape))
    return found


@op(lambda s, v: bool(_partners(s, v)), weight=3)
def binary(s: State, v: Value) -> Value:
    w, shape = s.pick(_partners(s, v))
    small = v.degree + w.degree <= MAX_DEGREE
    kind = s.pick(["Add", "Mul", "Sub", "Max"] if small else ["Add", "Sub", "Max"])
    degree = v.degree + w.degree if kind == "Mul" else max(v.degree, w.degree)
    names = (v.name, w.name) if s.flag() else (w.name, v.name)
    return Value(s.b.op(kind, *names), shape, degree)


# -- normalisation and reduction ----------------------------------------------------------------
@op(lambda s, v: v.rank >= 2)
def batchnorm(s: State, v: Value) -> Value:
    return Value(s.b.batchnorm(v.name, v.shape[1]), v.shape, v.degree)


@op(lambda s, v: v.rank >= 2 and v.shape[-1] >= 2)
def layernorm(s: State, v: Value) -> Value:
    axis = -2 if v.rank > 2 and s.flag() else -1
    scale = s.b.weight(*v.shape[axis:], offset=1, fan_in=9)
    more = (s.b.weight(*v.shape[axis:]),) if s.flag() else ()
    return s.add("LayerNormalization", v, scale, *more, shape=v.shape, degree=1, axis=axis, epsilon=1e-2)


@op(lambda s, v: v.rank >= 3 and prod(v.shape[2:]) > 1)
def instancenorm(s: State, v: Value) -> Value:
    n = v.shape[1]
    scale = s.b.weight(n, offset=1, fan_in=9)
    return s.add("InstanceNormalization", v, scale, s.bias(n), shape=v.shape, degree=1, epsilon=1e-2)


@op(lambda s, v: v.rank >= 2 + s.first)
def reduce(s: State, v: Value) -> Value:
    axis, keep = s.pick(s.axes(v)), s.flag()
    shape = replace(v.shape, axis, *([1] if keep else []))
    kind = s.pick(["ReduceMean", "ReduceSum", "ReduceMax"])
    return s.add(kind, v, s.b.ints(axis), shape=shape, keepdims=int(keep))


@op(lambda s, v: bool(s.axes(v, 2)))
def softmax(s: State, v: Value) -> Value:
    return s.add("Softmax", v, shape=v.shape, degree=1, axis=s.pick(s.axes(v, 2)))


@op(lambda s, v: v.rank >= 3)
def global_pool(s: State, v: Value) -> Value:
    shape = v.shape[:2] + (1,) * (v.rank - 2)
    return s.add(s.pick(["GlobalAveragePool", "GlobalMaxPool"]), v, shape=shape)


@op(lambda s, v: v.rank in (3, 4) and min(v.shape[2:]) >= 2)
def pool(s: State, v: Value) -> Value:
    stride = s.number(1, 2)
    shape = v.shape[:2] + tuple((n - 2) // stride + 1 for n in v.shape[2:])
    attrs: dict[str, Any] = {"kernel_shape": [2] * (v.rank - 2), "strides": [stride] * (v.rank - 2)}
    return s.add(s.pick(["MaxPool", "AveragePool"]), v, shape=shape, **attrs)


# -- contractions -------------------------------------------------------------------------------
@op(lambda s, v: v.rank >= 1 + s.first, weight=5)
def linear(s: State, v: Value) -> Value:
    weight, n = s.matrix(v.shape[-1])
    v = s.add("MatMul", v, weight, shape=replace(v.shape, v.rank - 1, n))
    return s.add("Add", v, s.bias(n), shape=v.shape) if s.flag() else v


@op(lambda s, v: v.rank >= 2 and prod(v.shape[1:]) <= 512)
def flatten_gemm(s: State, v: Value) -> Value:
    n_in, n = prod(v.shape[1:]), s.size()
    v = s.add("Flatten", v, shape=(v.shape[0], n_in), axis=1)
    transposed = s.flag()
    weight = s.b.weight(*((n, n_in) if transposed else (n_in, n)), fan_in=n_in, name=s.b.fresh("gemm.weight"))
    return s.add("Gemm", v, weight, s.bias(n), shape=(v.shape[0], n), transB=int(transposed))


def _factors(s: State, v: Value) -> list[tuple[Value, bool]]:
    """Right factors for a product of activations, and whether their last two axes must be swapped."""
    found = []
    for w in reversed(s.pool):
        if w.rank == v.rank and w.shape[:-2] == v.shape[:-2] and v.degree + w.degree <= MAX_DEGREE:
            found += [(w, swap) for swap in (True, False) if w.shape[-1 if swap else -2] == v.shape[-1]]
    return found


@op(lambda s, v: v.rank >= 2 + s.first and bool(_factors(s, v)), weight=2)
def matmul_pair(s: State, v: Value) -> Value:
    w, swap = s.pick(_factors(s, v))
    name, shape = w.name, w.shape
    if swap:
        name = s.b.transpose(name, *range(w.rank - 2), w.rank - 1, w.rank - 2)
        shape = (*shape[:-2], shape[-1], shape[-2])
    shape = (*v.shape[:-1], shape[-1])
    v = s.add("MatMul", v, name, shape=shape, degree=v.degree + w.degree)
    return s.add("Mul", v, s.b.scalar(0.25), shape=shape)


@op(lambda s, v: v.rank in (3, 4) and v.shape[1] <= 24, weight=5)
def conv(s: State, v: Value) -> Value:
    """Plain, grouped or depthwise, with strides, pads and dilations."""
    n_in, space = v.shape[1], v.shape[2:]
    group = s.pick(divisors(n_in)) if s.flag() else 1
    per_group = s.number(1, max(1, 12 // group)) if group > 1 else s.size(n_in)
    kernel, pads, dilations = [], [], []
    for n in space:
        pad = s.number(0, 1)
        kernel.append(s.number(1, min(3, n + 2 * pad)))
        pads.append(pad)
        dilations.append(s.number(1, 2) if 2 * kernel[-1] - 1 <= n + 2 * pad else 1)
    stride = s.number(1, 2)
    edges = zip(space, kernel, pads, dilations, strict=True)
    out = tuple((n + 2 * p - d * (k - 1) - 1) // stride + 1 for n, k, p, d in edges)
    n_out = group * per_group
    weight = s.kernel((n_out, n_in // group, *kernel), prod(kernel) * n_in // group)
    more = (s.bias(n_out),) if s.flag() else ()
    attrs: dict[str, Any] = {
        "group": group,
        "strides": [stride] * len(space),
        "pads": pads * 2,
        "dilations": dilations,
    }
    return s.add("Conv", v, weight, *more, shape=(v.shape[0], n_out, *out), kernel_shape=kernel, **attrs)


@op(lambda s, v: v.rank in (3, 4) and v.shape[1] <= 24 and max(v.shape[2:]) <= 6, weight=2)
def conv_transpose(s: State, v: Value) -> Value:
    n_in, space = v.shape[1], v.shape[2:]
    group = s.pick(divisors(n_in)) if s.flag() else 1
    per_group = s.number(1, max(1, 12 // group)) if group > 1 else s.size()
    kernel, stride = s.number(1, 3), s.number(1, 2)
    out = tuple((n - 1) * stride + kernel for n in space)
    n_out, ones = group * per_group, [1] * len(space)
    weight = s.kernel((n_in, per_group, *(kernel * n for n in ones)), n_in // group)
    more = (s.bias(n_out),) if s.flag() else ()
    attrs: dict[str, Any] = {
        "group": group,
        "strides": [stride * n for n in ones],
        "kernel_shape": [kernel * n for n in ones],
    }
    return s.add("ConvTranspose", v, weight, *more, shape=(v.shape[0], n_out, *out), **attrs)
