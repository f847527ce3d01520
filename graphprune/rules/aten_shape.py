"""PyTorch's operators that lay elements out in other axes, join and cut them."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphprune.rules.aten import aten, axes_of, axis_of, given, sized, slots
from graphprune.rules.context import Relate, Unsupported
from graphprune.rules.edit import Edit, new_positions
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


# -- joining ---------------------------------------------------------------------------------------------


@aten("cat", "concat", "concatenate", "hstack", kind="REINDEX")
def cat(r: Relate) -> None:
    """All tensors one after the other; their other axes are tied."""
    at = [s for s in slots(r, "tensors") if r.shape(s) != (0,)]
    along = 1 if r.node.op.startswith("hstack") and r.rank(at[0]) > 1 else 0
    axis = axis_of(r.attr("dim", along), r.rank(at[0]))
    lead = min(at, key=r.unlabelled)
    axes = r.axes(lead)
    for s in at:
        for a in range(len(axes)):
            if s != lead and a != axis:
                r.tie(s, a, axes[a])
    axes[axis] = r.concat([r.axis(s, axis) for s in at]) if len(at) > 1 else axes[axis]
    r.out(axes)


@aten("stack", kind="REINDEX")
def stack(r: Relate) -> None:
    """A new axis with one position for each tensor; the others are tied."""
    at = slots(r, "tensors")
    lead = min(at, key=r.unlabelled)
    axes = r.axes(lead)
    for s in at:
        for a in range(len(axes)):
            if s != lead:
                r.tie(s, a, axes[a])
    axes.insert(axis_of(r.attr("dim", 0), len(axes) + 1), r.frozen(len(at), "tensors that are stacked cannot leave"))
    r.out(axes)


# -- cutting ---------------------------------------------------------------------------------------------


def _part(r: Relate, axis: int, positions: Any) -> Any:
    """Labels of some positions of an axis; a single one stays."""
    picked = r.index(r.axis(0, axis), np.asarray(positions, np.int64))
    if picked.n == 1 and not picked.frozen:
        r.store.freeze(picked, r.why("a single position is cut out"))
    return picked


def part_sizes(e: Edit) -> None:
    """Every part gets its new size; equal parts become a list of sizes where they are no longer equal."""
    axis = axis_of(e.attr("dim", 0), len(e.in_shape(0)))
    if e.kept(0, axis) is None:
        return
    sizes = [e.out_sizes(s)[axis] for s in range(len(e.node.outputs))]
    listed = next((n for n in ("split_sizes", "split_size") if isinstance(e.attr(n), list)), "")
    if listed:
        e.change.attrs[listed] = sizes
    elif e.node.op.startswith("chunk") and _chunked(sum(sizes), int(e.attr("chunks"))) == sizes:
        return
    elif "split_size" in e.node.attrs and all(n == sizes[0] for n in sizes[:-1]) and sizes[-1] <= sizes[0]:
        e.change.attrs["split_size"] = sizes[0]
    else:
        e.change.op = ("split_with_sizes.default", (0,))
        e.change.attrs.update({"split_sizes": sizes, "dim": axis, "split_size": None, "chunks": None, "sections": None})


def _chunked(total: int, chunks: int) -> list[int]:
    """Sizes that torch.chunk gives."""
    size = -(-total // chunks)
    return [min(size, total - start) for start in range(0, total, max(size, 1))]


@aten("split", "split_with_sizes", "chunk", "tensor_split", "split_copy", "split_with_sizes_copy", kind="REINDEX",
      edit=part_sizes)  # fmt: skip
def split(r: Relate) -> None:
    """Consecutive parts of an axis."""
    axis = axis_of(r.attr("dim", 0), r.rank(0))
    start = 0
    for k in range(len(r.node.outputs)):
        n = (r.output(k).shape or ())[axis]
        axes = r.axes(0)
        axes[axis] = _part(r, axis, np.arange(start, start + n))
        start += n
        r.out(axes, k)


@aten("unbind", kind="REINDEX")
def unbind(r: Relate) -> None:
    """One output for each position of an axis, which stays."""
    axis = axis_of(r.attr("dim", 0), r.rank(0))
    r.freeze(0, axis, "each of its positions is cut out")
    for k in range(len(r.node.outputs)):
        r.out([x for a, x in enumerate(r.axes(0)) if a != axis], k)


def new_index(e: Edit) -> None:
    """Where the position lies among those that are kept."""
    axis = axis_of(e.attr("dim"), len(e.in_shape(0)))
    kept = e.kept(0, axis)
    if kept is not None:
        n = e.in_shape(0)[axis]
        e.change.attrs["index"] = int(new_positions(kept, n)[int(e.attr("index")) % n])


@aten("select", "select_copy", kind="REINDEX", edit=new_index)
def select(r: Relate) -> None:
    """A single position of an axis is cut out and stays; the others pass."""
    axis = axis_of(r.attr("dim"), r.rank(0))
    _part(r, axis, [int(r.attr("index")) % r.shape(0)[axis]])
    r.out([x for a, x in enumerate(r.axes(0)) if a != axis])


def _range(e: Edit | Relate, n: int) -> Any:
    if "length" in e.node.attrs:
        start = int(e.attr("start")) % max(n, 1)
        return np.arange(start, start + int(e.attr("length")))
    start, end, step = e.attr("start"), e.attr("end"), e.attr("step", 1)
    return np.arange(n)[slice(start, end, step)]


def slice_bounds(e: Edit) -> None:
    """New bounds where the kept positions are an interval, an index otherwise."""
    axis = axis_of(e.attr("dim", 0), len(e.in_shape(0)))
    source, kept = e.kept(0, axis), e.kept_out(axis)
    if source is None:
        return
    n = e.in_shape(0)[axis]
    positions = _range(e, n)
    index = new_positions(source, n)[positions if kept is None else positions[kept]]
    step = int(index[1] - index[0]) if len(index) > 1 else 1
    if not len(index):
        new = {"start": 0, "end": 0, "step": 1, "length": 0}
    elif step < 1 or not (np.diff(index) == step).all():
        e.change.gathers.append((0, axis, index))
        new = {"start": 0, "end": len(index), "step": 1, "length": len(index)}
    else:
        start, stop = int(index[0]), int(index[-1]) + 1
        new = {"start": start, "end": _end(e, stop, step, n, len(source)), "step": step, "length": len(index)}
    e.change.attrs.update({k: v for k, v in new.items() if k in e.node.attrs and (e.attr(k) or 0) != v})


def _end(e: Edit, stop: int, step: int, old: int, new: int) -> Any:
    """The end that is given, where it still says the same."""
    given = e.attr("end")
    if (given is None or given >= old) and stop + step > new:
        return given
    return given if given is not None and given < 0 and new + given == stop else stop


@aten("slice", "slice_copy", "narrow", kind="REINDEX", edit=slice_bounds)
def slice_(r: Relate) -> None:
    """An axis is read at fixed positions."""
    axis = axis_of(r.attr("dim", 0), r.rank(0))
    axes = r.axes(0)
    positions = _range(r, axes[axis].n)
    if len(positions) != axes[axis].n:
        axes[axis] = _part(r, axis, positions)
    r.out(axes)
