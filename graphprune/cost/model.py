"""MACs, parameters, bytes and peak memory of a model for any set of removed units, vectorised over all its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphprune.algebra import Axis
from graphprune.cost.lengths import Lengths
from graphprune.cost.measure import Measure, padded, product, products
from graphprune.cost.memory import memory
from graphprune.coupling.cut import Mask
from graphprune.coupling.groups import DependencyGraph, analyze
from graphprune.graph.model import Weight


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of a model.

    Attributes:
        macs: Multiply-accumulates of one run at the first probed input size (batch 1 where it is dynamic).
        params: Stored elements.
        bytes: Bytes of the stored elements.
        memory: Bytes of activations at the peak, see :mod:`graphprune.cost.memory`.
    """

    macs: int
    params: int
    bytes: int
    memory: int = 0


COSTS = tuple(f.name for f in fields(Costs))


class CostModel:
    """Costs of a dependency graph's model after removing units.

    The cost of a channel depends on what is already gone, so everything is recomputed from kept lengths; one
    evaluation is a handful of array operations.

    Attributes:
        lengths: The kept lengths that costs are functions of.
        measures: Every cost by name; another one, such as a time, is put beside them.
        original: Costs by name of the model before branches were bypassed, empty where none were.
    """

    def __init__(self, deps: DependencyGraph) -> None:
        self._deps = deps
        self.lengths = Lengths(deps)
        self.nodes: list[str] = []
        self.original: Mapping[str, int] = {}
        macs: list[tuple[float, list[int]]] = []
        for term in deps.state.macs:
            macs.append(self.lengths.term(float(term.factor), term.axes))
            self.nodes.append(term.node)
        params = [
            (self.lengths.term(*self._elements(name, weight)), itemsize(weight)) for name, weight in _stored(deps)
        ]
        for axes in deps.types.values():
            for axis in axes:
                if axis is not None and axis.units is not None:
                    self.lengths.number(axis)
        peak = memory(deps, self.lengths)
        self._one = one = len(self.lengths.axes)
        self._macs = padded([tuple(row) for _, row in macs], one), np.array([f for f, _ in macs], np.float64)
        self.measures: dict[str, Measure] = {peak.name: peak}
        for name, rows in (
            ("macs", macs),
            ("params", [row for row, _ in params]),
            ("bytes", [(factor * size, row) for (factor, row), size in params]),
        ):
            index, factor = products(rows, one)
            self.measures[name] = Measure(name, index, product(factor))

    def _elements(self, name: str, weight: Weight) -> tuple[float, list[Axis]]:
        """Elements of a weight: a factor, and the axes that it is multiplied with."""
        axes = self._deps.types.get(name) or ()
        if not axes:
            return float(np.prod(weight.shape, dtype=np.float64)), []
        store = self._deps.state.store
        return 1.0, [a if a is not None else store.frozen(n, 0) for a, n in zip(axes, weight.shape, strict=False)]

    def kept(self, removed: Mask) -> NDArray[np.float64]:
        """Kept length of every distinct labelled axis; the last entry is 1."""
        return self.lengths.kept(removed)

    def emptied(self, removed: Mask) -> list[Axis]:
        """Axes that would lose all their positions."""
        return [self.lengths.axes[i] for i in np.flatnonzero(self.kept(removed) == 0)]

    def costs(self, removed: Mask) -> Costs:
        """Costs after the removal; ``removed`` is a bool per unit id."""
        lengths = self.kept(removed)
        return Costs(**{name: self.measures[name].total(lengths) for name in COSTS})

    def node_macs(self, removed: Mask) -> dict[str, int]:
        """MACs per node name."""
        out: dict[str, int] = {}
        index, factor = self._macs
        for name, value in zip(self.nodes, factor * self.kept(removed)[index].prod(axis=1), strict=True):
            out[name] = out.get(name, 0) + round(value)
        return out

    def prunable_share(self) -> float:
        """Share of the MACs in nodes with at least one axis that can be cut."""
        none = np.zeros(self._deps.state.store.count, bool)
        index, factor = self._macs
        values = factor * self.kept(none)[index].prod(axis=1)
        free = (index != self._one).any(axis=1) if values.size else np.zeros(0, bool)
        total = float(values.sum())
        return float(values[free].sum()) / total if total else 0.0


def whole_costs(deps: DependencyGraph) -> Costs:
    """Costs of the original, with the branches that were bypassed."""
    if deps.source.whole_graph is not None:
        deps = analyze(deps.source.whole_graph, deps.allow_io)
    return CostModel(deps).costs(np.zeros(deps.state.store.count, bool))


def _stored(deps: DependencyGraph) -> Iterable[tuple[str, Weight]]:
    """Every stored tensor once, under the name that carries its labels."""
    chosen: dict[str, tuple[str, Weight]] = {}
    for name, weight in deps.source.weights.items():
        if weight.origin != "fill" and (weight.source not in chosen or name in deps.types):
            chosen[weight.source] = (name, weight)
    return chosen.values()


def itemsize(weight: Weight) -> float:
    """Bytes of an element."""
    return float(ir.DataType[weight.dtype.upper()].itemsize) if weight.dtype != "string" else 0.0
