"""Element by element."""

from __future__ import annotations

from itertools import product
from math import erf

import numpy as np

from graphprune.folding.interval import Interval, Reals, Unbounded, made
from graphprune.folding.step import Outcome, Step, bounds
from graphprune.graph.model import Array

_RISING = (
    "Asinh", "Atan", "Celu", "Elu", "Erf", "Exp", "HardSigmoid", "LeakyRelu", "Log", "Relu", "Selu", "Sigmoid",
    "Sinh", "Softplus", "Softsign", "Sqrt", "Tanh",
)  # fmt: skip
_SMOOTH = (
    "Abs", "Acos", "Acosh", "Asin", "Atanh", "Cos", "Cosh", "Gelu", "HardSwish", "Mish", "Reciprocal", "Sin", "Swish",
    "Tan", "com.microsoft.Gelu", "com.microsoft.QuickGelu",
)  # fmt: skip
_MAY_FALL = {"Celu", "Elu", "HardSigmoid", "LeakyRelu", "Selu"}  # where an attribute is negative


@bounds(*_RISING)
def rising(s: Step) -> Outcome:
    """Non-decreasing: the ends map to the ends."""
    if s.node.op in _MAY_FALL and min(float(s.attr("alpha", 1)), float(s.attr("gamma", 1))) < 0:
        return smooth(s)
    x = s.x(0)
    lo, hi = s.evaluate(x.lo), s.evaluate(x.hi)
    if lo is None or hi is None:
        raise Unbounded
    return made(lo, hi)


@bounds(*_SMOOTH)
def smooth(s: Step) -> Outcome:
    """Continuous: constants map to constants."""
    x = s.x(0)
    values = np.where(x.constant, x.lo, 1.0)
    out = s.evaluate(values)
    return _known(x.constant, out if out is not None else _contrib(s, values))


def _contrib(s: Step, x: Reals) -> Reals | None:
    """Operators that the reference does not have."""
    if s.node.key == "com.microsoft.Gelu":
        return np.asarray(0.5 * x * (1 + np.vectorize(erf)(x / np.sqrt(2))))
    if s.node.key == "com.microsoft.QuickGelu":
        return np.asarray(x / (1 + np.exp(-float(s.attr("alpha", 1.702)) * x)))
    return None


def _known(where: Array, values: Reals | None) -> Interval:
    """Values where all operands were constant and the result is finite, nothing elsewhere."""
    if values is None:
        raise Unbounded
    held = where & np.isfinite(values)
    return Interval(np.where(held, values, -np.inf), np.where(held, values, np.inf))


@bounds("Neg")
def negative(s: Step) -> Outcome:
    """The ends change places."""
    x = s.x(0)
    return Interval(-x.hi, -x.lo)


@bounds("Identity", "Dropout")
def same(s: Step) -> Outcome:
    """Nothing happens to the values at inference."""
    if s.node.op == "Dropout" and s.has(2) and s.ints(2) != [0]:
        raise Unbounded
    return [s.x(0), *(None for _ in s.node.outputs[1:])]


@bounds("Cast", "CastLike")
def cast(s: Step) -> Outcome:
    """Between floats; a cast to integers jumps."""
    types = {s.graph.values[s.node.inputs[0]].dtype, s.dtype()}
    if not all(t.startswith(("float", "bfloat16", "double")) and not t.startswith("float8") for t in types):
        raise Unbounded
    return s.x(0)


@bounds("Clip")
def clip(s: Step) -> Outcome:
    """Fixed limits, attributes before opset 11."""
    low, high = s.attr("min"), s.attr("max")
    for slot in (1, 2):
        if s.has(slot):
            limit = s.content(slot)
            if limit is None:
                raise Unbounded
            low, high = (float(limit.ravel()[0]), high) if slot == 1 else (low, float(limit.ravel()[0]))
    x = s.x(0)
    low, high = -np.inf if low is None else float(low), np.inf if high is None else float(high)
    return Interval(np.minimum(np.maximum(x.lo, low), high), np.minimum(np.maximum(x.hi, low), high))


