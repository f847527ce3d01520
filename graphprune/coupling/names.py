"""What kind of thing a group is, in words that users know: heads, head dims, FFN width, residual width.

Read off the labels and the operators they pass through, never off names. What fits nothing is "channels".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphprune.algebra import Axis
from graphprune.coupling.twins import twin
from graphprune.graph.model import Graph, Node
from graphprune.rules.context import State

if TYPE_CHECKING:
    from graphprune.coupling.groups import Group

Types = Mapping[str, tuple[Axis | None, ...]]
Columns = list[frozenset[int]]

CHANNELS = "channels"
# Best fit first: a group of several kinds gets the first.
KINDS = (
    "hidden",
    "KV groups",
    "query heads per KV group",
    "heads",
    "head dims",
    "channel groups",
    "channels per group",
    "residual width",
    "FFN width",
    CHANNELS,
)
_RECURRENT = {"LSTM", "GRU", "RNN"}
_PRODUCTS = {"MatMul", "FusedMatMul", "TransposeMatMul"}
_ATTENTION = {
    "Attention",
    "DecoderMaskedMultiHeadAttention",
    "GroupQueryAttention",
    "LinearAttention",
    "MultiHeadAttention",
}
_SUMS = {"Add", "Sum", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "BiasAdd"}
_LINEAR = {"MatMul", "Gemm", "FusedMatMul", "FusedGemm"}
_ACTIVATIONS = {
    *("Relu", "Gelu", "Erf", "Sigmoid", "Tanh", "Elu", "Selu", "Celu", "LeakyRelu", "PRelu", "HardSwish", "Swish"),
    *("Mish", "Softplus", "HardSigmoid", "QuickGelu", "FastGelu", "BiasGelu", "BiasSplitGelu", "SwiGLU", "FusedGemm"),
}


def kinds(graph: Graph, state: State, types: Types, groups: Sequence[Group]) -> list[str]:
    """The kind of every group, one of ``KINDS``."""
    found = _Finder(graph, state, types, groups)
    for node in graph.nodes:
        found.visit(twin(node, graph))
    return found.result()


class _Finder:
    """Collects hints per group over one pass."""

    def __init__(self, graph: Graph, state: State, types: Types, groups: Sequence[Group]) -> None:
        self.graph, self.state, self.types, self.groups = graph, state, types, groups
        self.owner = np.full(state.store.count, -1, np.int64)
        for number, group in enumerate(groups):
            self.owner[group.units] = number
        self.hints: list[set[str]] = [set() for _ in groups]
        self.sums = np.zeros(len(groups), np.int64)
        self.active = np.zeros(len(groups), bool)
        self.linear = np.ones(len(groups), bool)
        self.ends: list[set[str]] = [set() for _ in groups]
        self._memo: dict[int, Columns] = {}

    # -- reading labels ----------------------------------------------------------------------------------

    def columns(self, axis: Axis | None) -> Columns:
        """Groups of each column of an axis, outermost factor first."""
        if axis is None:
            return []
        if axis.parts:
            return [c for part, _ in axis.parts for c in self.columns(self.state.store.resolve(part))]
        if axis.units is None:
            return []
        key = id(axis)
        if key not in self._memo:
            order = np.argsort([np.count_nonzero(np.diff(u)) for u in axis.units.T], kind="stable")
            made = [frozenset(np.unique(self.owner[axis.units[:, j]]).tolist()) - {-1} for j in order]
            self._memo[key] = [c for c in made if c]
        return self._memo[key]

    def of(self, name: str, axis: int) -> Columns:
        """Columns of a tensor's axis."""
        axes = self.types.get(name) or ()
        return self.columns(axes[axis]) if -len(axes) <= axis < len(axes) else []

    def within(self, name: str, axis: int, block: int) -> tuple[set[int], set[int]]:
        """Groups that leave whole blocks of consecutive positions, and those that cut inside a block."""
        axes = self.types.get(name) or ()
        units = axes[axis].units if axes and axes[axis] is not None else None  # type: ignore[union-attr]
        outer: set[int] = set()
        inner: set[int] = set()
        for column in units.T if units is not None else ():
            side = outer if len(np.unique(column[:block])) == 1 and block > 1 else inner
            side |= set(np.unique(self.owner[column]).tolist()) - {-1}
        return outer - inner, inner

    def all_of(self, name: str) -> set[int]:
        """Groups on any axis of a tensor."""
        return {g for axis in self.types.get(name) or () for column in self.columns(axis) for g in column}

    def hint(self, groups: Iterable[int], kind: str) -> None:
        """Note that groups may be of a kind."""
        for group in groups:
            self.hints[group].add(kind)

    # -- nodes -------------------------------------------------------------------------------------------

    def visit(self, node: Node) -> None:
        """Hints that one operator gives."""
        stored = [name in self.graph.weights for name in node.inputs]
        data = [n for n, s in zip(node.inputs, stored, strict=True) if n and not s and n not in self.graph.constants]
        if node.op in _RECURRENT:
            self.hint((g for c in self.of(node.outputs[0], -1) for g in c), "hidden")
        elif node.op in _ATTENTION:
            self._attention(node)
        elif node.op in _PRODUCTS and len(data) == 2:
            self._product(node)
        elif node.op == "Einsum" and len(data) == 2:
            self._einsum(node)
        elif "group" in node.attrs and int(node.attrs["group"]) > 1:
            self._grouped(node, int(node.attrs["group"]))
        if node.op in _SUMS and len(data) > 1:
            for group in set.intersection(*(self.all_of(n) for n in data[:2])):
                self.sums[group] += 1
        if node.op in _ACTIVATIONS:
            self.active[list(self.all_of(node.outputs[0]) | self.all_of(node.inputs[0]))] = True
        self._weights(node, stored)

    def _weights(self, node: Node, stored: Sequence[bool]) -> None:
        """Which side of which weights a group lies on."""
        for slot, name in enumerate(node.inputs):
            axes = self.types.get(name) or ()
            if not stored[slot] or len(axes) < 2:
                continue
            for a, axis in enumerate(axes):
                into = (a == len(axes) - 2) != bool(node.attrs.get("transB", 0))
                for group in (g for c in self.columns(axis) for g in c):
                    self.linear[group] &= node.op in _LINEAR and slot == 1
                    self.ends[group].add("in" if into else "out")

    def _heads(self, outer: Sequence[frozenset[int] | set[int]]) -> None:
        """Head factors; of several, what touches most weights is a key/value group, since keys have no other."""
        widest = [max((len(self.groups[g].members) for g in groups), default=0) for groups in outer]
        for place, groups in enumerate(outer[i] for i in np.argsort([-w for w in widest], kind="stable")):
            several = ("KV groups", "query heads per KV group")[min(place, 1)]
            self.hint(groups, several if len(outer) > 1 else "heads")

    def _product(self, node: Node) -> None:
        """A product of two activations: batch axes are heads, the others dims."""
        left, right = (self.graph.values[n].shape or () for n in node.inputs[:2])
        rank = len(left)
        if rank < 3 or len(right) != rank:
            return
        factors: Columns = []
        shared: Columns = []
        for a in range(rank - 2):
            here = self.of(node.outputs[0], a)
            (shared if left[a] == right[a] else factors).extend(here)
        self._heads([*shared, *factors])
        heads = {g for c in (*shared, *factors) for g in c}
        for name in node.inputs[:2]:
            self.hint((g for a in (-2, -1) for c in self.of(name, a) for g in c if g not in heads), "head dims")

    def _einsum(self, node: Node) -> None:
        """Letters of both operands and the result are heads, the others dims."""
        left, _, right = str(node.attrs.get("equation", "")).replace(" ", "").partition("->")
        terms = left.split(",")
        if len(terms) != 2:
            return
        shared = set(terms[0]) & set(terms[1]) & set(right)
        both = zip(terms, node.inputs, strict=True)
        letters = [(letter, name, a) for term, name in both for a, letter in enumerate(term)]
        heads = {g for letter, name, a in letters if letter in shared for c in self.of(name, a) for g in c}
        self.hint(heads, "heads")
        self.hint((g for _, name, a in letters for c in self.of(name, a) for g in c if g not in heads), "head dims")

    def _attention(self, node: Node) -> None:
        """Attention as one operator: its inputs and output are heads times dims."""
        heads = int(node.attrs.get("q_num_heads", node.attrs.get("num_heads", 0)))
        packed = node.key == "com.microsoft.Attention"
        for name, axis in ((node.inputs[1], 1),) if packed else ((node.inputs[0], 2), (node.outputs[0], 2)):
            shape = self.graph.values[name].shape or ()
            if len(shape) >= 4:
                self._heads(self.of(name, 1 if len(shape) == 4 else 2))
                self.hint((g for c in self.of(name, -1) for g in c), "head dims")
                continue
            parts = 3 * heads if packed else heads
            if not node.inputs[1] and "kv_num_heads" in node.attrs and name == node.inputs[0]:
                parts += 2 * int(node.attrs["kv_num_heads"])
            whole, dims = self.within(name, axis, shape[axis] // max(parts, 1))
            self._heads([c & whole for c in self.of(name, axis) if c & whole])
            self.hint(dims, "head dims")

    def _grouped(self, node: Node, count: int) -> None:
        """A grouped convolution; a depthwise one says nothing."""
        if (self.graph.values[node.inputs[0]].shape or (0, 0))[1] == count:
            return
        for name in (node.inputs[0], node.outputs[0]):
            size = (self.graph.values[name].shape or (0, 0))[1]
            if size > count:
                outer, inner = self.within(name, 1, size // count)
                self.hint(outer, "channel groups")
                self.hint(inner if outer else (), "channels per group")

    # -- the answer --------------------------------------------------------------------------------------

    def result(self) -> list[str]:
        """The kind of every group."""
        inputs = {node.name: node.inputs for node in self.graph.nodes}
        normed = {
            g
            for site in self.state.sites
            if site.mode == "restrict"
            for c in self.of(inputs[site.node][site.slot], site.axis)
            for g in c
        }
        for group, hints in enumerate(self.hints):
            if self.sums[group] + (group in normed) > 1:
                hints.add("residual width")
            elif self.linear[group] and self.active[group] and not self.sums[group] and len(self.ends[group]) == 2:
                hints.add("FFN width")
        return [next(k for k in KINDS if k in hints or k == CHANNELS) for hints in self.hints]
