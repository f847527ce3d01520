"""Gradient of a convolution: with respect to its input, and to its weight, grouped or not.

The gradient of the input is a convolution again, with the kernel turned round; with strides the gradient of the output
is first spread out with zeros between, which for grouped kernels is many times faster in onnxruntime than its
transposed convolution. Without groups the transposed convolution is used there.

The gradient of a weight is, for every tap of the window, a product over samples and positions; with groups it is a
convolution again, whose kernel is the gradient of the output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

from onnx import NodeProto

from graphprune.calibration.adjoint_rules import attribute, bare, flipped, own, seeded, sizes


@dataclass(frozen=True, slots=True)
class _Conv:
    """Sizes of a convolution; lists per window axis."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    y: tuple[int, ...]
    groups: int
    strides: list[int]
    dilations: list[int]
    begin: list[int]
    end: list[int]

    @property
    def window(self) -> range:
        return range(len(self.strides))

    def reach(self, a: int) -> int:
        """Positions between the first and the last tap."""
        return self.dilations[a] * (self.w[2 + a] - 1)


@own("Conv")
def conv(ctx: Any, node: NodeProto, grads: list[Any]) -> list[Any]:
    """Gradients of input, weight and bias."""
    x, w, y = node.input[0], node.input[1], node.output[0]
    facts = _facts(ctx, node)
    grad = bare(ctx, grads[0], y)
    out: list[Any] = [None, None, None]
    if ctx.asked_for(x):
        out[0] = seeded(ctx, _input(ctx, facts, grad, w), x)
    if ctx.asked_for(w):
        out[1] = seeded(ctx, _weight(ctx, facts, grad, x), w)
    if len(node.input) > 2 and node.input[2] and ctx.asked_for(node.input[2]):
        axes = [a for a in range(len(facts.y)) if a != 1]
        out[2] = seeded(ctx, ctx.reduce_sum(grad, axes, keepdims=0), node.input[2])
    return out[: len(node.input)]


