"""Convolutions: plain, grouped, depthwise, transposed, in any number of dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphprune.algebra import Axis
from graphprune.rules.context import Relate
from graphprune.rules.edit import Edit
from graphprune.rules.kinds import parameters as per_channel
from graphprune.rules.registry import rule


def spatial(r: Relate, channels: Axis, weight: int = 1) -> list[Axis]:
    """Output axes of a window operator; an axis with kernel 1, stride 1 and no padding passes its labels."""
    kernel = [int(k) for k in r.attr("kernel_shape") or r.shape(weight)[2:]]
    axes = [r.axis(0, 0), channels]
    out = r.output().shape
    assert out is not None
    for d, k in enumerate(kernel):
        if out[2 + d] == r.shape(0)[2 + d] and not _windowed(r, d, k, len(kernel)):
            axes.append(r.axis(0, 2 + d))
            continue
        r.freeze(0, 2 + d, "a window slides along this axis")
        axes.append(r.frozen(out[2 + d], "a window slides along this axis"))
    return axes


def _windowed(r: Relate, d: int, kernel: int, dims: int) -> bool:
    """Whether the window along spatial axis ``d`` does anything but copy."""
    stride = (r.attr("strides") or [1] * dims)[d]
    pads = list(r.attr("pads") or [0] * 2 * dims)
    grown = (r.attr("output_padding") or [0] * dims)[d]
    return kernel != 1 or stride != 1 or pads[d] != 0 or pads[d + dims] != 0 or grown != 0


def _freeze_kernel(r: Relate, weight: int = 1) -> None:
    for axis in range(2, r.rank(weight)):
        r.freeze_window(weight, axis)


def conv_groups(e: Edit, weight: int = 1) -> None:
    """The new number of groups is the new channels over the new channels of one group."""
    if int(e.attr("group", 1)) > 1:
        e.change.attrs["group"] = e.in_size(0, 1) // e.in_size(weight, 1)


@rule("Conv", "com.microsoft.FusedConv", kind="GROUPED", edit=conv_groups)
def conv(r: Relate) -> None:
    """A bias per channel; FusedConv adds a tensor of the output's shape."""
    convolution(r, 1, (2,))
    r.contract(0, 1)
    if r.has(3):
        r.tie(3, 1, r.axis(1, 0))


def convolution(r: Relate, weight: int, parameters: Sequence[int]) -> None:
    """Weight (O, I/G, …): input and output channels share the factor "group", the rest is tied inside.

    ``parameters`` are inputs with a value per output channel, or a single one for all.
    """
    groups = int(r.attr("group", 1))
    _freeze_kernel(r, weight)
    if groups == 1:
        r.tie(weight, 1, r.axis(0, 1))
    else:
        grouped_weight(r, weight, groups)
    channels = r.axis(weight, 0)
    per_channel(r, parameters, channels)
    axes = spatial(r, channels, weight)
    r.out(axes)
    r.macs(math.prod(r.shape(weight)[2:]), *axes, r.axis(weight, 1))


def grouped_weight(r: Relate, weight: int, groups: int) -> None:
    """Factor channels as (group, offset) on both sides of the weight."""
    outer, offset_in = r.split(r.axis(0, 1), groups, r.shape(0)[1] // groups)
    r.tie(weight, 1, offset_in)
    per_group = r.shape(weight)[0] // groups
    if r.unlabelled(weight):
        r.tie(weight, 0, r.merge(outer, r.fresh(per_group)))
    elif r.state.types[r.node.inputs[weight]][0] is None:
        r.tie(weight, 0, r.merge(outer, r.fresh(per_group)) if per_group > 1 else outer)
    else:
        mine, _ = r.split(r.axis(weight, 0), groups, per_group)
        r.eq(mine, outer)


def transposed_groups(e: Edit) -> None:
    """As for Conv, from the output side."""
    if int(e.attr("group", 1)) > 1:
        e.change.attrs["group"] = e.out_sizes()[1] // e.in_size(1, 1)


@rule("ConvTranspose", kind="GROUPED", edit=transposed_groups)
def conv_transpose(r: Relate) -> None:
    """Weight (I, O/G, …): the input channels lie on axis 0."""
    groups = int(r.attr("group", 1))
    _freeze_kernel(r)
    r.tie(1, 0, r.axis(0, 1))
    per_group = r.axis(1, 1)
    r.contract(0, 1)
    if groups == 1:
        channels = per_group
    else:
        outer, _ = r.split(r.axis(0, 1), groups, r.shape(0)[1] // groups)
        channels = r.merge(outer, per_group)
    if r.has(2):
        r.tie(2, 0, channels)
    r.out(spatial(r, channels))
    r.macs(math.prod(r.shape(1)[2:]), *r.axes(0), per_group)


@rule("MaxPool", "AveragePool", "LpPool", kind="REDUCE")
def pool(r: Relate) -> None:
    """Windows on the spatial axes only; channels pass."""
    axes = spatial(r, r.axis(0, 1))
    if any(r.node.outputs[1:]):
        r.freeze_all(0, "the second output counts positions along it")
    for slot in range(len(r.node.outputs)):
        r.out(axes, slot)


@rule("LRN", kind="STAT")
def lrn(r: Relate) -> None:
    """Neighbouring channels are summed: their order and number matter."""
    r.freeze(0, 1, "local response normalisation mixes neighbouring channels")
    r.out(r.axes(0))
