"""Positions of stored tensors that these inputs do not reach.

A table of positions that is read up to the length of the example (``self.positions[:, :n]``) holds rows that the
captured graph never reads. Other inputs read them, so they stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from graphprune.graph.model import Array, Graph, Node

Part = tuple[int, Array]


def with_unread_kept(graph: Graph) -> Graph:
    """The graph of a traced module with the stored positions that nothing reads."""
    return replace(graph, unread=_unread(graph))


def _unread(graph: Graph) -> tuple[tuple[str, int, tuple[int, ...]], ...]:
    read: dict[str, list[Array]] = {}
    stored = set(graph.weights)
    graph = replace(graph, constants=dict(graph.constants))  # with the numbers of rows that are cut out of stored ones
    for node in graph.nodes:
        given = [n for n in node.inputs if n]
        _follow(graph, node)
        for slot, name in enumerate(node.inputs):
            if name in stored:
                _read(graph, node, slot, read)
        if not stored.isdisjoint(given) and all(n in stored or n in graph.constants for n in given):
            stored.update(o for o in node.outputs if o)
    for name in graph.outputs:
        for line in read.get(name, ()):
            line[:] = True
    unread = (
        (name, axis, tuple(int(i) for i in np.nonzero(~line)[0]))
        for name, lines in read.items()
        for axis, line in enumerate(lines)
        if not line.all()
    )
    return tuple(unread)


def _follow(graph: Graph, node: Node) -> None:
    """Note the content of a part of a stored index vector."""
    part = _PARTS.get(node.op.partition(".")[0], _all) if node.domain == "aten" and node.inputs else _all
    weight = graph.weights.get(node.inputs[0]) if node.inputs else None
    known = graph.constants.get(node.inputs[0]) if node.inputs else None
    if known is None and weight is not None and weight.dtype == "int64" and weight.origin != "shape":
        known = weight.read()
    found = part(graph, node) if known is not None and part is not _embedding else None
    if found is not None and known is not None:
        graph.constants[node.outputs[0]] = np.take(known, found[1], axis=found[0])  # type: ignore[index]


def _read(graph: Graph, node: Node, slot: int, read: dict[str, list[Array]]) -> None:
    """Note what a node reads of a value."""
    name = node.inputs[slot]
    shape = graph.values[name].shape or ()
    lines = read.setdefault(name, [np.zeros(n, bool) for n in shape])
    part = _PARTS.get(node.op.partition(".")[0], _all)(graph, node) if slot == 0 and node.domain == "aten" else None
    for axis, line in enumerate(lines):
        line[part[1] if part is not None and axis == part[0] else slice(None)] = True


def _all(_: Graph, __: Node) -> Part | None:
    return None


def _axis(graph: Graph, node: Node) -> int:
    return int(node.attrs.get("dim") or 0) % len(graph.values[node.inputs[0]].shape or (1,))


def _slice(graph: Graph, node: Node) -> Part | None:
    axis = _axis(graph, node)
    start, end, step = (node.attrs.get(k) for k in ("start", "end", "step"))
    if not all(v is None or type(v) is int for v in (start, end, step)):
        return None
    return axis, np.arange((graph.values[node.inputs[0]].shape or ())[axis])[slice(start, end, step)]


def _narrow(_graph: Graph, node: Node) -> Part | None:
    start, length = node.attrs.get("start"), node.attrs.get("length")
    if type(start) is not int or type(length) is not int:
        return None
    axis = _axis(_graph, node)
    start %= (_graph.values[node.inputs[0]].shape or ())[axis] or 1
    return axis, np.arange(start, start + length)


def _select(graph: Graph, node: Node) -> Part | None:
    index: Any = node.attrs.get("index")
    return (_axis(graph, node), np.array([index])) if type(index) is int else None


def _index_select(graph: Graph, node: Node) -> Part | None:
    return _looked_up(graph, node, _axis(graph, node), node.attrs["slots"].get("index"))


def _index(graph: Graph, node: Node) -> Part | None:
    at = [(axis, slot) for axis, slot in enumerate(node.attrs["slots"]["indices"]) if slot is not None]
    return _looked_up(graph, node, *at[0]) if len(at) == 1 else None


def _embedding(graph: Graph, node: Node) -> Part | None:
    return _looked_up(graph, node, 0, node.attrs["slots"].get("indices"))


def _looked_up(graph: Graph, node: Node, axis: int, slot: int) -> Part | None:
    positions = graph.constant(node.inputs[slot])
    return None if positions is None or positions.dtype.kind not in "iu" else (axis, positions.ravel())


_PARTS: dict[str, Callable[[Graph, Node], Part | None]] = {
    "slice": _slice,
    "slice_copy": _slice,
    "narrow": _narrow,
    "select": _select,
    "select_copy": _select,
    "index_select": _index_select,
    "index": _index,
    "_unsafe_index": _index,
    "embedding": _embedding,
}
