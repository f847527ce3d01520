"""Blends removed channels into kept ones that are like them, from the weights alone.

A channel is the row of weights that makes it, with its bias. A transport plan says how much of each removed row goes to
which kept row; cost is how unlike their directions are. A kept row turns towards what it takes over, and whoever
reads the removed channel reads the kept one instead, as far as the directions agree. Where a removed channel is a
positive multiple of a kept one, nothing is lost at all.

Only channels with one producer are merged, and only where everything between it and its readers is positively
homogeneous and works channel by channel. Done first, it leaves better weights for the steps that learn from data.

Source: Theus et al., "Towards Meta-Pruning via Optimal Transport" (Intra-Fusion), ICLR 2024; Singh, Jaggi, "Model
Fusion via Optimal Transport", NeurIPS 2020.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from graphprune.calibration.layers import Layer, layers, matrix, stored
from graphprune.calibration.normal import Real
from graphprune.calibration.views import Views
from graphprune.coupling.cut import Cut
from graphprune.graph.model import Array, Graph, Node
from graphprune.recover.contents import content, exchange
from graphprune.recover.paired import Job, LayerError
from graphprune.recover.transport import plan

_PASSING = ("Relu", "LeakyRelu", "Identity", "Dropout", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_ATEN = ("relu", "leaky_relu", "dropout", "max_pool1d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")
_FLAT = ("Flatten", "Reshape", "Squeeze", "aten.flatten.using_ints")
_MEANS = ("ReduceMean", "aten.mean.dim")
_TINY = 1e-12


def merge(job: Job) -> list[LayerError]:
    """Blend removed channels into kept ones, in place.

    Args:
        job: What to work on; only the cut, the pruned model and the progress are used.

    Returns:
        Per layer that makes removed channels, the share of the energy of its rows that is lost, before and after.
    """
    cut, small = job.cut, job.small
    found = {x.name: _Matrix.read(cut, x) for x in layers(cut.deps.source) if x.linear.groups == 1}
    readers = _Readers(cut, found)
    report = []
    for one in found.values():
        if one.outs is None or not (consumers := readers.of(one)):
            continue
        job.progress(one.layer.name)
        line = _merged(cut, one, consumers)
        if line is not None:
            report.append(line)
    twins = {x.name: x for x in layers(small)}
    for one in found.values():
        if one.touched and one.layer.name in twins:
            _write(one, small, twins[one.layer.name])
    return report


@dataclass
class _Matrix:
    """A layer of the original whose weight is worked on.

    Attributes:
        layer: The layer.
        first: Its weight as it was, shape (inputs, taps, outputs).
        weight: Its weight as it is worked on.
        bias: Its bias, or what a BatchNormalization behind adds, shape (outputs,).
        shift: How much the bias has changed.
        factor: What a BatchNormalization behind it multiplies with, shape (outputs,).
        inputs: Inputs that stay, None for all.
        outs: Outputs that stay, None for all.
    """

    layer: Layer
    first: Real
    weight: Real
    bias: Real
    factor: Real
    inputs: Array | None
    outs: Array | None
    shift: Real = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def read(cls, cut: Cut, layer: Layer) -> _Matrix:
        """A layer of the original."""
        graph, linear = cut.deps.source, layer.linear
        whole = matrix(layer, content(graph, layer.weight))[0]
        shape = graph.values[layer.input].shape or ()
        cube = whole.reshape(shape[linear.axis], -1, whole.shape[1])
        bias = np.zeros(cube.shape[2])
        if layer.biased:
            bias = content(graph, layer.bias).astype(np.float64).ravel()
        factor = np.ones(cube.shape[2])
        if (norm := layer.norm) is not None:
            scale, summand, mean, variance = (
                content(graph, n).astype(np.float64) for n in (norm.scale, norm.bias, norm.mean, norm.variance)
            )
            factor = scale / np.sqrt(variance + norm.epsilon)
            bias = (bias - mean) * factor + summand
        rank = len(graph.values[layer.made].shape or ())
        return cls(
            layer,
            cube,
            cube.copy(),
            bias,
            factor,
            cut.kept(layer.input, linear.axis),
            cut.kept(layer.made, rank + linear.out_axis),
            np.zeros(cube.shape[2]),
        )

    @property
    def touched(self) -> bool:
        """Whether anything has changed."""
        return bool(self.shift.any()) or not np.array_equal(self.first, self.weight)

    def rows(self) -> Real:
        """What makes each output behind a BatchNormalization: (outputs, inputs that stay · taps + 1)."""
        kept = self.weight if self.inputs is None else self.weight[self.inputs]
        rows = (kept * self.factor).reshape(-1, self.weight.shape[2]).T
        return np.concatenate([rows, (self.bias + self.shift)[:, None]], axis=1)

    def turn(self, outputs: Array, rows: Real) -> None:
        """Let some outputs be made by other rows."""
        live = np.abs(self.factor[outputs]) > _TINY
        outputs, rows = outputs[live], rows[live]
        inner = rows[:, :-1].T / self.factor[outputs]
        kept = np.arange(len(self.weight)) if self.inputs is None else self.inputs
        self.weight[np.ix_(kept, np.arange(self.weight.shape[1]), outputs)] = inner.reshape(len(kept), -1, len(outputs))
        self.shift[outputs] = rows[:, -1] - self.bias[outputs]


class _Readers:
    """Who reads a layer's outputs, through what keeps channels apart and is positively homogeneous."""

    def __init__(self, cut: Cut, found: dict[str, _Matrix]) -> None:
        self._graph = cut.deps.source
        self._found = found
        self._readers = Views(self._graph).readers

    def of(self, one: _Matrix) -> list[_Matrix]:
        """All readers; none where one of them is something else."""
        if one.layer.norm is None and one.layer.bias == "?":
            return []
        out: list[_Matrix] = []
        todo = [one.layer.behind]
        while todo:
            name = todo.pop()
            if name in self._graph.outputs or not self._readers.get(name):
                return []
            for node in self._readers[name]:
                reader = self._found.get(node.name)
                if reader is not None and reader.layer.input == name and self._same(one, reader):
                    out.append(reader)
                elif self._passes(node, name):
                    todo.append(node.outputs[0])
                else:
                    return []
        return out

    def _same(self, one: _Matrix, reader: _Matrix) -> bool:
        kept, axis = reader.inputs, reader.layer.linear.axis
        return (
            len(reader.first) == one.first.shape[2]
            and kept is not None
            and one.outs is not None
            and np.array_equal(kept, one.outs)
            and axis == (1 if one.layer.linear.out_axis != -1 else len(self._shape(reader.layer.input)) - 1)
        )

    def _passes(self, node: Node, name: str) -> bool:
        if node.inputs[0] != name or node.times != 1 or node.captures or len([n for n in node.outputs if n]) != 1:
            return False
        if any(float(node.attrs.get(n, 0.01)) < 0 for n in ("alpha", "negative_slope")):
            return False
        given, made = self._shape(name), self._shape(node.outputs[0])
        if node.key in _FLAT:
            return len(made) == 2 and len(given) > 2 and given[:2] == made and all(n == 1 for n in given[2:])
        if node.key in _MEANS:
            axes = node.attrs.get("axes", node.attrs.get("dim"))
            if axes is None and len(node.inputs) > 1:
                axes = self._graph.constant(node.inputs[1])
            if axes is None:
                return False
            return {int(a) % len(given) for a in axes} == set(range(2, len(given)))
        return node.key in _PASSING or (node.domain == "aten" and node.op.partition(".")[0] in _ATEN)

    def _shape(self, name: str) -> tuple[int, ...]:
        return self._graph.values[name].shape or ()


