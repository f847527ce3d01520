"""PyTorch's operators that join and cut along axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphprune.rules.aten import aten, axis_of, slots
from graphprune.rules.context import Relate
from graphprune.rules.edit import Edit, new_positions

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
