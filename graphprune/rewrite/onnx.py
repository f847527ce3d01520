"""Writes the pruned ONNX model: weights sliced, attributes and shape operands edited, names kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.coupling.groups import Cut
from graphprune.graph.model import Array, Node, Weight
from graphprune.graph.onnx import source_nodes
from graphprune.rules.edit import COMPUTED, Change, Kept

_LAZY_BYTES = 1 << 20


def rewrite(cut: Cut) -> ir.Model:
    """The smaller model; the original is not changed and shares its untouched weights.

    Args:
        cut: What is kept of every axis; ``cut.deps.source.source`` is the ``onnx_ir.Model``.
    """
    return Surgeon(cut).run()


class Surgeon:
    """Edits a clone of the model; also the toolbox of the masked reference."""

    def __init__(self, cut: Cut) -> None:
        self.cut = cut
        self.graph = cut.deps.source
        self.model: ir.Model = self.graph.source.clone()
        self.nodes: dict[str, ir.Node] = dict(source_nodes(self.model))
        self.values: dict[str, ir.Value] = dict(_all_values(self.model))
        self.touched: list[ir.Value] = []

    def run(self) -> ir.Model:
        """Apply the whole cut."""
        self._cut_weights()
        for node in self.graph.nodes:
            change = self.cut.edit(node)
            if change is not None:
                self.apply(node, change)
        self._drop_dead()
        self._cut_shapes()
        return self.model

    # -- weights -----------------------------------------------------------------------------------------

    def _cut_weights(self) -> None:
        """Slice every weight; uses of a shared constant that need different slices get their own copy."""
        uses: dict[str, list[Weight]] = {}
        for weight in self.graph.weights.values():
            uses.setdefault(weight.source, []).append(weight)
        for source, weights in uses.items():
            cuts = [self._box(w) for w in weights]
            if not any(cuts):
                continue
            shared = len(weights) > 1
            if not shared:
                self._store(source, weights[0], cuts[0])
                continue
            variants: dict[Any, list[Weight]] = {}
            for weight, box in zip(weights, cuts, strict=True):
                if weight.name != source or self._used_itself(weight):
                    variants.setdefault(_box_key(box), []).append(weight)
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

    def _box(self, weight: Weight) -> dict[int, Kept]:
        """Kept positions per cut axis."""
        kept = {a: self.cut.kept(weight.name, a) for a in range(len(weight.shape))}
        return {a: k for a, k in kept.items() if k is not None}

    def _store(self, source: str, weight: Weight, box: dict[int, Kept]) -> None:
        """Replace the content of a stored tensor by its slice."""
        value = self.values[source]
        if weight.origin == "initializer":
            value.const_value = _tensor(source, weight, box)
            value.shape = ir.Shape(_new_shape(weight.shape, box))
            return
        producer = value.producer()
        assert producer is not None
        if weight.origin == "constant":
            for name in list(producer.attributes):
                del producer.attributes[name]
            producer.attributes["value"] = ir.AttrTensor("value", _tensor(source, weight, box))
        else:
            sizes = np.array(_new_shape(weight.shape, box), np.int64)
            producer.replace_input_with(0, self.constant(f"{source}_shape", sizes))
        if value.type is not None:
            value.shape = ir.Shape(_new_shape(weight.shape, box))

    def constant(self, name: str, array: Array) -> ir.Value:
        """A new initializer with a free name."""
        name = self._free(name)
        tensor = ir.Tensor(np.asarray(array, order="C"), name=name)
        return self._register(name, tensor)

    def _copy(self, source: str, weight: Weight, box: dict[int, Kept]) -> ir.Value:
        """A slice of a shared constant as an initializer of its own."""
        name = self._free(source)
        return self._register(name, _tensor(name, weight, box))

    def _register(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        shape = ir.Shape([int(d) for d in tensor.shape])
        value = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.model.graph.register_initializer(value)
        self.values[name] = value
        return value

    def _free(self, name: str) -> str:
        n, base = 1, name
        while name in self.values:
            n += 1
            name = f"{base}_{n}"
        return name

    # -- nodes -------------------------------------------------------------------------------------------

    def apply(self, node: Node, change: Change) -> None:
        """Carry out a rule's change on the node in the file."""
        target = self.nodes[node.fused[-1] if node.fused else node.name]
        if change.op is not None:
            target = self._replace(node, target, change.op)
        for slot, array in change.consts.items():
            factors = {entry: ratio for (s, entry), ratio in change.scaled.items() if s == slot}
            self._set_operand(target, slot, array, factors)
        for name, value in change.attrs.items():
            if value is None:
                target.attributes.pop(name, None)
            else:
                target.attributes[name] = _attribute(name, value)
        for slot, axis, index in change.gathers:
            read = target.inputs[slot]
            assert read is not None
            picked = self.insert("Gather", [read, self._ints(f"{read.name}_index", index)], {"axis": axis}, target)
            target.replace_input_with(slot, picked)
        if change.fixed:
            self._fix_entries(target, change.fixed)

    def _replace(self, node: Node, target: ir.Node, op: tuple[str, tuple[int, ...]]) -> ir.Node:
        """Turn a node (or fused chain) into another operator with the same outputs."""
        kind, slots = op
        inputs = [self.values[node.inputs[s]] for s in slots]
        new = ir.Node(
            "",
            kind,
            inputs,
            [a for a in target.attributes.values() if not node.fused],
            num_outputs=1,
            name=target.name,
            metadata_props=dict(target.metadata_props),
        )
        self.model.graph.insert_before(target, new)
        old = target.outputs[0]
        name = old.name
        new.outputs[0].shape, new.outputs[0].type = old.shape, old.type
        old.replace_all_uses_with(new.outputs[0], replace_graph_outputs=True)
        old.name = f"{name}_replaced"
        new.outputs[0].name = name
        self.values[name or ""] = new.outputs[0]
        for part in [self.nodes[n] for n in node.fused[::-1]] or [target]:
            self.model.graph.remove(part, safe=True)
        self.nodes[node.name] = new
        return new

    def _set_operand(
        self, target: ir.Node, slot: int, array: Array, factors: dict[int, tuple[int, int]]
    ) -> None:
        """Give a node a new constant operand, or override the entries that are not COMPUTED."""
        old = target.inputs[slot] if slot < len(target.inputs) else None
        base = (old.name if old is not None else None) or f"{target.name or target.op_type}_operand{slot}"
        if array.dtype.kind == "i" and (array == COMPUTED).any():
            assert old is not None
            known = self._bools(f"{base}_known", array != COMPUTED)
            fixed = self._ints(f"{base}_kept", np.where(array == COMPUTED, 1, array))
            scaled = old
            for op, which in (("Mul", 0), ("Div", 1)) if factors else ():
                vector = np.array([factors.get(i, (1, 1))[which] for i in range(len(array))])
                scaled = self.insert(op, [scaled, self._ints(f"{base}_{op.lower()}", vector)], {}, target)
            value = self.insert("Where", [known, fixed, scaled], {}, target)
        else:
            value = self._ints(f"{base}_kept", array)
        if slot >= len(target.inputs):
            target.resize_inputs(slot + 1)
        target.replace_input_with(slot, value)
        if old is not None:
            self.touched.append(old)

    def _fix_entries(self, target: ir.Node, fixed: dict[int, int]) -> None:
        """Hold entries of a 1-D output at given values, for everything that reads it."""
        out = target.outputs[0]
        n = int(out.shape[0]) if out.shape is not None and isinstance(out.shape[0], int) else max(fixed) + 1
        rank = self.graph.values[out.name or ""].shape
        n = rank[0] if rank else n
        mask = np.array([i in fixed for i in range(n)])
        entries = np.array([fixed.get(i, 0) for i in range(n)], np.int64)
        users = list(out.uses())
        held = self.insert(
            "Where",
            [self._bools(f"{out.name}_cut", mask), self._ints(f"{out.name}_original", entries), out],
            {},
            target,
            after=True,
        )
        for user, slot in users:
            user.replace_input_with(slot, held)

    def insert(
        self, op: str, inputs: Sequence[ir.Value], attrs: dict[str, Any], at: ir.Node, *, after: bool = False
    ) -> ir.Value:
        """A new node beside ``at``; returns its output."""
        node = ir.node(op, inputs, attrs)
        out = node.outputs[0]
        name = self._free(f"{at.outputs[0].name}_{op.lower()}")
        out.name = node.name = name
        self.values[name] = out
        (self.model.graph.insert_after if after else self.model.graph.insert_before)(at, node)
        return out

    def _ints(self, name: str, array: Array) -> ir.Value:
        return self.constant(name, np.asarray(array, np.int64))

    def _bools(self, name: str, array: Array) -> ir.Value:
        return self.constant(name, np.asarray(array, np.bool_))

    # -- tidying -----------------------------------------------------------------------------------------

    def _drop_dead(self) -> None:
        """Remove what only computed operands that were replaced."""
        graph = self.model.graph
        queue = self.touched
        while queue:
            value = queue.pop()
            if value.uses() or value.is_graph_output() or value.is_graph_input():
                continue
            producer = value.producer()
            if producer is None:
                if value.name in graph.initializers:
                    del graph.initializers[value.name]
            elif producer.graph is graph and not any(o.uses() or o.is_graph_output() for o in producer.outputs):
                queue.extend(v for v in producer.inputs if v is not None)
                graph.remove(producer, safe=True)

    def _cut_shapes(self) -> None:
        """Recorded shapes follow the cut; what cannot be told is dropped."""
        for name, value in self.values.items():
            if value.shape is None or value.const_value is not None or value.is_graph_input():
                continue
            axes = range(len(value.shape))
            if len(self.cut.deps.types.get(name) or ()) != len(axes):
                if name in self.graph.values and self.graph.values[name].shape is not None:
                    continue
                value.shape = None
                continue
            for a in axes:
                kept = self.cut.kept(name, a)
                if kept is not None:
                    value.shape[a] = len(kept)
                elif self.cut.moved(name, a):
                    value.shape[a] = None


