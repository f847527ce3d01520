"""PyTorch's convolutions, pools and resampling."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphprune.algebra import Axis
from graphprune.rules.aten import aten, given, per_axis, slot
from graphprune.rules.context import Relate, Unsupported
from graphprune.rules.conv import grouped_weight
from graphprune.rules.edit import Edit
from graphprune.rules.kinds import parameters
from graphprune.rules.sampling import grid_sample

_WINDOW = "a window slides along this axis"


def windows(r: Relate, channels: Axis, kernel: Sequence[int], moves: bool = True) -> list[Axis]:  # noqa: FBT001, FBT002
    """Output axes of an operator with windows; an axis with kernel 1, stride 1 and no padding passes its labels."""
    dims = len(kernel)
    stride = per_axis(r.attr("stride"), dims, 1) if r.attr("stride") else list(kernel)
    padding = r.attr("padding", 0)
    pads = [0] * dims if isinstance(padding, str) else per_axis(padding, dims, 0)
    grown = per_axis(r.attr("output_padding"), dims, 0)
    out = r.output().shape or ()
    first = r.rank(0) - dims
    axes = [*(r.axis(0, a) for a in range(first - 1)), channels]
    for d in range(dims):
        still = kernel[d] == 1 and stride[d] == 1 and pads[d] == 0 and grown[d] == 0
        if moves and still and out[first + d] == r.shape(0)[first + d]:
            axes.append(r.axis(0, first + d))
        else:
            r.freeze(0, first + d, _WINDOW)
            axes.append(r.frozen(out[first + d], _WINDOW))
    return axes


def conv_groups(e: Edit) -> None:
    """The new number of groups is the new channels over the new channels of one group."""
    if int(e.attr("groups", 1)) > 1:
        weight = slot(e, "weight")
        channels = -(len(e.in_shape(weight)) - 1)
        groups = e.in_size(0, channels) // e.in_size(weight, 1)
        if _transposed(e):
            groups = e.out_sizes()[channels] // e.in_size(weight, 1)
        if groups != e.attr("groups"):
            e.change.attrs["groups"] = groups


def _transposed(r: Relate | Edit) -> bool:
    return "transpose" in r.node.op or bool(r.node.attrs.get("transposed"))


@aten("conv1d", "conv2d", "conv3d", "convolution", "_convolution", "conv_transpose1d", "conv_transpose2d",
      "conv_transpose3d", kind="GROUPED", edit=conv_groups)  # fmt: skip
def conv(r: Relate) -> None:
    """Input and output channels share the factor "groups", the rest is tied inside."""
    weight = slot(r, "weight")
    groups = int(r.attr("groups", 1))
    kernel = r.shape(weight)[2:]
    at = r.rank(0) - len(kernel) - 1
    if groups > 1 and at != 1:
        raise Unsupported("a grouped convolution without a batch axis is not followed")
    for a in range(2, r.rank(weight)):
        r.freeze_window(weight, a)
    if _transposed(r):
        r.tie(weight, 0, r.axis(0, at))
        inner = channels = r.axis(weight, 1)
        if groups > 1:
            outer, _ = r.split(r.axis(0, at), groups, r.shape(0)[at] // groups)
            channels = r.merge(outer, inner)
    else:
        if groups == 1:
            r.tie(weight, 1, r.axis(0, at))
        else:
            grouped_weight(r, weight, groups)
        inner, channels = r.axis(weight, 1), r.axis(weight, 0)
    parameters(r, given(r, "bias"), channels)
    r.contract(0, at)
    axes = windows(r, channels, kernel)
    r.out(axes)
    if _transposed(r):
        r.macs(math.prod(kernel), *r.axes(0), inner)
    else:
        r.macs(math.prod(kernel), *axes, inner)


@aten("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
      "max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices", kind="REDUCE")  # fmt: skip
def pool(r: Relate) -> None:
    """Windows on the spatial axes only; channels pass."""
    dims = int(r.node.op.split("d")[0][-1]) if "pool" in r.node.op else 2
    axes = windows(r, r.axis(0, -dims - 1), per_axis(r.attr("kernel_size"), dims, 1))
    for out in range(len(r.node.outputs)):
        r.out(axes, out)


@aten("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d",
      "_adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
      "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d", "upsample_bicubic2d",
      "upsample_linear1d", "upsample_trilinear3d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
      "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", kind="REDUCE")  # fmt: skip
def resampled(r: Relate) -> None:
    """Spatial axes are averaged or interpolated; batch and channels pass."""
    dims = int(r.node.op.partition(".")[0].removesuffix("_aa").rstrip("d")[-1])
    for out in range(len(r.node.outputs)):
        shape = r.output(out).shape or ()
        axes = r.axes(0)
        for a in range(len(axes) - dims, len(axes)):
            r.freeze(0, a, "it is resampled")
            axes[a] = r.frozen(shape[a], "it is resampled")
        r.out(axes, out)


aten("grid_sampler", "grid_sampler_2d", "grid_sampler_3d", kind="DYNINDEX")(grid_sample)