@bounds("PRelu")
def prelu(s: Step) -> Outcome:
    """Two straight pieces that meet at zero."""
    x, slope = s.x(0), s.content(1)
    if slope is None:
        raise Unbounded
    rank = len(x.shape)
    factor = np.asarray(slope, np.float64).reshape((1,) * (rank - slope.ndim) + slope.shape)
    ends = [np.where(v > 0, v, _times(np.minimum(v, 0), factor)) for v in (x.lo, x.hi)]
    low, high = np.minimum(*ends), np.maximum(*ends)
    around = (x.lo < 0) & (x.hi > 0)
    return Interval(np.where(around, np.minimum(low, 0), low), np.where(around, np.maximum(high, 0), high))


# -- several operands ------------------------------------------------------------------------------------


def _times(a: Reals, b: Reals) -> Reals:
    """Products of bounds: values are finite, so zero times an open end is zero."""
    with np.errstate(invalid="ignore"):
        return np.where((a == 0) | (b == 0), 0.0, a * b)


def _aligned(s: Step, slots: range) -> list[Interval]:
    """Operands with as many axes as the output."""
    rank = len(s.out_shape())
    found = [s.x(i) for i in slots if s.has(i)]
    return [x.reshape((1,) * (rank - len(x.shape)) + x.shape) for x in found]


@bounds("Add", "Sum")
def add(s: Step) -> Outcome:
    """Bounds add up."""
    first, *rest = _aligned(s, range(len(s.node.inputs)))
    for x in rest:
        first = Interval(first.lo + x.lo, first.hi + x.hi)
    return first


@bounds("Sub")
def subtract(s: Step) -> Outcome:
    """The least minus the largest."""
    a, b = _aligned(s, range(2))
    return Interval(a.lo - b.hi, a.hi - b.lo)


def _product(a: Interval, b: Interval) -> Interval:
    corners = [_times(p, q) for p, q in product((a.lo, a.hi), (b.lo, b.hi))]
    return Interval(np.minimum.reduce(corners), np.maximum.reduce(corners))


@bounds("Mul")
def multiply(s: Step) -> Outcome:
    """The extremes lie at corners; a factor of zero makes zero."""
    return _product(*_aligned(s, range(2)))


@bounds("Div")
def divide(s: Step) -> Outcome:
    """By a constant, or zero by something that keeps its sign."""
    a, b = _aligned(s, range(2))
    away = (b.lo > 0) | (b.hi < 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        inverse = Interval(np.where(away, 1 / b.hi, -np.inf), np.where(away, 1 / b.lo, np.inf))
    out = _product(a, inverse)
    undefined = ~away & np.ones_like(out.lo, bool)  # zero divided by something that may be zero
    return Interval(np.where(undefined, -np.inf, out.lo), np.where(undefined, np.inf, out.hi))


@bounds("Pow")
def power(s: Step) -> Outcome:
    """Constants to constants."""
    a, b = _aligned(s, range(2))
    where = a.constant & b.constant
    with np.errstate(all="ignore"):
        return _known(where, np.power(np.where(where, a.lo, 1.0), np.where(where, b.lo, 1.0)))


@bounds("Max", "Min")
def extreme(s: Step) -> Outcome:
    """Both ends of the largest, or least, operand."""
    pick = np.maximum if s.node.op == "Max" else np.minimum
    found = _aligned(s, range(len(s.node.inputs)))
    lo, hi = found[0].lo, found[0].hi
    for x in found[1:]:
        lo, hi = pick(lo, x.lo), pick(hi, x.hi)
    return Interval(lo, hi)


@bounds("Mean")
def mean(s: Step) -> Outcome:
    """Bounds add up and are shared."""
    total = add(s)
    assert isinstance(total, Interval)
    return Interval(total.lo / len(s.node.inputs), total.hi / len(s.node.inputs))


@bounds("Where")
def where(s: Step) -> Outcome:
    """Either operand, unless the condition is fixed."""
    a, b = _aligned(s, range(1, 3))
    either = Interval(np.minimum(a.lo, b.lo), np.maximum(a.hi, b.hi))
    condition = s.content(0)
    if condition is None or condition.size > 1:
        return either
    return a if bool(condition.ravel()[0]) else b
