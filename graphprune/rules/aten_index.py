"""PyTorch's operators that read and write at indices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphprune.algebra import Axis
from graphprune.graph.model import Array, Value
from graphprune.rules.aten import aten, axis_of, given, slot
from graphprune.rules.context import Relate, Unsupported
from graphprune.rules.edit import Edit, new_positions
from graphprune.rules.kinds import broadcast, opaque
from graphprune.rules.reshape import reshaped

_READ, _WRITTEN = "it is read at computed indices", "it is written at computed indices"


def read_at(r: Relate, axis: int, index: int) -> list[Axis]:
    """Labels that replace an axis of input 0 when it is read at an index tensor of any rank."""
    fixed = r.const(index)
    if fixed is None or fixed.dtype.kind not in "iu":
        r.freeze(0, axis, _READ)
        return r.axes(index)
    flat = _positive(fixed, r.shape(0)[axis]).ravel()
    if not flat.size:
        r.freeze(0, axis, _READ)
        return [r.frozen(n, _READ) for n in fixed.shape]
    picked = r.index(r.axis(0, axis), flat)
    if picked.n == 1:
        if not picked.frozen:
            r.store.freeze(picked, r.why("a single position is read"))
        return [r.frozen(1, "a single position is read") for _ in fixed.shape]
    if fixed.ndim == 1:
        return [picked]
    return reshaped(r, [picked], Value("", (picked.n,), (False,)), Value("", fixed.shape, (False,) * fixed.ndim))


def _positive(index: Array, n: int) -> Array:
    index = np.asarray(index, np.int64)
    return np.where(index < 0, index + n, index)


def new_read(e: Edit, axis: int, index: int) -> None:
    """Fixed indices lose the rows that are gone and name the new positions of the others."""
    fixed, source = e.const(index), e.kept(0, axis)
    if fixed is None or fixed.dtype.kind not in "iu":
        return
    box = [e.kept_out(axis + d) for d in range(fixed.ndim)]
    if source is None and all(b is None for b in box):
        return
    n = e.in_shape(0)[axis]
    new = _positive(fixed, n)
    for d, kept in enumerate(box):
        if kept is not None:
            new = np.take(new, kept, axis=d)
    e.change.consts[index] = new if source is None else new_positions(source, n)[new]


def selected(e: Edit) -> None:
    """Fixed indices follow."""
    new_read(e, axis_of(e.attr("dim"), len(e.in_shape(0))), slot(e, "index"))


@aten("index_select", kind="REINDEX", edit=selected)
def index_select(r: Relate) -> None:
    """Fixed indices re-index the axis, computed ones freeze it."""
    axis = axis_of(r.attr("dim"), r.rank(0))
    axes = r.axes(0)
    r.out([*axes[:axis], *read_at(r, axis, slot(r, "index")), *axes[axis + 1 :]])


@aten("embedding", kind="DYNINDEX")
def embedding(r: Relate) -> None:
    """Rows are looked up and stay; the other axis passes behind those of the indices."""
    weight = slot(r, "weight")
    r.freeze(weight, 0, "its rows are looked up")
    r.out([*r.axes(slot(r, "indices")), *r.axes(weight)[1:]])


def indexed(e: Edit) -> None:
    """A single fixed index follows."""
    at = _places(e.node.attrs["slots"]["indices"])
    if len(at) == 1:
        axis, index = at[0]
        new_read(e, axis, index)


def _places(listed: Sequence[int | None]) -> list[tuple[int, int]]:
    return [(a, int(s)) for a, s in enumerate(listed) if s is not None]


@aten("index", "_unsafe_index", kind="DYNINDEX", edit=indexed)
def index_(r: Relate) -> None:
    """One fixed index tensor re-indexes its axis; several, or computed ones, freeze those that they index."""
    at = _places(r.node.attrs["slots"]["indices"])
    if any(r.value(s).dtype in ("bool", "uint8") for _, s in at):
        raise Unsupported("positions are picked by a mask")
    axes = r.axes(0)
    if len(at) == 1:
        axis, index = at[0]
        r.out([*axes[:axis], *read_at(r, axis, index), *axes[axis + 1 :]])
        return
    for axis, _ in at:
        r.freeze(0, axis, _READ)
    picked = broadcast(r, [s for _, s in at])
    first, last = at[0][0], at[-1][0]
    together = last - first + 1 == len(at)
    rest = [x for a, x in enumerate(axes) if a not in dict(at)]
    before = first if together else 0
    r.out([*rest[:before], *picked, *rest[before:]])


def _beside(r: Relate, index: int, axis: int) -> list[Axis]:
    """Axes of an index tensor that lies beside input 0: those that are not indexed are tied."""
    r.freeze(0, axis, _READ)
    for a in range(r.rank(index)):
        if a == axis:
            continue
        if r.shape(index)[a] == r.shape(0)[a]:
            r.tie(index, a, r.axis(0, a))
        else:
            r.freeze(0, a, _READ)
            r.freeze(index, a, _READ)
    return r.axes(index)


@aten("gather", "take_along_dim", kind="DYNINDEX")
def gather(r: Relate) -> None:
    """The indexed axis stays; the others are tied to those of the index."""
    if r.attr("dim") is None:
        raise Unsupported("it is read as one list")
    r.out(
        _beside(r, slot(r, "index") if slot(r, "index") >= 0 else slot(r, "indices"), axis_of(r.attr("dim"), r.rank(0)))
    )


@aten("scatter", "scatter_add", "scatter_reduce", kind="DYNINDEX")
def scatter(r: Relate) -> None:
    """The written axis stays; the others are tied to those of the index and the source."""
    index, axis = slot(r, "index"), axis_of(r.attr("dim"), r.rank(0))
    axes = _beside(r, index, axis)
    r.freeze(index, axis, _WRITTEN)
    for s in given(r, "src"):
        for a in range(r.rank(s)):
            if a != axis and r.shape(s)[a] == axes[a].n:
                r.tie(s, a, axes[a])
            else:
                r.freeze(s, a, _WRITTEN)
    r.out(r.axes(0))


@aten("index_add", "index_copy", "index_fill", "index_reduce", kind="DYNINDEX")
def index_write(r: Relate) -> None:
    """The written axis stays; the others are tied to the source's."""
    axis = axis_of(r.attr("dim"), r.rank(0))
    r.freeze(0, axis, _WRITTEN)
    r.freeze_all(slot(r, "index"), _WRITTEN)
    for s in given(r, "source"):
        for a in range(r.rank(s)):
            if a == axis:
                r.freeze(s, a, _WRITTEN)
            else:
                r.tie(s, a, r.axis(0, a))
    r.out(r.axes(0))


