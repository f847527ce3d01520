"""Which operators treat the inside of blocks block by block, and which compare one block with another.

A factor may be cut differently in every block only where each operator it goes through allows it. Two questions:

* an axis that is the product of blocks and factor is a plain list of positions for most operators; those that see
  blocks in it by themselves (grouped convolutions, group norms) must find whole fibres in each of theirs;
* on a ragged axis, position i is another offset in every block. Operators that work element by element or inside
  one block do not mind; those that move along the axis, or bring blocks together, do.

An operator that is not listed here pins what it touches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphprune import rules
from graphprune.algebra import Axis
from graphprune.coupling.factor import Factor, Place, even
from graphprune.coupling.groups import DependencyGraph
from graphprune.graph.fuse import PERMUTE
from graphprune.graph.model import Node

_ELEMENTWISE = {"POINTWISE", "PARAM"}  # kinds of rules
_REDUCTIONS = {"ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceMean", "ReduceMax", "ReduceMin",
               "ReduceProd", "ReduceLogSum", "ReduceLogSumExp"}  # fmt: skip
_NORMS = {"InstanceNormalization", "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization",
          "LpNormalization", "MeanVarianceNormalization", "Softmax", "LogSoftmax", "Hardmax"}  # fmt: skip
_MOVES = {"Concat", "Split", "Slice", "Pad", "Resize", "Upsample", "Tile", f"graphprune.{PERMUTE}"}
_RESHAPES = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}
_GROUPED = {"Conv": "group", "com.microsoft.FusedConv": "group", "ConvTranspose": "group",
            "GroupNormalization": "num_groups"}  # fmt: skip
# Their axes are plain lists of positions to them.
_FLAT = {*_REDUCTIONS, *_NORMS, *_MOVES, *_RESHAPES, "MatMul", "Gemm", "Einsum", "Gather", "Transpose", "Expand",
         "ConstantOfShape", "Shape", "Size", "DepthToSpace", "SpaceToDepth", "MaxPool", "AveragePool", "LpPool",
         "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "LRN", "ArgMax", "ArgMin", "TopK", "CumSum",
         "LSTM", "GRU", "RNN"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Held:
    """A ragged axis of an operand: a negative ``slot`` counts outputs, -1 the first."""

    slot: int
    axis: int
    block: int
    rank: int


class Nodes:
    """The operators of a graph by the tensors they touch."""

    def __init__(self, deps: DependencyGraph) -> None:
        self.deps = deps
        self._by_tensor: dict[str, list[Node]] = {}
        for node in deps.source.nodes:
            for name in dict.fromkeys((*node.inputs, *node.outputs, *node.captures)):
                self._by_tensor.setdefault(name, []).append(node)
        self._restricted = {s.node for s in deps.sites if s.mode == "restrict"}
        self._opset = max((n.version for n in deps.source.nodes if not n.domain), default=1)

    def obstacle(self, factor: Factor) -> str:
        """The first operator that does not treat a factor block by block, in words; empty when all do."""
        touched = {n.name: n for p in factor.places for n in self._by_tensor.get(p.tensor, ())}
        for node in touched.values():
            if not self._allowed(node, factor):
                return f"{node.key} {node.name} does not treat it block by block"
        return ""

    def _allowed(self, node: Node, factor: Factor) -> bool:
        """Whether one operator treats the factor block by block."""
        places = {p.tensor: p for p in factor.places}
        if any(name in places for name in node.captures):
            return False
        rule = rules.find(node)
        if rule is None or not (rule.kind in _ELEMENTWISE or node.key in _FLAT or node.key in _GROUPED):
            return False
        if node.key in _GROUPED and not self._whole_fibres(node, factor):
            return False
        if node.key == "Tile" and self._tiled(node, places):
            return False
        held: list[_Held] = []
        for names, sign in ((node.inputs, 1), (node.outputs, -1)):
            for slot, name in enumerate(names):
                place = places.get(name)
                if place is not None and not place.merged:
                    at = slot if sign > 0 else -1 - slot
                    held.append(_Held(at, place.axis, place.block, len(self.deps.types[name])))
        if not held:
            return True
        if node.name in self._restricted and (self._opset < 11 or any(self._repeating(node, h) for h in held)):
            return False  # the masked reference needs GatherND and a fixed number of blocks there
        return self._ragged(node, rule.kind, held)

    def _whole_fibres(self, node: Node, factor: Factor) -> bool:
        """Whether the groups that the operator forms hold whole fibres, or each one position of one fibre."""
        groups = int(node.attrs.get(_GROUPED[node.key], 1))
        channels = [(node.inputs[0], 1), (node.outputs[0], 1)]
        if node.key != "GroupNormalization":
            channels.append((node.inputs[1], 0))
        merged = {(p.tensor, p.axis) for p in factor.places if p.merged}
        axes = [self.deps.types[name][a] for name, a in channels if (name, a) in merged]
        if groups == 1 or not axes:
            return not any((p.tensor, p.axis) in channels and not p.merged for p in factor.places)
        return all(_whole(factor, x, groups) for x in axes) or all(_single(factor, x, groups) for x in axes)

    def _tiled(self, node: Node, places: Mapping[str, Place]) -> bool:
        """Whether other copies would be left for every position: a Tile makes whole ones."""
        out = places.get(node.outputs[0])
        return out is not None and out.merged and node.inputs[0] not in places

    def _repeating(self, node: Node, held: _Held) -> bool:
        """Whether the axis of the blocks is a product with a dynamic factor."""
        axis = self._axis(node.inputs[held.slot] if held.slot >= 0 else node.outputs[-1 - held.slot], held.block)
        return axis is not None and bool(axis.parts)

    def _axis(self, name: str, axis: int) -> Axis | None:
        return self.deps.types[name][axis] if name in self.deps.types else None

    def _ragged(self, node: Node, kind: str, held: Sequence[_Held]) -> bool:
        """Whether an operator leaves the order inside every block of its ragged operands alone."""
        if kind in _ELEMENTWISE or node.key in _REDUCTIONS | _NORMS | {"Transpose", "Expand", "ConstantOfShape"}:
            return True
        if node.key in ("Shape", "Size"):
            return True
        if node.key in ("Conv", "com.microsoft.FusedConv", "ConvTranspose"):
            return all((h.slot, h.axis, h.block) == (1, 1, 0) for h in held)
        if node.key in _RESHAPES:  # C order goes through one block after the other
            return all(h.block < h.axis for h in held)
        check = _CHECKS.get(node.key)
        if check is not None:
            return check(self, node, held)
        return node.key in _MOVES and self._unmoved(node, held)

    def _matmul(self, node: Node, held: Sequence[_Held]) -> bool:  # noqa: ARG002 - checks share one signature
        """Blocks are matrices: their axis is a batch axis, the same one in all operands."""
        return len({h.block - h.rank for h in held}) == 1 and all(h.block - h.rank < -2 for h in held)

    def _einsum(self, node: Node, held: Sequence[_Held]) -> bool:
        """Wherever the factor's letter stands, the blocks have the same letter."""
        text = str(node.attrs.get("equation", "")).replace(" ", "")
        left, _, right = text.partition("->")
        terms = left.split(",")
        letters = {(term[h.axis], term[h.block]) for h in held if (term := terms[h.slot] if h.slot >= 0 else right)}
        return len(letters) == 1

    def _gather(self, node: Node, held: Sequence[_Held]) -> bool:
        """The ragged axis is not the one that is read at indices, nor made of them."""
        read = next((h for h in held if h.slot == 0), None)
        if read is None or any(h.slot > 0 for h in held):
            return False
        axis = int(node.attrs.get("axis", 0)) % read.rank
        if read.axis == axis:
            return False
        shift = len(self.deps.source.values[node.inputs[1]].shape or ()) - 1 if read.axis > axis else 0
        return all(h.axis == read.axis + shift for h in held if h.slot < 0)

    def _unmoved(self, node: Node, held: Sequence[_Held]) -> bool:
        """Every operand has the same labels on the ragged axis: nothing happens along it."""
        if len({(h.axis, h.rank) for h in held}) != 1:
            return False
        if node.key == "Pad" and all(h.slot < 0 for h in held):
            return False  # its own positions: it adds as many in front of every block
        names = [node.inputs[h.slot] if h.slot >= 0 else node.outputs[-1 - h.slot] for h in held]
        a = held[0].axis
        return len({id(self._axis(name, a)) for name in names}) == 1 and any(h.slot < 0 for h in held)


def _whole(factor: Factor, axis: Axis | None, groups: int) -> bool:
    """Whether every group of consecutive positions holds all of the factor equally often, beside whatever else."""
    if axis is None:
        return True
    return even(axis, factor.local, factor.size, np.arange(axis.n) // (axis.n // groups))


def _single(factor: Factor, axis: Axis | None, groups: int) -> bool:
    """Whether every group of consecutive positions has one label of the factor and lies in one block."""
    if axis is None:
        return True
    rows, _, j = factor.offsets(axis)
    label = np.full(axis.n, -1)
    label[rows] = factor.block_of(axis)[rows] * factor.size + j
    chunks = label.reshape(groups, -1)
    return bool((chunks == chunks[:, :1]).all())


_Check = Callable[[Nodes, Node, Sequence[_Held]], bool]
_CHECKS: dict[str, _Check] = {
    "MatMul": Nodes._matmul,
    "Einsum": Nodes._einsum,
    "Gather": Nodes._gather,
}
