"""Branches that can be left out: summands of a sum that reach the outputs through that sum alone.

``y = x + f``: where ``f`` is made by nodes that nothing else needs, it can go, and ``y`` is ``x``. That is the branch
of a residual block, and also everything that lies between the ends of a longer skip; branches lie inside branches.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from graphprune.graph.bypass import SUMS, main_nodes
from graphprune.graph.model import Bypass, Graph, Node


@dataclass(frozen=True, slots=True)
class Branch:
    """A summand that can be left out.

    Attributes:
        bypass: Which one.
        skip: What is left of the sum, names of values.
        nodes: Names of the nodes that go with it, in graph order, the sum itself not counted.
        reads: Values that come in from outside and depend on the inputs.
    """

    bypass: Bypass
    skip: tuple[str, ...]
    nodes: tuple[str, ...]
    reads: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the sum and the number of the operand, "/layer1/Add:0"."""
        return f"{self.bypass.node}:{self.bypass.slot}"


def find_branches(graph: Graph) -> list[Branch]:
    """All branches of a graph, in the order of their sums.

    The other operands have to have the same sizes and to follow from the inputs, and both ways have to come from one
    computed value: what is added up but was never split, such as two embeddings, is no branch. Sums inside control flow
    are left alone.
    """
    makers = {name: (k, node) for k, node in enumerate(graph.nodes) for name in node.outputs if name}
    data = _from_data(graph)
    users = _users(graph)
    above = _ancestors(graph, data)
    outer = main_nodes(graph)
    found = []
    for node in graph.nodes:
        if node.op not in SUMS or node.domain or node.name not in outer or len(set(node.inputs)) < len(node.inputs):
            continue
        for slot in _slots(node) if _alike(graph, node, data) else ():
            nodes = _region(node, slot, users, makers)
            branch = _branch(node, slot, nodes, data)
            if nodes and any(
                read == skip or above.get(read, 0) & above.get(skip, 0) for read in branch.reads for skip in branch.skip
            ):
                found.append(branch)
    return found


def own_weights(graph: Graph, nodes: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Stored tensors that some nodes read and no others, by their names in the file, with their sizes."""
    nodes = set(nodes)
    users: dict[str, set[str]] = {}
    for node in graph.nodes:
        for name in (*node.inputs, *node.captures):
            if name in graph.weights:
                users.setdefault(graph.weights[name].source, set()).add(node.name)
    shapes = {w.source: w.shape for w in graph.weights.values() if w.origin != "fill"}
    return {n: shapes[n] for n, mine in users.items() if n in shapes and mine <= nodes and n not in graph.outputs}


def _slots(node: Node) -> Iterable[int]:
    slots = SUMS[node.op]
    return range(len(node.inputs)) if slots is None else slots


def _alike(graph: Graph, node: Node, data: set[str]) -> bool:
    """Whether all operands follow from data and have the sizes of the sum."""
    out = graph.values.get(node.outputs[0])
    if len(node.inputs) < 2 or out is None or not out.shape or not out.dtype.startswith(("float", "bfloat", "double")):
        return False
    for name in node.inputs:
        value = graph.values.get(name)
        if name not in data or value is None or (value.shape, value.other) != (out.shape, out.other):
            return False
    return True


def _from_data(graph: Graph) -> set[str]:
    """Values that follow from the content of the inputs, not from their sizes alone."""
    known = {*graph.constants, *graph.varying, *graph.weights}
    out = set(graph.inputs)
    for node in graph.nodes:
        if any(n in out for n in (*node.inputs, *node.captures)):
            out.update(n for n in node.outputs if n and n not in known)
    return out


def _users(graph: Graph) -> dict[str, list[tuple[str, int]]]:
    """Per value the nodes that read it, with the place of the operand; -1 for a body, and "" for whoever runs it."""
    out: dict[str, list[tuple[str, int]]] = {name: [("", -1)] for name in graph.outputs}
    for node in graph.nodes:
        for slot, name in enumerate(node.inputs):
            if name:
                out.setdefault(name, []).append((node.name, slot))
        for name in node.captures:
            out.setdefault(name, []).append((node.name, -1))
    return out


def _region(
    node: Node, slot: int, users: Mapping[str, list[tuple[str, int]]], makers: Mapping[str, tuple[int, Node]]
) -> list[Node]:
    """Nodes that nothing needs once an operand of a sum is gone.

    Args:
        node: The sum.
        slot: The operand.
        users: Per value what reads it; for graph outputs there is one more entry.
        makers: Per value the node that makes it, with its place in the graph.
    """
    gone: dict[str, Node] = {}
    front = [(-makers[n][0], n) for n in (node.inputs[slot],) if n in makers]
    while front:  # from the back, so that all that reads a node was looked at before it
        maker = makers[heapq.heappop(front)[1]][1]
        read = [u for name in maker.outputs for u in users.get(name, ())]
        if maker.name in gone or any(n not in gone and (n, s) != (node.name, slot) for n, s in read):
            continue
        gone[maker.name] = maker
        for name in (*maker.inputs, *maker.captures):
            if name in makers:
                heapq.heappush(front, (-makers[name][0], name))
    return list(gone.values())[::-1]


def _branch(node: Node, slot: int, nodes: list[Node], data: set[str]) -> Branch:
    made = {name for n in nodes for name in n.outputs}
    read = dict.fromkeys(name for n in nodes for name in (*n.inputs, *n.captures) if name)
    return Branch(
        bypass=Bypass(node.name, slot, node.outputs[0], node.inputs[slot]),
        skip=tuple(name for k, name in enumerate(node.inputs) if k != slot),
        nodes=tuple(n.name for n in nodes),
        reads=tuple(n for n in read if n in data and n not in made),
    )


def _ancestors(graph: Graph, data: set[str]) -> dict[str, int]:
    """Per computed value a number with a bit for every node that it follows from, that of its own node among them."""
    out: dict[str, int] = {}
    for place, node in enumerate(graph.nodes):
        mine = 0
        for name in (*node.inputs, *node.captures):
            mine |= out.get(name, 0)
        out.update(dict.fromkeys((n for n in node.outputs if n in data), mine | 1 << place))
    return out