def _merged(cut: Cut, one: _Matrix, consumers: list[_Matrix]) -> LayerError | None:
    """Blend the removed outputs of a layer into those that stay."""
    kept, rows = np.asarray(one.outs), one.rows()
    sizes = np.linalg.norm(rows, axis=1)
    gone = np.setdiff1d(np.arange(len(rows)), kept)
    names = {c.layer.name for c in consumers}
    for fold in (f for f in cut.folds if f.node in names and len(f.free) == len(rows)):
        gone = gone[~fold.free[gone]]  # their constants are taken over as they are
    gone, live = gone[sizes[gone] > _TINY], kept[sizes[kept] > _TINY]
    if not len(gone) or not len(live):
        return None
    unit = rows / np.maximum(sizes, _TINY)[:, None]
    read = np.sqrt(sum((c.weight**2).sum(axis=(1, 2)) for c in consumers))
    masses = np.maximum(sizes * read, _TINY)
    moved = plan(1 - unit[gone] @ unit[live].T, masses[gone], np.full(len(live), masses[gone].sum() / len(live)))
    alike = np.maximum(unit[gone] @ unit[live].T, 0)
    turned = masses[live, None] * unit[live] + (moved * alike).T @ unit[gone]
    turned /= np.maximum(np.linalg.norm(turned, axis=1), _TINY)[:, None]
    shares = moved / moved.sum(axis=1, keepdims=True)
    agree = np.maximum(unit[gone] @ turned.T, 0)
    taken = shares * agree * sizes[gone, None] / sizes[live]
    stays = np.maximum(np.einsum("ji,ji->j", unit[live], turned), 0)
    for reader in consumers:
        removed = np.tensordot(taken.T, reader.weight[gone], axes=1)
        reader.weight[live] = stays[:, None, None] * reader.weight[live] + removed
    one.turn(live, turned * sizes[live, None])
    whole = float((masses**2).sum())
    lost = masses[gone] ** 2 * (1 - np.minimum((shares * agree).sum(axis=1), 1) ** 2)
    return LayerError(one.layer.name, float((masses[gone] ** 2).sum()) / whole, float(lost.sum()) / whole, 0.0)


def _write(one: _Matrix, small: Graph, twin: Layer) -> None:
    """Add what has changed to the pruned model's weights."""
    outs = np.arange(one.first.shape[2]) if one.outs is None else one.outs
    inputs = np.arange(len(one.first)) if one.inputs is None else one.inputs
    change = (one.weight - one.first)[np.ix_(inputs, np.arange(one.first.shape[1]), outs)]
    weight = content(small, twin.weight)
    new = matrix(twin, weight) + change.reshape(1, -1, len(outs))
    exchange(small, twin.weight, stored(twin, new, weight.shape))
    if not one.shift[outs].any():
        return
    name = twin.norm.bias if twin.norm is not None else twin.bias
    if name:
        old = content(small, name)
        exchange(small, name, old.astype(np.float64).ravel() + one.shift[outs])
