"""Normalisations: a scale of zero leaves the bias."""

from __future__ import annotations

import numpy as np

from graphprune.folding.interval import Interval, Reals, Unbounded, rounded
from graphprune.folding.step import Outcome, Step, bounds


def _vector(s: Step, slot: int, default: float) -> Reals:
    """A stored parameter as numbers.

    Raises:
        Unbounded: It is computed from data.
    """
    if not s.has(slot):
        return np.full(1, default)
    found = s.content(slot)
    if found is None:
        raise Unbounded
    return np.asarray(found, np.float64)


def _scaled(scale: Reals, bias: Reals) -> Interval:
    """Something of any size, times the scale, plus the bias."""
    off = (scale == 0) & np.isfinite(bias)
    scale, bias = np.broadcast_arrays(off, bias)
    return Interval(np.where(scale, bias, -np.inf), np.where(scale, bias, np.inf))


@bounds("BatchNormalization")
def batch_norm(s: Step) -> Outcome:
    """A straight line per channel, with the stored mean and variance."""
    x = s.x(0)
    shape = [-1 if a == 1 else 1 for a in range(len(x.shape))]
    scale, bias = (_vector(s, i, 0.0).reshape(shape) for i in (1, 2))
    if scale.size not in (1, s.shape(0)[1]):
        raise Unbounded
    if s.attr("training_mode", 0) or len(s.node.outputs) > 1 or (s.node.version < 7 and not s.attr("is_test", 0)):
        return [_scaled(scale, bias), *(None for _ in s.node.outputs[1:])]
    mean, variance = (_vector(s, i, 0.0).reshape(shape) for i in (3, 4))
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + float(s.attr("epsilon", 1e-5)))
    if not np.isfinite(factor).all():
        raise Unbounded
    bounded = np.isfinite(x.lo) & np.isfinite(x.hi)
    lo, hi = np.where(bounded, x.lo, 0.0), np.where(bounded, x.hi, 0.0)
    middle = (lo / 2 + hi / 2 - mean) * factor + bias
    radius = np.where(bounded, (hi / 2 - lo / 2) * np.abs(factor), np.where(factor == 0, 0.0, np.inf))
    return rounded(middle, radius, s.dtype())


@bounds("InstanceNormalization", "GroupNormalization")
def channel_norm(s: Step) -> Outcome:
    """Scale and bias per channel, or per group before opset 21."""
    rank, channels = len(s.shape(0)), s.shape(0)[1]
    scale, bias = (_vector(s, i, 0.0) for i in (1, 2))
    repeats = channels // max(len(scale), 1)
    shape = [-1 if a == 1 else 1 for a in range(rank)]
    return _scaled(np.repeat(scale, repeats).reshape(shape), np.repeat(bias, repeats).reshape(shape))


@bounds("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_norm(s: Step) -> Outcome:
    """Scale and bias along the last axes."""
    rank = len(s.shape(0))
    scale, bias = (_vector(s, i, 0.0) for i in (1, 2))
    shapes = [(1,) * (rank - v.ndim) + v.shape for v in (scale, bias)]
    out = _scaled(scale.reshape(shapes[0]), bias.reshape(shapes[1]))
    return [out, *(None for _ in s.node.outputs[1:])]
