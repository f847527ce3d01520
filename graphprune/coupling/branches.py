"""Branches that can be left out: summands of a sum that reach the outputs through that sum alone.

``y = x + f``: where ``f`` is made by nodes that nothing else needs, it can go, and ``y`` is ``x``. That is the branch
of a residual block, and also everything that lies between the ends of a longer skip; branches lie inside branches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
    place = {node.name: k for k, node in enumerate(graph.nodes)}
    data = _from_data(graph)
    users = _users(graph)
    above = _Ancestors(graph, data)
    outer = main_nodes(graph)
    found = []
    for node in graph.nodes:
        if node.op not in SUMS or node.domain or node.name not in outer or len(set(node.inputs)) < len(node.inputs):
            continue
        for slot in _slots(node) if _alike(graph, node, data) else ():
            nodes = _region(graph, node, slot, users, place)
            branch = _branch(node, slot, nodes, data)
            ways = {name for s in branch.skip for name in above[s]}
            if nodes and any(r in branch.skip or not ways.isdisjoint(above[r]) for r in branch.reads):
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
    """Per value the nodes that read it, with the place of the operand; -1 for a body that does."""
    out: dict[str, list[tuple[str, int]]] = {}
    for node in graph.nodes:
        for slot, name in enumerate(node.inputs):
            if name:
                out.setdefault(name, []).append((node.name, slot))
        for name in node.captures:
            out.setdefault(name, []).append((node.name, -1))
    return out


def _region(
    graph: Graph, node: Node, slot: int, users: Mapping[str, list[tuple[str, int]]], place: Mapping[str, int]
) -> list[Node]:
    """Nodes that nothing needs once an operand of a sum is gone."""
    gone: set[str] = set()
    outputs = set(graph.outputs)

    def needed(name: str) -> bool:
        reads = users.get(name, ())
        return name in outputs or any(n not in gone and (n, s) != (node.name, slot) for n, s in reads)

    reach = {node.inputs[slot]}
    for other in reversed(graph.nodes[: place[node.name]]):
        if not reach.isdisjoint(other.outputs) and not any(needed(n) for n in other.outputs if n):
            gone.add(other.name)
            reach.update(other.inputs, other.captures)
    return [n for n in graph.nodes[: place[node.name]] if n.name in gone]


def _branch(node: Node, slot: int, nodes: list[Node], data: set[str]) -> Branch:
    made = {name for n in nodes for name in n.outputs}
    read = dict.fromkeys(name for n in nodes for name in (*n.inputs, *n.captures) if name)
    return Branch(
        bypass=Bypass(node.name, slot, node.outputs[0], node.inputs[slot]),
        skip=tuple(name for k, name in enumerate(node.inputs) if k != slot),
        nodes=tuple(n.name for n in nodes),
        reads=tuple(n for n in read if n in data and n not in made),
    )


class _Ancestors:
    """For a value all computed values that it follows from, itself among them, inputs not counted."""

    def __init__(self, graph: Graph, data: set[str]) -> None:
        self._makers = {name: node for node in graph.nodes for name in node.outputs if name}
        self._counted = data - set(graph.inputs)
        self._memo: dict[str, set[str]] = {}

    def __getitem__(self, name: str) -> set[str]:
        if name not in self._memo:
            self._memo[name] = set(self._walk(name))
        return self._memo[name]

    def _walk(self, name: str) -> Iterator[str]:
        front, seen = [name], {name}
        if name in self._counted:
            yield name
        while front:
            node = self._makers.get(front.pop())
            for other in (*node.inputs, *node.captures) if node is not None else ():
                if other in self._counted and other not in seen:
                    seen.add(other)
                    front.append(other)
                    yield other
