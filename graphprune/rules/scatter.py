"""Reading and writing at index tensors: fixed ones re-index axes, computed ones freeze what they index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphprune.algebra import Axis
from graphprune.graph.model import Array
from graphprune.rules.context import Relate
from graphprune.rules.edit import Edit, Kept, new_positions
from graphprune.rules.registry import rule

_MEND = "indices that are constants in the file could be followed: simplify the model with its input sizes fixed"
_READ, _WRITTEN = "it is read at computed indices", "it is written at computed indices"


@dataclass(frozen=True, slots=True)
class Coordinate:
    """Fixed indices that follow one axis of their index tensor, or none when they are all equal.

    Attributes:
        along: Axis of the index tensor.
        positions: The positions they name, shape (size of that axis,), (1,) when ``along`` is None.
    """

    along: int | None
    positions: Array


def coordinate(index: Array) -> Coordinate | None:
    """What fixed non-negative indices follow; None when they mix several axes of their tensor."""
    moving = [d for d in range(index.ndim) if (index != index.take([0], axis=d)).any()] if index.size else []
    if len(moving) > 1 or not index.size:
        return None
    if not moving:
        return Coordinate(None, index.ravel()[:1])
    return Coordinate(moving[0], np.moveaxis(index, moving[0], 0).reshape(index.shape[moving[0]], -1)[:, 0])


def _wrapped(index: Array, n: int) -> Array:
    """Indices as int64 without negative ones."""
    index = np.asarray(index, np.int64)
    return np.where(index < 0, index + n, index)


def _freeze_positions(r: Relate, axis: Axis, positions: Array) -> None:
    picked = r.index(axis, positions)
    if not picked.frozen:
        r.store.freeze(picked, r.why("a single position is read or written"))


# -- index tensors of the rank of the data: GatherElements, ScatterElements -------------------------------------


def _beside(r: Relate, a: int) -> Axis:
    """The data's positions along an axis that is not indexed: index tensors may be shorter."""
    mine, n = r.axis(0, a), r.shape(1)[a]
    return mine if mine.n == n else r.index(mine, np.arange(n))


def _along(r: Relate, axis: int, index: Array | None, text: str) -> Axis | None:
    """The positions that are read or written along ``axis``; None after freezing it."""
    if index is not None:
        found = coordinate(_wrapped(index, r.shape(0)[axis]))
        if found is not None and found.along == axis:
            return r.index(r.axis(0, axis), found.positions)
        if found is not None and found.along is None and index.shape[axis] == 1:
            _freeze_positions(r, r.axis(0, axis), found.positions)
            return None
    r.freeze(0, axis, text, "" if index is not None else _MEND)
    return None


def element_indices(e: Edit) -> None:
    """Fixed indices lose what is gone and name the new positions of the rest."""
    index = e.const(1)
    if index is None:
        return
    axis = int(e.attr("axis", 0)) % index.ndim
    gather = e.node.op == "GatherElements"
    box = [e.kept_out(a) if gather else e.kept(2, a) for a in range(index.ndim)]
    _set_indices(e, [_wrapped(index, e.in_shape(0)[axis])], [(0, axis)], box)


def _set_indices(e: Edit, parts: Sequence[Array], read: Sequence[tuple[int, int]], box: Sequence[Kept | None]) -> None:
    """Set operand 1 to ``parts`` (stacked when several) cut to ``box`` and renumbered along the axes they index."""
    sources = [e.kept(slot, a) for slot, a in read]
    if all(k is None for k in (*sources, *box)):
        return
    new = []
    for part, source, (slot, a) in zip(parts, sources, read, strict=True):
        for d, kept in enumerate(box):
            if kept is not None:
                part = np.take(part, kept, axis=d)  # noqa: PLW2901
        new.append(part if source is None else new_positions(source, e.in_shape(slot)[a])[part])
    e.change.consts[1] = new[0] if e.node.op not in _ND else np.stack(new, axis=-1)


@rule("GatherElements", kind="DYNINDEX", edit=element_indices)
def gather_elements(r: Relate) -> None:
    """Fixed indices that depend on their place along the axis only re-index it, others freeze it; the rest pass."""
    axis, index = int(r.attr("axis", 0)) % r.rank(0), r.const(1)
    axes: list[Axis] = []
    for a in range(r.rank(0)):
        if a != axis:
            axes.append(_beside(r, a))
            if index is None:
                r.tie(1, a, axes[a])
            continue
        found = _along(r, axis, index, _READ)
        if found is None:
            found = r.axis(1, axis) if index is None else r.fresh(r.shape(1)[axis])
        axes.append(found)
    r.out(axes)


@rule("ScatterElements", "Scatter", kind="DYNINDEX", edit=element_indices)
def scatter_elements(r: Relate) -> None:
    """Fixed indices that depend on their place along the axis only re-index it, others freeze it; the rest pass."""
    axis, index = int(r.attr("axis", 0)) % r.rank(0), r.const(1)
    for a in range(r.rank(0)):
        found = _beside(r, a) if a != axis else _along(r, axis, index, _WRITTEN)
        for slot in (2,) if index is not None else (1, 2):
            if found is None:
                r.freeze(slot, a, "its places along it are indices")
            else:
                r.tie(slot, a, found)
    r.out(r.axes(0))


