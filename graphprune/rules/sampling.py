"""Images read at computed places: grids, regions of interest, moved kernels, and blocks put together."""

from __future__ import annotations

import math

import numpy as np

from graphprune.rules.context import Relate, Unsupported
from graphprune.rules.conv import conv_groups, grouped_weight
from graphprune.rules.edit import Edit
from graphprune.rules.registry import rule

_SAMPLED = "it is sampled at computed places"


@rule("GridSample", kind="DYNINDEX")
def grid_sample(r: Relate) -> None:
    """Batch and channels pass, and so do the positions of the grid (N, …, coordinates)."""
    last = r.rank(1) - 1
    r.tie(1, 0, r.axis(0, 0))
    for a in range(2, r.rank(0)):
        r.freeze(0, a, _SAMPLED)
    r.freeze(1, last, "its positions are coordinates")
    r.out([r.axis(0, 0), r.axis(0, 1), *(r.axis(1, a) for a in range(1, last))])


@rule("RoiAlign", "MaxRoiPool", kind="DYNINDEX")
def regions(r: Relate) -> None:
    """Channels pass, and so do the regions (regions, coordinates)."""
    r.freeze(0, 0, "regions name its images by number")
    for a in range(2, r.rank(0)):
        r.freeze(0, a, _SAMPLED)
    r.freeze(1, 1, "its positions are coordinates")
    which = r.axis(1, 0)
    if r.has(2):
        r.tie(2, 0, which)
    out = r.output().shape
    assert out is not None
    r.out([which, r.axis(0, 1), *(r.frozen(n, _SAMPLED) for n in out[2:])])


def deform_groups(e: Edit) -> None:
    """Whole groups of offsets leave together with the channels they move."""
    conv_groups(e)
    kept = e.kept(2, 1)
    if kept is not None:
        old = int(e.attr("offset_group", 1))
        e.change.attrs["offset_group"] = len(kept) * old // e.in_shape(2)[1]


@rule("DeformConv", kind="GROUPED", edit=deform_groups)
def deform_conv(r: Relate) -> None:
    """As Conv; offsets (N, offset groups · window · 2, …) and mask also share the factor "offset group"."""
    groups, offset_groups = int(r.attr("group", 1)), int(r.attr("offset_group", 1))
    window = math.prod(r.shape(1)[2:])
    for a in range(2, r.rank(1)):
        r.freeze_window(1, a)
    if groups == 1:
        r.tie(1, 1, r.axis(0, 1))
    else:
        grouped_weight(r, 1, groups)
    moved = r.frozen(1, "an axis of one position")
    if offset_groups > 1:
        moved, _ = r.split(r.axis(0, 1), offset_groups, r.shape(0)[1] // offset_groups)
    for slot, count in ((2, 2 * window), (4, window)):
        if r.has(slot):
            r.tie(slot, 0, r.axis(0, 0))
            r.tie(slot, 1, r.merge(moved, r.frozen(count, "positions of the kernel's window cannot leave")))
            for a in range(2, r.rank(slot)):
                r.freeze(slot, a, "a window slides along this axis")
    r.contract(0, 1)
    channels = r.axis(1, 0)
    if r.has(3):
        r.tie(3, 0, channels)
    for a in range(2, r.rank(0)):
        r.freeze(0, a, "a window slides along this axis")
    out = r.output().shape
    assert out is not None
    axes = [r.axis(0, 0), channels, *(r.frozen(n, "a window slides along this axis") for n in out[2:])]
    r.out(axes)
    r.macs(window, *axes, r.axis(1, 1))


@rule("Col2Im", kind="REINDEX")
def col2im(r: Relate) -> None:
    """Rows are (channel, position in the block): whole channels leave."""
    block = r.ints(2)
    if block is None:
        raise Unsupported("the size of its blocks is computed")
    inner = int(np.prod(block))
    channels, places = r.split(r.axis(0, 1), r.shape(0)[1] // inner, inner)
    if not places.frozen:
        r.store.freeze(places, r.why("positions of a block cannot leave"))
    r.freeze(0, 2, "its positions are places in the image")
    out = r.output().shape
    assert out is not None
    r.out([r.axis(0, 0), channels, *(r.frozen(n, "blocks are put together along it") for n in out[2:])])
