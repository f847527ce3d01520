"""Gradients of operators that pick and place elements, where onnx-ad has none."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import NodeProto

from graphprune.calibration.adjoint_rules import attribute, bare, own, seeded, sizes
from graphprune.graph.model import Array


@own("Slice")
def slice_(ctx: Any, node: NodeProto, grads: list[Any]) -> list[Any]:
    """Elements go back to where they were read; any step, also backwards."""
    from onnx_ad import UnsupportedOperator

    x = node.input[0]
    shape = sizes(ctx, x)
    settings = [_ints(ctx, node, place, name) for place, name in enumerate(("starts", "ends", "axes", "steps"), 1)]
    starts, ends = settings[0], settings[1]
    if starts is None or ends is None:
        raise UnsupportedOperator("its bounds are computed from data")
    axes = settings[2] or list(range(len(starts)))
    steps = settings[3] or [1] * len(starts)
    grad = bare(ctx, grads[0], node.output[0])
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        a = axis % len(shape)
        read = np.arange(shape[a])[_bounded(start, end, step)]
        grad = placed(ctx, grad, a, read, shape[a], len(shape))
    return [seeded(ctx, grad, x), *[None] * (len(node.input) - 1)]


def _ints(ctx: Any, node: NodeProto, place: int, name: str) -> list[int] | None:
    if len(node.input) > place and node.input[place]:
        found: list[int] | None = ctx.integers(node.input[place])
        return found
    listed = attribute(node, name)
    return None if listed is None else [int(i) for i in listed]


def _bounded(start: int, end: int, step: int) -> slice:
    """The slice that numpy reads: far below zero stands for the front when the step is negative."""
    return slice(start, None if step < 0 and end < -(1 << 31) else end, step)


def placed(ctx: Any, value: str, axis: int, positions: Array, size: int, rank: int) -> str:
    """A tensor of ``size`` along an axis with the value's entries at distinct positions and zeros elsewhere."""
    if np.array_equal(positions, np.arange(size)):
        return value
    table = np.full(size, len(positions), np.int64)
    table[positions] = np.arange(len(positions))
    first, count = (int(positions[0]), len(positions)) if len(positions) else (0, 0)
    if np.array_equal(positions, np.arange(first, first + count)):
        return pad(ctx, value, axis, first, size - first - count, rank)
    wide = pad(ctx, value, axis, 0, 1, rank)
    return str(ctx.b.op("Gather", [wide, ctx.b.ints(table)], axis=axis, stem="placed"))


def pad(ctx: Any, value: str, axis: int, before: int, after: int, rank: int) -> str:
    """Zeros in front of and behind an axis."""
    pads = [0] * 2 * rank
    pads[axis], pads[rank + axis] = before, after
    if ctx.opset >= 11:
        return str(ctx.b.op("Pad", [value, ctx.b.ints(pads)], stem="padded"))
    return str(ctx.b.op("Pad", [value], stem="padded", pads=pads))
