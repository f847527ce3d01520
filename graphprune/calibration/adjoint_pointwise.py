"""Gradients of element-by-element operators that onnx-ad has slow rules for."""

from __future__ import annotations

from typing import Any

from onnx import NodeProto

from graphprune.calibration.adjoint_rules import attribute, bare, own, seeded, sizes


@own("Clip")
def clip(ctx: Any, node: NodeProto, grads: list[Any]) -> list[Any]:
    """The gradient passes strictly between the bounds, as through a ReLU and a ReLU6 in PyTorch."""
    x = node.input[0]
    dtype = ctx.dtype(x)
    grad = bare(ctx, grads[0], x)
    bounds: list[tuple[str, str]] = []
    for place, name, op in ((1, "min", "Greater"), (2, "max", "Less")):
        bound = node.input[place] if len(node.input) > place else ""
        constant = attribute(node, name)
        if not bound and constant is not None:
            bound = ctx.constant(constant, dtype)
        if bound:
            bounds.append((op, bound))
    for op, bound in bounds:
        inside = ctx.b.op(op, [x, bound], stem="inside")
        grad = ctx.b.op("Mul", [grad, ctx.b.op("Cast", [inside], to=dtype, stem="inside")], stem="a_clip")
    return [seeded(ctx, grad, x), *[None] * (len(node.input) - 1)]


@own("Add", "Sub", "Mul")
def binary(ctx: Any, node: NodeProto, grads: list[Any]) -> list[Any]:
    """Each operand's gradient, summed over the axes along which it was repeated and no others."""
    out = node.output[0]
    wide = sizes(ctx, out)
    grad = bare(ctx, grads[0], out)
    found: list[Any] = []
    for mine, other in (node.input[0], node.input[1]), (node.input[1], node.input[0]):
        if not ctx.asked_for(mine):
            found.append(None)
            continue
        part = ctx.b.op("Mul", [grad, other], stem="a_product") if node.op_type == "Mul" else grad
        shape = sizes(ctx, mine)
        lead = len(wide) - len(shape)
        axes = [a for a, n in enumerate(wide) if n != 1 and (a < lead or shape[a - lead] == 1)]
        if axes:
            part = ctx.reduce_sum(part, axes, keepdims=1)
        found.append(seeded(ctx, part, mine))
    if node.op_type == "Sub" and found[1] is not None:
        found[1] = ctx.b.op("Neg", [found[1]], stem="a_sub")
    return found


@own("Det")
def det(ctx: Any, node: NodeProto, grads: list[Any]) -> list[Any]:  # noqa: ARG001 - rules share one signature
    """onnx-ad takes its gradient for zero, which it is not."""
    from onnx_ad import UnsupportedOperator

    raise UnsupportedOperator("a determinant has no gradient rule")
