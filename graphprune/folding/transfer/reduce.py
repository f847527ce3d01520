"""Pooling and reductions: what holds for all positions holds for their mean and their largest."""

from __future__ import annotations

import numpy as np

from graphprune.folding.interval import Interval, Unbounded
from graphprune.folding.step import Outcome, Step, bounds


def _windows(s: Step) -> Interval:
    """Bounds over the axes that a window slides along."""
    x = s.x(0)
    for axis in range(2, len(x.shape)):
        x = x.hull(axis)
    return x


@bounds("MaxPool", "GlobalMaxPool", "GlobalAveragePool")
def pool(s: Step) -> Outcome:
    """Positions outside count neither for a largest value nor for a mean over everything."""
    return [_windows(s), *(None for _ in s.node.outputs[1:])]


@bounds("AveragePool")
def average_pool(s: Step) -> Outcome:
    """Zeros may count as well, where the window reaches outside and they are asked to."""
    x = _windows(s)
    inside = not any(s.attr("pads") or []) and s.attr("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    if s.attr("count_include_pad", 0) and not (inside and not s.attr("ceil_mode", 0)):
        return x.union(0.0, 0.0)
    return x


def _axes(s: Step) -> list[int]:
    rank = len(s.shape(0))
    listed = s.ints(1) if s.has(1) else list(s.attr("axes") or [])
    if listed is None:
        raise Unbounded
    if not listed:
        return [] if s.attr("noop_with_empty_axes", 0) else list(range(rank))
    return [int(a) % rank for a in listed]


def _dropped(s: Step, x: Interval, axes: list[int]) -> Interval:
    if s.attr("keepdims", 1):
        return x
    return x.reshape([n for a, n in enumerate(x.shape) if a not in axes])


@bounds("ReduceMean", "ReduceMax", "ReduceMin")
def reduce_between(s: Step) -> Outcome:
    """Between the least and the largest."""
    axes, x = _axes(s), s.x(0)
    for a in axes:
        x = x.hull(a)
    return _dropped(s, x, axes)


@bounds("ReduceSum")
def reduce_sum(s: Step) -> Outcome:
    """Bounds add up; over an axis that follows the input size only zeros do."""
    axes, x = _axes(s), s.x(0)
    for a in axes:
        if s.dynamic(0)[a]:
            x = x.hull(a)
            zero = (x.lo == 0) & (x.hi == 0)
            x = Interval(np.where(zero, 0.0, -np.inf), np.where(zero, 0.0, np.inf))
        else:
            full = x.wide(a, s.shape(0)[a])
            x = Interval(full.lo.sum(axis=a, keepdims=True), full.hi.sum(axis=a, keepdims=True))
    return _dropped(s, x, axes)