def _facts(ctx: Any, node: NodeProto) -> _Conv:
    x, w, y = (sizes(ctx, name) for name in (node.input[0], node.input[1], node.output[0]))
    rank = len(x) - 2
    strides = list(attribute(node, "strides", None) or [1] * rank)
    dilations = list(attribute(node, "dilations", None) or [1] * rank)
    pads = list(attribute(node, "pads", None) or [0] * 2 * rank)
    auto = attribute(node, "auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        reach = [dilations[a] * (w[2 + a] - 1) for a in range(rank)]
        total = [max(0, (y[2 + a] - 1) * strides[a] + reach[a] + 1 - x[2 + a]) for a in range(rank)]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = [*less, *more] if auto == "SAME_UPPER" else [*more, *less]
    elif auto == "VALID":
        pads = [0] * 2 * rank
    return _Conv(x, w, y, int(attribute(node, "group", 1)), strides, dilations, pads[:rank], pads[rank:])


def _input(ctx: Any, c: _Conv, grad: str, weight: str) -> str:
    if c.groups == 1 and max(c.strides) > 1:
        extra = [
            c.x[2 + a] + c.begin[a] + c.end[a] - (c.y[2 + a] - 1) * c.strides[a] - c.reach(a) - 1 for a in c.window
        ]
        attrs = {"strides": c.strides, "dilations": c.dilations, "pads": [*c.begin, *c.end], "output_padding": extra}
        return str(ctx.b.op("ConvTranspose", [grad, weight], stem="a_conv", **attrs))
    before = [c.reach(a) - c.begin[a] for a in c.window]
    after = [c.x[2 + a] + c.begin[a] - 1 - (c.y[2 + a] - 1) * c.strides[a] for a in c.window]
    if max(c.strides) > 1:
        grad = _spread(ctx, c, grad)
        after = [n - (c.strides[a] - 1) for a, n in enumerate(after)]
    if min(*before, *after) < 0:
        grad = _cropped(ctx, c, grad, before, after)
        before, after = [max(n, 0) for n in before], [max(n, 0) for n in after]
    kernel = _turned(ctx, c, weight)
    settings: dict[str, Any] = {"dilations": c.dilations, "pads": [*before, *after], "group": c.groups}
    return str(ctx.b.op("Conv", [grad, kernel], stem="a_conv", **settings))


def _spread(ctx: Any, c: _Conv, grad: str) -> str:
    """The gradient with strides - 1 zeros behind every position."""
    apart, joined = list(c.y[:2]), list(c.y[:2])
    pads = [0, 0]
    for a in c.window:
        apart += [c.y[2 + a], 1]
        joined.append(c.y[2 + a] * c.strides[a])
        pads += [0, c.strides[a] - 1]
    wide = ctx.b.op("Reshape", [grad, ctx.b.ints(apart)], stem="apart")
    return str(ctx.b.op("Reshape", [_pad(ctx, wide, [0] * len(pads), pads), ctx.b.ints(joined)], stem="spread"))


def _cropped(ctx: Any, c: _Conv, grad: str, before: list[int], after: list[int]) -> str:
    """The gradient without positions that no input took part in, where pads are negative."""
    starts = [max(-n, 0) for n in before]
    ends = [c.y[2 + a] * c.strides[a] - max(-n, 0) for a, n in enumerate(after)]
    if max(c.strides) == 1:
        ends = [c.y[2 + a] - max(-n, 0) for a, n in enumerate(after)]
    return str(ctx.slice(grad, starts, ends, [2 + a for a in c.window], stem="cropped"))


def _turned(ctx: Any, c: _Conv, weight: str) -> str:
    """The kernel read backwards, its inputs and outputs exchanged within every group."""
    out, inner, *window = c.w
    per = out // c.groups
    split = ctx.b.op("Reshape", [weight, ctx.b.ints([c.groups, per, inner, *window])], stem="kernel")
    swapped = ctx.b.op("Transpose", [split], perm=[0, 2, 1, *range(3, 3 + len(window))], stem="kernel")
    shape = (c.groups * inner, per, *window)
    joined = ctx.b.op("Reshape", [swapped, ctx.b.ints(shape)], stem="kernel")
    return flipped(ctx, joined, list(range(2, len(shape))), shape)


def _weight(ctx: Any, c: _Conv, grad: str, x: str) -> str:
    padded, wide = x, list(c.x[2:])
    if any(c.begin) or any(c.end):
        padded = _pad(ctx, x, [0, 0, *c.begin], [0, 0, *c.end])
        wide = [s + c.begin[a] + c.end[a] for a, s in enumerate(wide)]
    if c.groups > 1 or (max(c.strides) > 1 and ctx.opset < 10):  # slices had no steps then
        return _grouped_weight(ctx, c, grad, padded, wide)
    return _dense_weight(ctx, c, grad, padded)


def _dense_weight(ctx: Any, c: _Conv, grad: str, padded: str) -> str:
    """For every tap (outputs, samples · positions) @ (samples · positions, channels), the taps side by side."""
    (n, out, *positions), channels = c.y, c.x[1]
    axes, rest = [1 + a for a in c.window], [2 + a for a in c.window]
    count = n * math.prod(positions)
    left = ctx.b.op("Transpose", [grad], perm=[1, 0, *rest])
    left = ctx.b.op("Reshape", [left, ctx.b.ints([out, count])])
    data = ctx.b.op("Transpose", [padded], perm=[0, *rest, 1])
    taps = []
    for tap in product(*(range(k) for k in c.w[2:])):
        starts = [c.dilations[a] * tap[a] for a in c.window]
        ends = [starts[a] + (positions[a] - 1) * c.strides[a] + 1 for a in c.window]
        if max(c.strides) > 1:
            bounds = [ctx.b.ints(numbers) for numbers in (starts, ends, axes, c.strides)]
            seen = ctx.b.op("Slice", [data, *bounds], stem="tap")
        else:
            seen = ctx.slice(data, starts, ends, axes, stem="tap")
        right = ctx.b.op("Reshape", [seen, ctx.b.ints([count, channels])])
        taps.append(ctx.b.op("Reshape", [ctx.b.op("MatMul", [left, right]), ctx.b.ints([out, channels, 1])]))
    return str(ctx.b.op("Reshape", [ctx.b.op("Concat", taps, axis=2), ctx.b.ints(c.w)], stem="a_kernel"))


def _grouped_weight(ctx: Any, c: _Conv, grad: str, padded: str, wide: list[int]) -> str:
    """Correlation of the padded input with the gradient, both with samples and channels exchanged.

    Groups take part as groups of a convolution over (group, sample) channels: input (channels of a group, groups ·
    samples, …), kernel (groups · outputs, samples, …).
    """
    n, inner = c.x[0], c.x[1] // c.groups
    rest = list(range(3, 3 + len(wide)))
    data = ctx.b.op("Reshape", [padded, ctx.b.ints([n, c.groups, inner, *wide])])
    data = ctx.b.op("Transpose", [data], perm=[2, 1, 0, *rest])
    data = ctx.b.op("Reshape", [data, ctx.b.ints([inner, c.groups * n, *wide])])
    kernel = ctx.b.op("Transpose", [grad], perm=[1, 0, *range(2, 2 + len(wide))])
    made = ctx.b.op("Conv", [data, kernel], stem="a_kernel", strides=c.dilations, dilations=c.strides, group=c.groups)
    starts, ends = [0] * len(wide), list(c.w[2:])
    cut = ctx.slice(made, starts, ends, list(range(2, 2 + len(wide))), stem="a_kernel")
    return str(ctx.b.op("Transpose", [cut], perm=[1, 0, *range(2, 2 + len(wide))], stem="a_kernel"))


def _pad(ctx: Any, value: str, before: list[int], after: list[int]) -> str:
    if ctx.opset >= 11:
        return str(ctx.b.op("Pad", [value, ctx.b.ints([*before, *after])], stem="padded"))
    return str(ctx.b.op("Pad", [value], stem="padded", pads=[*before, *after]))
