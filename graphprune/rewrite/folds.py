"""Puts the constants of removed channels into the layers that read them."""

from __future__ import annotations

import numpy as np

from graphprune.coupling.fold import Fold
from graphprune.folding.known import Known
from graphprune.folding.linear import Linear, linear
from graphprune.graph.model import Array, Node
from graphprune.rewrite.surgeon import Surgeon


def apply_folds(surgeon: Surgeon) -> None:
    """Carry out the folds of the surgeon's cut; its weights and nodes are cut already."""
    folds = [f for f in surgeon.cut.folds if f.count]
    if not folds:
        return
    known = Known(surgeon.graph)
    nodes = {n.name: n for n in surgeon.graph.nodes}
    for fold in folds:
        found = linear(surgeon.graph, nodes[fold.node], fold.slot)
        assert found is not None
        if fold.carriers is None:
            _into_bias(surgeon, found, fold, known)
        else:
            _into_carriers(surgeon, found, fold)


def _into_bias(surgeon: Surgeon, found: Linear, fold: Fold, known: Known) -> None:
    """Add what the constants give to the bias of the node, or to an Add behind it."""
    node = found.node
    weight = found.canonical(known.content(node.inputs[found.weight]))
    values = fold.values.reshape(found.groups, -1)
    used = np.flatnonzero(values.any(axis=0))
    extra = np.einsum("giok,gi->go", np.asarray(weight[:, used], np.float64), values[:, used]).ravel()
    dtype = weight.dtype
    if found.bias == "add":
        _add_behind(surgeon, found, extra, dtype)
        return
    stored = surgeon.graph.weights[node.inputs[2]].read() if len(node.inputs) > 2 and node.inputs[2] else None
    if stored is not None:
        extra, dtype = np.asarray(stored, np.float64) + extra, stored.dtype
    kept = surgeon.cut.kept(*found.labels)
    if kept is not None:
        extra = extra[..., kept]
    rows = surgeon.cut.kept(node.outputs[0], 0) if extra.ndim == 2 and extra.shape[0] > 1 else None
    extra = extra if rows is None else extra[rows]
    surgeon.store(node, 2, extra.astype(dtype), f"{node.outputs[0]}_bias")


def _add_behind(surgeon: Surgeon, found: Linear, extra: Array, dtype: np.dtype[np.generic]) -> None:
    """Use the only Add that reads the product if it adds a stored vector, else make one."""
    node = found.node
    kept = surgeon.cut.kept(*found.labels)
    vector = extra if found.out_axis == -1 else extra[:, None]
    reader, slot = _stored_add(surgeon, node, vector.shape)
    if reader is not None:
        stored = surgeon.graph.weights[reader.inputs[slot]].read()
        total = np.asarray(stored, np.float64) + vector
        if kept is not None:
            total = np.take(total, kept, axis=found.out_axis)
        surgeon.store(reader, slot, total.astype(stored.dtype), f"{node.outputs[0]}_bias")
        return
    if kept is not None:
        vector = np.take(vector, kept, axis=found.out_axis)
    surgeon.add_behind(node, vector.astype(dtype))


def _stored_add(surgeon: Surgeon, node: Node, shape: tuple[int, ...]) -> tuple[Node | None, int]:
    """The Add that alone reads a product, and its slot with a stored operand of this shape."""
    name, graph = node.outputs[0], surgeon.graph
    readers = [n for n in graph.nodes if name in n.inputs or name in n.captures]
    if name in graph.outputs or len(readers) != 1 or readers[0].key != "Add":
        return None, 0
    for slot, operand in enumerate(readers[0].inputs):
        stored = graph.weights.get(operand)
        if stored is not None and stored.origin != "fill" and stored.shape == shape:
            return readers[0], slot
    return None, 0


def _into_carriers(surgeon: Surgeon, found: Linear, fold: Fold) -> None:
    """Let the weights of kept constant positions give what the removed ones gave."""
    assert fold.carriers is not None
    assert fold.carried is not None
    name = found.node.inputs[found.weight]
    stored = surgeon.graph.weights[name].read()
    weight = np.array(found.canonical(stored), np.float64)
    width = weight.shape[1]
    values = fold.values.reshape(found.groups, width)
    for g in np.flatnonzero(fold.carriers >= 0):
        used = np.flatnonzero(values[g])
        share = np.einsum("iok,i->ok", weight[g, used], values[g, used] / fold.carried[g])
        weight[g, fold.carriers[g] - g * width] += share
    array = found.restored(weight)
    for axis in range(stored.ndim):
        kept = surgeon.cut.kept(name, axis)
        if kept is not None:
            array = np.take(array, kept, axis=axis)
    surgeon.store(found.node, found.weight, array.astype(stored.dtype), f"{name}_carrier")
