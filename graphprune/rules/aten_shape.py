"""PyTorch's operators that lay elements out in other axes, or repeat them."""

from __future__ import annotations

from graphprune.rules.aten import aten, axes_of, axis_of, given, sized
from graphprune.rules.context import Relate, Unsupported
from graphprune.rules.edit import Edit
from graphprune.rules.reshape import reshaped

# -- the same elements in C order ------------------------------------------------------------------------


def target_sizes(e: Edit) -> None:
    """The new sizes by whatever name the operator gives them."""
    for name in ("size", "shape"):
        if name in e.node.attrs:
            sized(e, name)


def unflattened_sizes(e: Edit) -> None:
    """Sizes of the axes that one is cut into."""
    sized(e, "sizes", axis_of(e.attr("dim"), len(e.in_shape(0))))


@aten("view", "reshape", "_unsafe_view", "view_copy", "_reshape_alias", "view_as", "reshape_as", kind="REINDEX",
      edit=target_sizes)  # fmt: skip
def view(r: Relate) -> None:
    """The same elements in C order."""
    axes = reshaped(r, r.axes(0), r.value(0), r.output())
    for other in given(r, "other"):
        for a, axis in enumerate(axes):
            r.tie(other, a, axis)
    r.out(axes)


aten("unflatten", kind="REINDEX", edit=unflattened_sizes)(view)
aten("flatten", "unsqueeze", "ravel", "atleast_1d", "unsqueeze_copy", kind="REINDEX")(view)


def squeezed_axes(e: Edit) -> None:
    """Without a list all axes of one position leave; that must not take in what a removal left of an axis."""
    shape = e.in_shape(0)
    if "dim" not in e.node.attrs and any(e.kept(0, a) is not None for a in range(len(shape))):
        e.change.op = (e.node.op.partition(".")[0].removesuffix("_") + ".dims", (0,))
        e.change.attrs["dim"] = [a for a, n in enumerate(shape) if n == 1]


aten("squeeze", "squeeze_copy", kind="REINDEX", edit=squeezed_axes)(view)


@aten("view.dtype", kind="REINDEX")
def view_dtype(r: Relate) -> None:
    """Bits read as another type of the same width."""
    if r.output().shape != r.shape(0):
        raise Unsupported("its bits are read as a type of another width")
    r.out(r.axes(0))


# -- axes in another order -------------------------------------------------------------------------------


@aten("permute", "permute_copy", kind="REINDEX")
def permute(r: Relate) -> None:
    """Axes in another order."""
    r.out([r.axis(0, int(p)) for p in r.attr("dims")])


@aten("transpose", "transpose_copy", "swapaxes", "swapdims", "t", "numpy_T", "mT", "adjoint", kind="REINDEX")
def transpose(r: Relate) -> None:
    """Two axes change places."""
    axes = r.axes(0)
    if "numpy_T" in r.node.op:
        axes = axes[::-1]
    elif len(axes) > 1:
        one, two = (
            ((r.attr(a), r.attr(b)) for a, b in (("dim0", "dim1"), ("axis0", "axis1")) if a in r.node.attrs).__next__()
            if {"dim0", "axis0"} & set(r.node.attrs)
            else (-2, -1)
        )
        one, two = axis_of(one, len(axes)), axis_of(two, len(axes))
        axes[one], axes[two] = axes[two], axes[one]
    r.out(axes)


@aten("movedim", "moveaxis", kind="REINDEX")
def movedim(r: Relate) -> None:
    """Some axes get other places, the rest keeps its order."""
    rank = r.rank(0)
    source, target = axes_of(r.attr("source"), rank), axes_of(r.attr("destination"), rank)
    order: list[int] = [a for a in range(rank) if a not in source]
    for to, a in sorted(zip(target, source, strict=True)):
        order.insert(to, a)
    r.out([r.axis(0, a) for a in order])


# -- repeated positions ----------------------------------------------------------------------------------


@aten("expand", "expand_copy", "expand_as", "broadcast_to", kind="EXPAND", edit=target_sizes)
def expand(r: Relate) -> None:
    """An axis of one position is repeated into free positions; the others pass."""
    out = r.output().shape or ()
    axes = [r.fresh(n) for n in out]
    offset = len(axes) - r.rank(0)
    for a in range(r.rank(0)):
        if r.shape(0)[a] != 1:
            axes[offset + a] = r.axis(0, a)
    for other in given(r, "other"):
        for a, axis in enumerate(axes):
            if a < offset or r.shape(0)[a - offset] == 1:
                axes[a] = r.axis(other, a)
            else:
                r.tie(other, a, axis)
    r.out(axes)


def repeat_counts(e: Edit) -> None:
    """Copies that are left of an axis; one of one position has as many as positions."""
    counts = [int(n) for n in e.attr("repeats")]
    offset = len(counts) - len(e.in_shape(0))
    new = list(counts)
    for a in range(len(new)):
        if e.kept_out(a) is not None:
            new[a] = e.out_sizes()[a] // (e.in_size(0, a - offset) if a >= offset else 1)
    if new != counts:
        e.change.attrs["repeats"] = new


@aten("repeat", kind="EXPAND", edit=repeat_counts)
def repeat(r: Relate) -> None:
    """Whole copies one after the other."""
    counts = [int(n) for n in r.attr("repeats")]
    one = r.frozen(1, "an axis of one position")
    axes = [*(one for _ in range(len(counts) - r.rank(0))), *r.axes(0)]
    for a, times in enumerate(counts):
        if times > 1:
            whole = axes[a].n > 1 and axes[a].frozen
            axes[a] = r.merge(r.frozen(times, "copies") if whole else r.fresh(times), axes[a])
    r.out(axes)


def fill_size(e: Edit) -> None:
    """Sizes given outright follow the new widths."""
    sized(e, "size")


@aten("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", kind="EXPAND",
      edit=fill_size)  # fmt: skip
def fill(r: Relate) -> None:
    """A fill is as wide as its size says: its axes are free."""
    r.out([r.fresh(n) for n in r.output().shape or ()])