# -- index tensors whose rows are coordinates: GatherND, ScatterND ------------------------------------------------

_ND = ("GatherND", "ScatterND")


def _rows(r: Relate, batch: int, text: str) -> list[Axis | None]:
    """Labels of the row axes of an index tensor (…, coordinates); None where nothing tells.

    A coordinate that follows one row axis alone re-indexes the data along it, any other freezes what it names.
    """
    depth, index = r.shape(1)[-1], r.const(1)
    rows: list[Axis | None] = [r.axis(0, a) if a < batch else None for a in range(r.rank(1) - 1)]
    if index is None:
        for c in range(depth):
            r.freeze(0, batch + c, text, _MEND)
        return rows
    found = [coordinate(_wrapped(index[..., c], r.shape(0)[batch + c])) for c in range(depth)]
    along = [c.along for c in found if c is not None]
    for c, one in enumerate(found):
        mine = r.axis(0, batch + c)
        if one is not None and one.along is None:
            _freeze_positions(r, mine, one.positions)
        elif one is None or one.along is None or one.along < batch or along.count(one.along) > 1:
            r.freeze(0, batch + c, "it is indexed together with another axis")
        else:
            rows[one.along] = r.index(mine, one.positions)
    return rows


def row_indices(e: Edit) -> None:
    """Fixed coordinates lose the rows that are gone and name the new positions of the rest."""
    index = e.const(1)
    if index is None:
        return
    batch, depth = int(e.attr("batch_dims", 0)), index.shape[-1]
    shape = e.in_shape(0)
    parts = [_wrapped(index[..., c], shape[batch + c]) for c in range(depth)]
    rows = range(index.ndim - 1)
    box = [e.kept_out(a) if e.node.op == "GatherND" else e.kept(2, a) for a in rows]
    _set_indices(e, parts, [(0, batch + c) for c in range(depth)], box)


@rule("GatherND", kind="DYNINDEX", edit=row_indices)
def gather_nd(r: Relate) -> None:
    """Fixed coordinates that follow one axis of their tensor re-index the data, others freeze it; the rest pass."""
    batch, fixed = int(r.attr("batch_dims", 0)), r.const(1) is not None
    rows = _rows(r, batch, _READ)
    axes: list[Axis] = []
    for a, one in enumerate(rows):
        if fixed:
            axes.append(r.fresh(r.shape(1)[a]) if one is None else one)
            continue
        if one is not None:
            r.tie(1, a, one)
        axes.append(r.axis(1, a))
    if not fixed:
        r.freeze(1, len(rows), "its positions are coordinates")
    r.out([*axes, *r.axes(0)[batch + r.shape(1)[-1] :]])


@rule("ScatterND", kind="DYNINDEX", edit=row_indices)
def scatter_nd(r: Relate) -> None:
    """Fixed coordinates that follow one axis of their tensor re-index the data, others freeze it; the rest pass."""
    depth, fixed = r.shape(1)[-1], r.const(1) is not None
    rows = _rows(r, 0, _WRITTEN)
    for a, one in enumerate(rows):
        for slot in (2,) if fixed else (1, 2):
            if one is None:
                r.freeze(slot, a, "its positions are indices")
            else:
                r.tie(slot, a, one)
    if not fixed:
        r.freeze(1, len(rows), "its positions are coordinates")
    for a in range(len(rows), r.rank(2)):
        r.tie(2, a, r.axis(0, depth + a - len(rows)))
    r.out(r.axes(0))


# -- choosing -----------------------------------------------------------------------------------------------------


@rule("OneHot", kind="DYNINDEX")
def one_hot(r: Relate) -> None:
    """The axes of the indices pass; the new one numbers classes and stays."""
    out = r.output().shape
    assert out is not None
    axis = int(r.attr("axis", -1)) % len(out)
    r.freeze_all(2, "the values for off and on")
    axes = r.axes(0)
    axes.insert(axis, r.frozen(out[axis], "its positions are class numbers"))
    r.out(axes)


@rule("Compress", kind="DYNINDEX")
def compress(r: Relate) -> None:
    """The axis of which positions are chosen stays; the others pass."""
    axis, out = r.attr("axis"), r.output().shape
    assert out is not None
    r.freeze_all(1, "its values choose positions")
    if axis is None:
        r.freeze_all(0, "its elements are chosen one by one")
        r.out_frozen(0, "its elements are chosen one by one")
        return
    axes, axis = r.axes(0), int(axis) % r.rank(0)
    r.freeze(0, axis, "which of its positions are read is chosen by flags", "read them by Gather")
    axes[axis] = r.frozen(out[axis], "which positions are read is chosen by flags")
    r.out(axes)
