"""Chains of re-indexing nodes whose net effect is one permutation of one axis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from graphprune.graph.model import Node, Value

PERMUTE = "AxisPermute"


def fuse_permutations(nodes: Sequence[Node], values: Mapping[str, Value], outputs: Sequence[str]) -> tuple[Node, ...]:
    """Replace Reshape → Transpose → Reshape that only permutes one axis by one ``graphprune.AxisPermute`` node.

    A channel shuffle kept as a box couples the j-th channels of all blocks; as a permutation it couples nothing.
    The node's attributes are ``axis`` and ``perm`` (int64 array of the axis' length: output p reads input perm[p]).
    """
    uses = Counter(name for node in nodes for name in (*node.inputs, *node.captures))
    uses.update(outputs)
    makers = {node.outputs[0]: node for node in nodes if len(node.outputs) == 1}
    replaced: dict[str, Node] = {}
    dropped: set[str] = set()
    for last in nodes:
        if last.op != "Reshape" or last.domain:
            continue
        chain = _chain(last, makers, uses)
        if chain is None:
            continue
        found = _net_permutation(chain, values)
        if found is None:
            continue
        axis, perm = found
        first, middle, _ = chain
        replaced[last.name] = Node(
            name=last.name,
            op=PERMUTE,
            domain="graphprune",
            version=1,
            inputs=(first.inputs[0],),
            outputs=last.outputs,
            attrs={"axis": axis, "perm": perm},
            scope=last.scope,
            fused=(first.name, middle.name, last.name),
        )
        dropped.update((first.name, middle.name))
    return tuple(replaced.get(n.name, n) for n in nodes if n.name not in dropped)


def _chain(last: Node, makers: Mapping[str, Node], uses: Counter[str]) -> tuple[Node, Node, Node] | None:
    middle = makers.get(last.inputs[0])
    if middle is None or middle.op != "Transpose" or uses[middle.outputs[0]] != 1:
        return None
    first = makers.get(middle.inputs[0])
    if first is None or first.op != "Reshape" or uses[first.outputs[0]] != 1:
        return None
    return first, middle, last


def _net_permutation(
    chain: tuple[Node, Node, Node], values: Mapping[str, Value]
) -> tuple[int, np.ndarray[tuple[int], np.dtype[np.int64]]] | None:
    """Axis and index map when the chain keeps the shape and moves positions of one static axis only."""
    first, middle, last = chain
    start, split, end = values[first.inputs[0]], values[first.outputs[0]], values[last.outputs[0]]
    if start.shape is None or split.shape is None or start.shape != end.shape or start.dynamic != end.dynamic:
        return None
    perm = [int(p) for p in middle.attrs.get("perm", range(len(split.shape))[::-1])]
    extra = len(split.shape) - len(start.shape)
    for axis, size in enumerate(start.shape):
        factors = split.shape[axis : axis + extra + 1]
        tail = axis + extra + 1
        same = (
            split.shape[:axis] == start.shape[:axis]
            and split.shape[tail:] == start.shape[axis + 1 :]
            and split.dynamic[:axis] == start.dynamic[:axis]
            and split.dynamic[tail:] == start.dynamic[axis + 1 :]
        )
        inside = range(axis, tail)
        local = [perm[i] - axis for i in inside] if len(perm) == len(split.shape) else []
        if extra < 1 or start.dynamic[axis] or not same or sorted(local) != list(range(extra + 1)):
            continue
        if any(perm[i] != i for i in range(len(perm)) if i not in inside):
            continue
        if int(np.prod(factors)) == size:
            order = np.arange(size, dtype=np.int64).reshape(factors).transpose(local).ravel()
            return None if np.array_equal(order, np.arange(size)) else (axis, order)
    return None
