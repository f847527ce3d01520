"""Gradients of reductions that onnx-ad has rules for which fail at zero."""

from __future__ import annotations

from typing import Any

from onnx import NodeProto

from graphprune.calibration.adjoint_rules import attribute, bare, own, seeded, sizes

_TINY = 1e-12


@own("ReduceL2")
def reduce_l2(ctx: Any, node: NodeProto, grads: list[Any]) -> list[Any]:
    """The input divided by its norm; 0 where the norm is 0, as in PyTorch."""
    x, out = node.input[0], node.output[0]
    shape = sizes(ctx, x)
    axes = attribute(node, "axes")
    if len(node.input) > 1 and node.input[1]:
        axes = ctx.integers(node.input[1])
    elif axes is None and attribute(node, "noop_with_empty_axes", 0):
        axes = []
    gone = {a % len(shape) for a in (range(len(shape)) if axes is None else axes)}
    wide = ctx.b.ints([1 if a in gone else n for a, n in enumerate(shape)])
    norm = ctx.b.op("Max", [out, ctx.constant(_TINY, ctx.dtype(x))], stem="norm")
    share = ctx.b.op("Div", [bare(ctx, grads[0], out), norm], stem="share")
    part = ctx.b.op("Mul", [x, ctx.b.op("Reshape", [share, wide], stem="share")], stem="a_norm")
    return [seeded(ctx, part, x), *[None] * (len(node.input) - 1)]
