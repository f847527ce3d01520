"""Sums over an axis with a stored weight: bounded where every input with a weight other than zero is."""

from __future__ import annotations

import numpy as np

from graphprune.folding.interval import Interval, Reals, Unbounded, rounded
from graphprune.folding.linear import linear, reached
from graphprune.folding.step import Outcome, Step, bounds
from graphprune.graph.model import Array

_SLACK = 1e-12  # what adding up in double precision may lose, relative to the summands


@bounds("Conv", "ConvTranspose", "Gemm", "MatMul")
def contraction(s: Step) -> Outcome:
    """The data may stand on either side of a product; two operands from data are left to their zeros."""
    slot = 0 if s.is_known(1) else 1
    found = linear(s.graph, s.node, slot)
    if not s.is_known(1 - slot):
        if s.node.op == "MatMul":
            return _zeros(s)
        raise Unbounded
    weight = s.content(1 - slot)
    if found is None or weight is None:
        raise Unbounded
    x = s.x(slot).along(found.axis, s.shape(slot)[found.axis])
    if not found.even:
        x = x.union(0.0, 0.0)  # what lies outside of a padded input
    middle, radius = _sums(found.canonical(weight), x, found.groups)
    if s.node.op == "Gemm":
        middle, radius = float(s.attr("alpha", 1.0)) * middle, abs(float(s.attr("alpha", 1.0))) * radius
    if s.has(2):
        low, high = _bias(s, len(middle))
        middle, radius = middle + (low + high) / 2, radius + (high - low) / 2
    pattern = [1] * len(s.out_shape())
    pattern[found.labels[1]] = len(middle)
    return rounded(middle, radius, s.dtype()).reshape(pattern)


def _sums(weight: Array, x: Interval, groups: int) -> tuple[Reals, Reals]:
    """Middle and radius per output; the radius is infinite where an open input counts."""
    finite = np.isfinite(x.lo) & np.isfinite(x.hi)
    middle = np.where(finite, x.lo / 2 + x.hi / 2, 0.0).reshape(groups, -1)
    radius = np.where(finite, x.hi / 2 - x.lo / 2, 0.0).reshape(groups, -1)
    open_inputs = ~finite.reshape(groups, -1)
    outputs = weight.shape[2]
    total, spread = np.zeros((groups, outputs)), np.full((groups, outputs), np.inf)
    closed = np.ones((groups, outputs), bool)
    for g in np.flatnonzero(open_inputs.any(axis=1)):
        closed[g] = ~reached(weight[g], np.flatnonzero(open_inputs[g]))
    for g in np.flatnonzero(closed.any(axis=1)):
        rows = np.asarray(weight[g][:, closed[g]], np.float64)
        total[g, closed[g]] = np.einsum("iok,i->o", rows, middle[g])
        size = np.abs(rows).sum(axis=2)
        wide = size.T @ radius[g]
        spread[g, closed[g]] = np.where(wide > 0, wide + _SLACK * (size.T @ np.abs(middle[g])), 0.0)
    return total.ravel(), spread.ravel()


def _bias(s: Step, outputs: int) -> tuple[Reals, Reals]:
    """Bounds of what is added per output."""
    if not s.is_known(2):
        raise Unbounded
    beta = float(s.attr("beta", 1.0)) if s.node.op == "Gemm" else 1.0
    bias = s.x(2)
    ends = bias.along(-1, outputs) if bias.lo.ndim else Interval(bias.lo.reshape(1), bias.hi.reshape(1))
    low, high = _sorted(beta * ends.lo, beta * ends.hi)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise Unbounded
    return low, high


def _sorted(a: Reals, b: Reals) -> tuple[Reals, Reals]:
    """The lesser and the larger."""
    return np.minimum(a, b), np.maximum(a, b)


def _zeros(s: Step) -> Outcome:
    """A product of two activations is zero where a row of the left or a column of the right one is."""
    rank = len(s.out_shape())
    if len(s.shape(0)) < 2 or len(s.shape(1)) < 2:
        raise Unbounded
    out = Interval(np.full((1,) * rank, -np.inf), np.full((1,) * rank, np.inf))
    for slot, axis in ((0, rank - 2), (1, rank - 1)):
        size = s.out_shape()[axis]
        if s.graph.values[s.node.outputs[0]].dynamic[axis]:
            continue
        ends = s.x(slot).along(-2 if slot == 0 else -1, size)
        out = out.put(axis, (ends.lo == 0) & (ends.hi == 0), 0.0, 0.0)
    return out
