"""PyTorch's other operators: padding, moving, windows, triangles, complex numbers, factories."""

from __future__ import annotations

import math

import numpy as np

from graphprune.rules.aten import aten, axes_of, axis_of, per_axis
from graphprune.rules.context import Relate, Unsupported
from graphprune.rules.edit import Edit, new_positions
from graphprune.rules.extent import new_pad
from graphprune.rules.kinds import no_labels, opaque
from graphprune.rules.registry import rule

# -- padding ---------------------------------------------------------------------------------------------


def _pads(listed: list[int], rank: int) -> list[tuple[int, int]]:
    """(before, after) by axis; torch lists them from the last axis on."""
    pads = [(0, 0)] * rank
    for i in range(len(listed) // 2):
        pads[rank - 1 - i] = int(listed[2 * i]), int(listed[2 * i + 1])
    return pads


def pad_counts(e: Edit) -> None:
    """Removed padding positions are simply not added; removed positions need no cropping any more."""
    listed, rank = [int(n) for n in e.attr("pad") or e.attr("padding")], len(e.in_shape(0))
    pads = _pads(listed, rank)
    new = list(listed)
    for i in range(len(listed) // 2):
        a = rank - 1 - i
        if e.kept_out(a) is not None or e.kept(0, a) is not None:
            new[2 * i : 2 * i + 2] = new_pad(e, a, *pads[a])
    if new != listed:
        e.change.attrs["pad" if "pad" in e.node.attrs else "padding"] = new


@aten("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
      "replication_pad2d", "replication_pad3d", kind="REINDEX", edit=pad_counts)  # fmt: skip
def pad(r: Relate) -> None:
    """Constant padding adds positions that may be left out again; other modes repeat positions that must stay."""
    axes = r.axes(0)
    out = r.output().shape or ()
    constant = "constant" in (r.node.op.partition("_")[0], r.attr("mode"))
    for a, (before, after) in enumerate(_pads(list(r.attr("pad") or r.attr("padding")), len(axes))):
        if before == after == 0:
            continue
        if not (constant or max(before, after) <= 0) or axes[a].frozen:
            r.freeze(0, a, "it is padded")
            axes[a] = r.frozen(out[a], "it is padded")
            continue
        parts = [r.index(axes[a], np.arange(max(-before, 0), axes[a].n - max(-after, 0)))]
        if before > 0:
            parts.insert(0, r.store.fresh(before))
        if after > 0:
            parts.append(r.store.fresh(after))
        axes[a] = r.concat(parts)
    r.out(axes)


# -- positions in another order ---------------------------------------------------------------------------


@aten("roll", kind="REINDEX")
def roll(r: Relate) -> None:
    """The rolled axes stay."""
    for a in axes_of(r.attr("dims"), r.rank(0)):
        r.freeze(0, a, "its positions are rolled")
    r.out(r.axes(0))


@aten("flip", kind="REINDEX")
def flip(r: Relate) -> None:
    """Axes are read backwards."""
    axes = r.axes(0)
    for a in axes_of(r.attr("dims"), len(axes)):
        axes[a] = r.index(axes[a], np.arange(axes[a].n)[::-1].copy())
    r.out(axes)


def shuffled(e: Edit) -> None:
    """A permutation of what is kept is no longer a shuffle of equal blocks: read it through an index."""
    kept, source = e.kept_out(1), e.kept(0, 1)
    if kept is not None and source is not None:
        perm = _shuffle(e.in_shape(0)[1], int(e.attr("groups")))
        e.change.gathers.append((0, 1, new_positions(source, len(perm))[perm[kept]]))
        e.change.attrs["groups"] = 1


def _shuffle(n: int, groups: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(n, dtype=np.int64).reshape(groups, -1).T.ravel()


@aten("channel_shuffle", "native_channel_shuffle", kind="REINDEX", edit=shuffled)
def channel_shuffle(r: Relate) -> None:
    """A permutation of the channels."""
    axes = r.axes(0)
    axes[1] = r.index(axes[1], _shuffle(axes[1].n, int(r.attr("groups"))))
    r.out(axes)


@aten("pixel_shuffle", kind="REINDEX")
def pixel_shuffle(r: Relate) -> None:
    """Channels are (C, block, block); whole C leave."""
    b = int(r.attr("upscale_factor"))
    axes = r.axes(0)
    channel, *block = r.split(axes[-3], axes[-3].n // (b * b), b, b)
    for part in block:
        if not part.frozen:
            r.store.freeze(part, r.why("sub-pixel positions cannot leave"))
    for a in (-2, -1):
        r.freeze(0, a, "sub-pixel positions are interleaved with it")
    out = r.output().shape or ()
    r.out([*axes[:-3], channel, *(r.frozen(n, "sub-pixel positions are interleaved with it") for n in out[-2:])])


@aten("pixel_unshuffle", kind="REINDEX")
def pixel_unshuffle(r: Relate) -> None:
    """Channels become (C, block, block)."""
    b = int(r.attr("downscale_factor"))
    for a in (-2, -1):
        r.freeze(0, a, "it is cut into blocks")
    out = r.output().shape or ()
    channels = r.merge(r.axis(0, -3), r.frozen(b * b, "sub-pixel positions cannot leave"))
    r.out([*r.axes(0)[:-3], channels, *(r.frozen(n, "it is cut into blocks") for n in out[-2:])])


# -- windows ---------------------------------------------------------------------------------------------


@aten("im2col", kind="REINDEX")
def im2col(r: Relate) -> None:
    """Rows become (channel, position in the window)."""
    window = math.prod(per_axis(r.attr("kernel_size"), 2, 1))
    for a in (-2, -1):
        r.freeze(0, a, "a window slides along this axis")
    out = r.output().shape or ()
    rows = r.merge(r.axis(0, -3), r.frozen(window, "positions of a window cannot leave"))
    r.out([*r.axes(0)[:-3], rows, r.frozen(out[-1], "a window slides along this axis")])


@aten("col2im", kind="REINDEX")
def col2im(r: Relate) -> None:
    """Rows are (channel, position in the window): whole channels leave."""
    window = math.prod(per_axis(r.attr("kernel_size"), 2, 1))
    channel, place = r.split(r.axis(0, -2), r.shape(0)[-2] // window, window)
    if not place.frozen:
        r.store.freeze(place, r.why("positions of a window cannot leave"))
    r.freeze(0, -1, "its positions are places in the image")
    out = r.output().shape or ()
    r.out([*r.axes(0)[:-2], channel, *(r.frozen(n, "blocks are put together along it") for n in out[-2:])])


@aten("unfold", "unfold_copy", kind="REINDEX")
def unfold(r: Relate) -> None:
    """An axis becomes windows, whose positions come last."""
    axes = r.axes(0)
    axis = axis_of(r.attr("dimension"), len(axes))
    r.freeze(0, axis, "a window slides along this axis")
    out = r.output().shape or ()
    axes[axis] = r.frozen(out[axis], "a window slides along this axis")
    r.out([*axes, r.frozen(out[-1], "positions of a window cannot leave")])


# -- copies, triangles, diagonals ------------------------------------------------------------------------


def copies(e: Edit) -> None:
    """As many copies as are left of each position."""
    axis = axis_of(e.attr("dim") or 0, len(e.out_shape()))
    if e.kept_out(axis) is not None:
        new = e.out_sizes()[axis] // e.in_size(0, axis)
        if new != e.attr("repeats"):
            e.change.attrs["repeats"] = new


@aten("repeat_interleave.self_int", kind="EXPAND", edit=copies)
def repeat_interleave(r: Relate) -> None:
    """Every position several times in a row."""
    axes = r.axes(0)
    if r.attr("dim") is None and len(axes) > 1:
        raise Unsupported("it is repeated as one list")
    axis, times = axis_of(r.attr("dim") or 0, len(axes)), int(r.attr("repeats"))
    whole = axes[axis].n > 1 and axes[axis].frozen
    axes[axis] = r.merge(axes[axis], r.frozen(times, "copies") if whole else r.fresh(times))
    r.out(axes)


@aten("tril", "triu", kind="REINDEX")
def triangle(r: Relate) -> None:
    """Rows and columns of the triangle stay; leading axes pass."""
    for a in (-2, -1):
        r.freeze(0, a, "its rows and columns make a triangle")
    r.out(r.axes(0))


@aten("diagonal", "diagonal_copy", kind="REINDEX")
def diagonal(r: Relate) -> None:
    """Both axes of the diagonal stay."""
    rank = r.rank(0)
    one, two = axis_of(r.attr("dim1", 0), rank), axis_of(r.attr("dim2", 1), rank)
    for a in (one, two):
        r.freeze(0, a, "its diagonal is read")
    out = r.output().shape or ()
    rest = [x for a, x in enumerate(r.axes(0)) if a not in (one, two)]
    r.out([*rest, r.frozen(out[-1], "a diagonal is read along it")])


# -- complex numbers -------------------------------------------------------------------------------------


@aten("view_as_complex", kind="REINDEX")
def view_as_complex(r: Relate) -> None:
    """The last axis holds real and imaginary part."""
    r.freeze(0, -1, "it holds real and imaginary parts")
    r.out(r.axes(0)[:-1])


@aten("view_as_real", kind="REINDEX")
def view_as_real(r: Relate) -> None:
    """Real and imaginary part become the last axis."""
    r.out([*r.axes(0), r.frozen(2, "it holds real and imaginary parts")])


@aten("fft_fft", "fft_ifft", "fft_rfft", "fft_irfft", "fft_fft2", "fft_ifft2", "fft_rfft2", "fft_irfft2", "fft_fftn",
      "fft_ifftn", "fft_rfftn", "fft_irfftn", kind="DYNINDEX")  # fmt: skip
def fourier(r: Relate) -> None:
    """Transformed axes stay; the others pass."""
    axes, out = r.axes(0), r.output().shape or ()
    for a in axes_of(r.attr("dim"), len(axes)):
        r.freeze(0, a, "it is transformed as a whole")
        axes[a] = r.frozen(out[a], "it is transformed as a whole")
    r.out(axes)


@rule("graphprune.opaque", kind="OPAQUE")
def opaque_module(r: Relate) -> None:
    """A module that was marked opaque: all that it touches stays."""
    opaque(r, f"the module {r.node.scope or 'it belongs to'} was marked opaque")


aten("arange", "linspace", "logspace", "eye", "scalar_tensor", "rand", "randn", "randint", "randperm", "tril_indices",
     "triu_indices", kind="SIZES")(no_labels)  # fmt: skip
