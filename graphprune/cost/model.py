"""MACs, parameters and bytes of a model for any set of removed units, vectorised over all its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphprune.algebra import Axis
from graphprune.coupling.cut import Mask
from graphprune.coupling.groups import DependencyGraph
from graphprune.graph.model import Weight


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of a model.

    Attributes:
        macs: Multiply-accumulates of one run at the first probed input size (batch 1 where it is dynamic).
        params: Stored elements.
        bytes: Bytes of the stored elements.
    """

    macs: int
    params: int
    bytes: int


class _Terms:
    """Sums of a factor times kept lengths."""

    def __init__(self, rows: Sequence[tuple[float, list[int]]], one: int) -> None:
        width = max((len(r) for _, r in rows), default=0)
        self.factor = np.array([f for f, _ in rows], np.float64)
        self.index = np.full((len(rows), width), one, np.intp)
        for i, (_, row) in enumerate(rows):
            self.index[i, : len(row)] = row

    def values(self, lengths: NDArray[np.float64]) -> NDArray[np.float64]:
        out: NDArray[np.float64] = self.factor * lengths[self.index].prod(axis=1)
        return out


class CostModel:
    """Costs of a dependency graph's model after removing units.

    The cost of a channel depends on what is already gone, so everything is recomputed from kept lengths; one
    evaluation is a handful of array operations.
    """

    def __init__(self, deps: DependencyGraph) -> None:
        self._ids: dict[int, int] = {}
        self._axes: list[Axis] = []
        self._deps = deps
        self.nodes: list[str] = []
        macs: list[tuple[float, list[int]]] = []
        for term in deps.state.macs:
            macs.append(self._term(float(term.factor), term.axes))
            self.nodes.append(term.node)
        params, sizes = [], []
        for name, weight in _stored(deps):
            axes = deps.types.get(name) or ()
            known = [
                a if a is not None else deps.state.store.frozen(n, 0) for a, n in zip(axes, weight.shape, strict=False)
            ]
            factor = 1.0 if axes else float(np.prod(weight.shape, dtype=np.float64))
            params.append(self._term(factor, known))
            sizes.append(ir.DataType[weight.dtype.upper()].itemsize if weight.dtype != "string" else 0)
        for axes in deps.types.values():
            for axis in axes:
                if axis is not None and axis.units is not None:
                    self._id(axis)
        one = len(self._axes)
        self._macs, self._params = _Terms(macs, one), _Terms(params, one)
        self._itemsize = np.array(sizes, np.float64)
        width = max((a.units.shape[1] for a in self._axes if a.units is not None), default=1)
        self._units = np.zeros((sum(a.n for a in self._axes), width), np.int32)
        self._starts = np.cumsum([0, *(a.n for a in self._axes)])[:-1]
        for start, axis in zip(self._starts, self._axes, strict=True):
            assert axis.units is not None
            self._units[start : start + axis.n, : axis.units.shape[1]] = axis.units

    def _id(self, axis: Axis) -> int:
        key = id(axis)
        if key not in self._ids:
            self._ids[key] = len(self._axes)
            self._axes.append(axis)
        return self._ids[key]

    def _term(self, factor: float, axes: Iterable[Axis]) -> tuple[float, list[int]]:
        """Frozen lengths go into the factor, the others are looked up."""
        found: list[int] = []
        flat = [p for axis in axes for p in ([q for q, _ in axis.parts] or [axis])]
        for axis in flat:
            final = self._deps.final(axis)
            if final.units is None:
                factor *= max(axis.n, 1)
            else:
                found.append(self._id(final))
        return factor, found

    def lengths(self, removed: Mask) -> NDArray[np.float64]:
        """Kept length of every distinct labelled axis; the last entry is 1."""
        if not self._axes:
            return np.ones(1)
        kept = ~removed[self._units].any(axis=1)
        counts = np.add.reduceat(kept.astype(np.float64), self._starts)
        return np.append(counts, 1.0)

    def emptied(self, removed: Mask) -> list[Axis]:
        """Axes that would lose all their positions."""
        return [self._axes[i] for i in np.flatnonzero(self.lengths(removed) == 0)]

    def costs(self, removed: Mask) -> Costs:
        """Costs after the removal; ``removed`` is a bool per unit id."""
        lengths = self.lengths(removed)
        params = self._params.values(lengths)
        return Costs(
            macs=round(self._macs.values(lengths).sum()),
            params=round(params.sum()),
            bytes=round((params * self._itemsize).sum()),
        )

    def node_macs(self, removed: Mask) -> dict[str, int]:
        """MACs per node name."""
        out: dict[str, int] = {}
        for name, value in zip(self.nodes, self._macs.values(self.lengths(removed)), strict=True):
            out[name] = out.get(name, 0) + round(value)
        return out

    def prunable_share(self) -> float:
        """Share of the MACs in nodes with at least one axis that can be cut."""
        none = np.zeros(self._deps.state.store.count, bool)
        values = self._macs.values(self.lengths(none))
        free = (self._macs.index != len(self._axes)).any(axis=1) if values.size else np.zeros(0, bool)
        total = float(values.sum())
        return float(values[free].sum()) / total if total else 0.0


def _stored(deps: DependencyGraph) -> Iterable[tuple[str, Weight]]:
    """Every stored tensor once, under the name that carries its labels."""
    chosen: dict[str, tuple[str, Weight]] = {}
    for name, weight in deps.source.weights.items():
        if weight.origin != "fill" and (weight.source not in chosen or name in deps.types):
            chosen[weight.source] = (name, weight)
    return chosen.values()
