"""Writes the pruned ONNX model: weights sliced, attributes and shape operands edited, names kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.coupling.box import Box
from graphprune.coupling.cut import Cut
from graphprune.graph.model import Array, Weight
from graphprune.rewrite.folds import apply_folds
from graphprune.rewrite.surgeon import Surgeon
from graphprune.rewrite.values import forget_shape, home

_LAZY_BYTES = 1 << 20


def rewrite(cut: Cut) -> ir.Model:
    """The smaller model; the original is not changed and shares its untouched weights.

    Args:
        cut: What is kept of every axis; ``cut.deps.source.source`` is the ``onnx_ir.Model``.
    """
    return _Rewriter(cut).run()


class _Rewriter(Surgeon):
    """Carries out a whole cut."""

    def run(self) -> ir.Model:
        """The edited clone."""
        self._cut_weights()
        for node in self.graph.nodes:
            change = self.cut.edit(node)
            if change is not None:
                self.apply(node, change)
        apply_folds(self)
        self._drop_dead()
        self._cut_shapes()
        return self.model

    def _cut_weights(self) -> None:
        """Slice every weight; uses of a shared constant that need different slices get their own copy."""
        uses: dict[str, list[Weight]] = {}
        for weight in self.graph.weights.values():
            uses.setdefault(weight.source, []).append(weight)
        for source, weights in uses.items():
            if len(weights) == 1 and (box := self._box(weights[0])):
                self._store(source, weights[0], box)
            elif len(weights) > 1:
                self._cut_shared(source, [w for w in weights if w.name != source or self._used_itself(w)])

    def _cut_shared(self, source: str, weights: Sequence[Weight]) -> None:
        """One stored tensor for each distinct slice; the first keeps the name unless a use reads it whole."""
        variants: dict[Any, list[Weight]] = {}
        for weight in weights:
            variants.setdefault(self._box(weight).key(), []).append(weight)
        whole = variants.pop((), None)
        for order, users in enumerate(variants.values()):
            box = self._box(users[0])
            if order == 0 and whole is None:
                self._store(source, users[0], box)
                continue
            copy = self._copy(source, users[0], box)
            for use in users:
                node, _, slot = use.name.removeprefix(f"{source}@").rpartition(":")
                old = self.nodes[node].inputs[int(slot)]
                self.nodes[node].replace_input_with(int(slot), copy)
                if old is not None:
                    self.touched.append(old)

    def _used_itself(self, weight: Weight) -> bool:
        """Whether a shared constant is still read under its own name (subgraphs, graph outputs)."""
        name = weight.name
        if name in self.graph.outputs:
            return True
        return any(name in n.inputs or name in n.captures for n in self.graph.nodes)

    def _box(self, weight: Weight) -> Box:
        return self.cut.box(weight.name, len(weight.shape))

    def _store(self, source: str, weight: Weight, box: Box) -> None:
        """Replace the content of a stored tensor by its slice."""
        value = self.values[source]
        if weight.origin == "initializer":
            value.const_value = _tensor(source, weight, box)
            value.shape = ir.Shape(box.shape(weight.shape))
            return
        producer = value.producer()
        assert producer is not None
        if weight.origin == "constant":
            for name in list(producer.attributes):
                del producer.attributes[name]
            producer.attributes["value"] = ir.AttrTensor("value", _tensor(source, weight, box))
        else:
            sizes = np.array(box.shape(weight.shape), np.int64)
            producer.replace_input_with(0, self._ints(f"{source}_shape", sizes))
        if value.type is not None:
            value.shape = ir.Shape(box.shape(weight.shape))

    def _copy(self, source: str, weight: Weight, box: Box) -> ir.Value:
        """A slice of a shared constant as an initializer of its own."""
        name = self.free(source)
        return self.register(name, _tensor(name, weight, box))

    def _drop_dead(self) -> None:
        """Remove what only computed operands that were replaced."""
        queue = self.touched
        while queue:
            value = queue.pop()
            if value.uses() or value.is_graph_output() or value.is_graph_input():
                continue
            producer = value.producer()
            if producer is None:
                if value.is_initializer() and value.graph is not None:
                    del value.graph.initializers[value.name or ""]
            elif producer.graph is not None and not any(o.uses() or o.is_graph_output() for o in producer.outputs):
                queue.extend(v for v in producer.inputs if v is not None)
                home(producer).remove(producer, safe=True)

    def _cut_shapes(self) -> None:
        """Recorded shapes follow the cut; what cannot be told is dropped."""
        for name, value in self.values.items():
            if value.shape is None or value.const_value is not None:
                continue
            axes = range(len(value.shape))
            if len(self.cut.deps.types.get(name) or ()) != len(axes):
                if name in self.graph.values and self.graph.values[name].shape is not None:
                    continue
                forget_shape(value)
                continue
            for a in axes:
                kept = self.cut.kept(name, a)
                if kept is not None:
                    value.shape[a] = len(kept)
                elif self.cut.moved(name, a):
                    value.shape[a] = None


def _tensor(name: str, weight: Weight, box: Box) -> ir.TensorProtocol:
    """A sliced tensor, made only when it is written if it is large."""
    dtype = ir.DataType[weight.dtype.upper()]
    shape = box.shape(weight.shape)

    def make() -> ir.Tensor[Array]:
        return ir.Tensor(box.take(weight.read()), dtype=dtype, name=name)

    if int(np.prod(shape)) * dtype.itemsize < _LAZY_BYTES:
        return make()
    return ir.LazyTensor(make, dtype, ir.Shape(shape), name=name)