def _all_values(model: ir.Model) -> Iterator[tuple[str, ir.Value]]:
    for value in model.graph.inputs:
        yield value.name or "", value
    yield from model.graph.initializers.items()
    for node in model.graph:
        for value in node.outputs:
            if value.name:
                yield value.name, value


def _box_key(box: dict[int, Kept]) -> tuple[Any, ...]:
    return tuple((a, k.tobytes()) for a, k in sorted(box.items()))


def _new_shape(shape: Sequence[int], box: dict[int, Kept]) -> list[int]:
    return [len(box[a]) if a in box else int(n) for a, n in enumerate(shape)]


def _slice(read: Callable[[], Array], box: dict[int, Kept]) -> Array:
    """The box of kept positions, smallest axes first so that little is copied twice."""
    array = read()
    for axis, kept in sorted(box.items(), key=lambda item: len(item[1]) / array.shape[item[0]]):
        array = np.take(array, kept, axis=axis)
    return np.ascontiguousarray(array)


def _tensor(name: str, weight: Weight, box: dict[int, Kept]) -> ir.TensorProtocol:
    """A sliced tensor, made only when it is written if it is large."""
    dtype = ir.DataType[weight.dtype.upper()]
    shape = _new_shape(weight.shape, box)

    def make() -> ir.Tensor:
        return ir.Tensor(_slice(weight.read, box), dtype=dtype, name=name)

    if int(np.prod(shape)) * dtype.itemsize < _LAZY_BYTES:
        return make()
    return ir.LazyTensor(make, dtype, ir.Shape(shape), name=name)


def _attribute(name: str, value: Any) -> ir.Attr:
    if isinstance(value, int):
        return ir.AttrInt64(name, value)
    if isinstance(value, float):
        return ir.AttrFloat32(name, value)
    return ir.AttrInt64s(name, [int(v) for v in value])
