"""Reading and writing at indices."""

from __future__ import annotations

import numpy as np

from graphprune.graph.model import Graph, Node, Value
from graphprune.rules.context import Relate
from graphprune.rules.edit import Edit, new_positions
from graphprune.rules.kinds import opaque
from graphprune.rules.registry import rule
from graphprune.rules.reshape import reshaped, sizes_const


def gather_indices(e: Edit) -> None:
    """Fixed indices lose the rows that are gone and name the new positions of the others."""
    axis = int(e.attr("axis", 0)) % len(e.in_shape(0))
    index = e.const(1)
    source = e.kept(0, axis)
    if index is None:
        if _identity(e.graph, e.node, axis):
            sizes_const(e, 1, infer=True)
            if 1 in e.change.consts:
                e.change.op = ("Reshape", (0,))
                e.change.attrs["axis"] = None
        return
    index = np.asarray(index, np.int64)
    box = [e.kept_out(axis + d) for d in range(index.ndim)]
    if source is None and all(b is None for b in box):
        return
    n = e.in_shape(0)[axis]
    index = np.where(index < 0, index + n, index)
    for d, kept in enumerate(box):
        if kept is not None:
            index = np.take(index, kept, axis=d)
    e.change.consts[1] = index if source is None else new_positions(source, n)[index]


@rule("Gather", kind="REINDEX", edit=gather_indices)
def gather(r: Relate) -> None:
    """Fixed indices re-index the axis, computed ones freeze it and bring their own axes; the other axes pass."""
    axis = int(r.attr("axis", 0)) % r.rank(0)
    index = r.const(1)
    axes = r.axes(0)
    if index is None and _identity(r.graph, r.node, axis):
        index_value = r.value(1)
        shape, dynamic = r.shape(0), r.value(0).dynamic
        start = Value("", shape, dynamic)
        end_shape = (*shape[:axis], *r.shape(1), *shape[axis + 1 :])
        end = Value("", end_shape, (*dynamic[:axis], *index_value.dynamic, *dynamic[axis + 1 :]))
        r.out(reshaped(r, axes, start, end))
        return
    if index is None:
        r.freeze(0, axis, "it is read at computed indices")
        r.out([*axes[:axis], *r.axes(1), *axes[axis + 1 :]])
        return
    n = axes[axis].n
    flat = np.asarray(index, np.int64).ravel()
    picked = r.index(axes[axis], np.where(flat < 0, flat + n, flat))
    if index.ndim == 1 and len(flat) > 1:
        r.out([*axes[:axis], picked, *axes[axis + 1 :]])
        return
    if len(flat) <= 1:
        if not picked.frozen:
            r.store.freeze(picked, r.why("a single position is read"))
        shaped = [r.frozen(1, "a single position is read") for _ in index.shape]
    else:
        start = Value("", (len(flat),), (False,))
        shaped = reshaped(r, [picked], start, Value("", index.shape, (False,) * index.ndim))
    r.out([*axes[:axis], *shaped, *axes[axis + 1 :]])


def _identity(graph: Graph, node: Node, axis: int) -> bool:
    """Whether indices that follow the input size just count up: the Gather is a reshape (as_strided)."""
    index, data = graph.varying.get(node.inputs[1]), graph.values[node.inputs[0]]
    if index is None or data.shape is None:
        return False
    sizes = data.shape[axis], data.other[axis]
    return all(np.array_equal(a.ravel(), np.arange(n)) for a, n in zip(index, sizes, strict=True))


@rule("GatherElements", kind="DYNINDEX")
def gather_elements(r: Relate) -> None:
    """Indices have the data's rank: the indexed axis stays, the others are tied when they have equal sizes."""
    axis = int(r.attr("axis", 0)) % r.rank(0)
    axes = r.axes(0)
    r.freeze(0, axis, "it is read at computed indices")
    for a in range(len(axes)):
        if a == axis:
            continue
        if r.shape(1)[a] == axes[a].n:
            r.tie(1, a, axes[a])
        else:
            for slot in (0, 1):
                r.freeze(slot, a, "only its first positions are read")
    r.out(r.axes(1))


@rule("GatherND", kind="DYNINDEX")
def gather_nd(r: Relate) -> None:
    """The indexed axes stay; the axes behind them pass."""
    batch = int(r.attr("batch_dims", 0))
    depth = batch + r.shape(1)[-1]
    for a in range(depth):
        r.freeze(0, a, "it is read at computed indices")
    r.freeze_all(1, "its values are indices")
    lead = [r.frozen(n, "its positions are indices") for n in r.shape(1)[:-1]]
    r.out([*lead, *r.axes(0)[depth:]])


@rule("ScatterND", kind="DYNINDEX")
def scatter_nd(r: Relate) -> None:
    """The written axes stay; the axes behind them are tied to the updates."""
    depth = r.shape(1)[-1]
    for a in range(depth):
        r.freeze(0, a, "it is written at computed indices")
    r.freeze_all(1, "its values are indices")
    lead = r.rank(1) - 1
    for a in range(r.rank(2)):
        if a < lead:
            r.freeze(2, a, "its positions are indices")
        else:
            r.tie(2, a, r.axis(0, depth + a - lead))
    r.out(r.axes(0))


@rule("ScatterElements", "OneHot", "NonZero", "Compress", kind="DYNINDEX")
def scattered(r: Relate) -> None:
    """Positions depend on data on every axis."""
    opaque(r, "positions are written or chosen by computed indices")