@aten("index_put", "_unsafe_index_put", kind="DYNINDEX")
def index_put(r: Relate) -> None:
    """Written axes stay; the axes behind them are tied to the values'."""
    at = _places(r.node.attrs["slots"]["indices"])
    values = slot(r, "values")
    count = sum(r.rank(s) if r.value(s).dtype == "bool" else 1 for _, s in at)
    if [a for a, _ in at] != list(range(len(at))):
        raise Unsupported("values are written at indices between other axes")
    for a in range(count):
        r.freeze(0, a, _WRITTEN)
    for _, s in at:
        r.freeze_all(s, _WRITTEN)
    rest = r.rank(0) - count
    for a in range(1, r.rank(values) + 1):
        if a > rest or r.shape(values)[-a] == 1:
            r.freeze(values, -a, _WRITTEN)
        else:
            r.tie(values, -a, r.axis(0, -a))
    r.out(r.axes(0))


def written_bounds(e: Edit) -> None:
    """The bounds of what is written among the positions that are kept."""
    axis = axis_of(e.attr("dim", 0), len(e.in_shape(0)))
    kept = e.kept(0, axis)
    if kept is None:
        return
    n = e.in_shape(0)[axis]
    if "index" in e.node.attrs:
        e.change.attrs["index"] = int(new_positions(kept, n)[int(e.attr("index")) % n])
        return
    positions = np.arange(n)[slice(e.attr("start"), e.attr("end"), e.attr("step", 1))]
    e.change.attrs["start"] = int((kept < positions[0]).sum())
    e.change.attrs["end"] = int((kept <= positions[-1]).sum())


@aten("slice_scatter", "select_scatter", kind="REINDEX", edit=written_bounds)
def slice_scatter(r: Relate) -> None:
    """Consecutive positions of an axis are replaced by those of the source, which are tied to them."""
    axis = axis_of(r.attr("dim", 0), r.rank(0))
    axes, src = r.axes(0), slot(r, "src")
    if "index" in r.node.attrs:
        positions = np.arange(r.shape(0)[axis])[[int(r.attr("index"))]]
    else:
        positions = np.arange(r.shape(0)[axis])[slice(r.attr("start"), r.attr("end"), r.attr("step", 1))]
    whole = len(positions) == axes[axis].n
    if not whole and (int(r.attr("step", 1) or 1) != 1 or not len(positions)):
        r.freeze(0, axis, "some of its positions are written")
    picked = axes[axis] if whole else r.index(axes[axis], positions)
    if picked.n == 1 and not picked.frozen:
        r.store.freeze(picked, r.why("a single position is written"))
    others = [a for a in range(len(axes)) if a != axis or "index" not in r.node.attrs]
    for b, a in enumerate(others):
        r.tie(src, b, picked if a == axis else axes[a])
    r.out(axes)


@aten("masked_scatter", "masked_select", "nonzero", "_unique2", "bincount", kind="OPAQUE")
def by_content(r: Relate) -> None:
    """What it makes depends on which elements there are."""
    opaque(r, "what it makes depends on which elements there are")


@aten("bucketize", kind="DYNINDEX")
def bucketize(r: Relate) -> None:
    """Boundaries are counted and stay; the axes of what is looked up pass."""
    r.freeze_all(slot(r, "boundaries"), "positions in it are returned")
    r.out(r.axes(slot(r, "self")))


@aten("one_hot", kind="DYNINDEX")
def one_hot(r: Relate) -> None:
    """Axes pass; the classes come last and stay."""
    r.out([*r.axes(0), r.frozen((r.output().shape or (1,))[-1], "its positions are classes")])
