"""Reading whole positions of an axis at indices."""

from __future__ import annotations

import numpy as np

from graphprune.algebra import Axis
from graphprune.graph.model import Array, Graph, Node, Value
from graphprune.rules.context import Relate
from graphprune.rules.edit import Edit, new_positions
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
    flat = np.where(flat < 0, flat + n, flat)
    picked = _copies(r, axes[axis], flat) if index.ndim == 1 else None
    picked = picked or r.index(axes[axis], flat)
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


def _copies(r: Relate, axis: Axis, flat: Array) -> Axis | None:
    """An axis of which every position is repeated equally often: whole copies of all of it are free as well."""
    times = len(flat) // axis.n
    if times < 2 or (axis.frozen and axis.n > 1):
        return None
    if np.array_equal(flat, np.repeat(np.arange(axis.n), times)):
        return r.merge(axis, r.fresh(times))
    return r.merge(r.fresh(times), axis) if np.array_equal(flat, np.tile(np.arange(axis.n), times)) else None


def _identity(graph: Graph, node: Node, axis: int) -> bool:
    """Whether indices that follow the input size just count up: the Gather is a reshape (as_strided)."""
    index, data = graph.varying.get(node.inputs[1]), graph.values[node.inputs[0]]
    if index is None or data.shape is None:
        return False
    sizes = data.shape[axis], data.other[axis]
    return all(np.array_equal(a.ravel(), np.arange(n)) for a, n in zip(index, sizes, strict=True))
