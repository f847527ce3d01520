"""Editing an ONNX model by its neutral names: constants, nodes, attributes and operands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.coupling.cut import Cut
from graphprune.graph.model import Array, Node
from graphprune.graph.scopes import all_values, source_nodes, tensor_shape
from graphprune.rewrite.masks import WHERE_OPSET, mask_by_product, mask_integers
from graphprune.rewrite.values import home, overwrite, replace_output
from graphprune.rules.edit import COMPUTED, Change

_FREE_INITIALIZERS = 4  # before this IR version every initializer has to be a graph input as well


class Surgeon:
    """A clone of the model under edit; the rewriter and the masked reference both work through it.

    Args:
        cut: What is kept of every axis.
        model: The model to clone where it is not that of the cut, but one that holds all its nodes and values.
    """

    def __init__(self, cut: Cut, model: ir.Model | None = None) -> None:
        self.cut = cut
        self.graph = cut.deps.source
        self.model: ir.Model = (self.graph.source if model is None else model).clone()
        self.nodes: dict[str, ir.Node] = dict(source_nodes(self.model))
        self.values: dict[str, ir.Value] = {v.name or "": v for v in all_values(self.model)}
        self.touched: list[ir.Value] = []
        self._made: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def constant(self, name: str, array: Array) -> ir.Value:
        """A new initializer with a free name."""
        name = self.free(name)
        tensor = ir.Tensor(np.asarray(array, order="C"), name=name)
        return self.register(name, tensor)

    def register(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        """A stored tensor under a free name: an initializer, in old files a Constant node."""
        shape = ir.Shape(tensor_shape(tensor))
        value = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        if self.model.ir_version >= _FREE_INITIALIZERS:
            self.model.graph.register_initializer(value)
        else:
            node = ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)], outputs=[value], name=name)
            self.model.graph.insert_before(self.model.graph[0], node)
            value.const_value = None
        self.values[name] = value
        return value

    def free(self, name: str) -> str:
        """The name itself, or with a number behind it when it is taken."""
        n, base = 1, name
        while name in self.values:
            n += 1
            name = f"{base}_{n}"
        return name

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
        if change.fixed or change.regrown:
            self._hold_sizes(target, change)

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
        home(target).insert_before(target, new)
        old = target.outputs[0]
        name = old.name
        new.outputs[0].shape, new.outputs[0].type = old.shape, old.type
        old.replace_all_uses_with(new.outputs[0], replace_graph_outputs=True)
        old.name = f"{name}_replaced"
        new.outputs[0].name = name
        self.values[name or ""] = new.outputs[0]
        for part in [self.nodes[n] for n in node.fused[::-1]] or [target]:
            home(part).remove(part, safe=True)
        self.nodes[node.name] = new
        return new

    def _set_operand(self, target: ir.Node, slot: int, array: Array, factors: dict[int, tuple[int, int]]) -> None:
        """Give a node a new constant operand, or override the entries that are not COMPUTED."""
        old = target.inputs[slot] if slot < len(target.inputs) else None
        base = (old.name if old is not None else None) or f"{target.name or target.op_type}_operand{slot}"
        if array.dtype.kind == "i" and (array == COMPUTED).any():
            assert old is not None
            pieces = None if factors else self._pieces(old, array)
            if pieces is not None and len(old.uses()) == 1:
                concat = old.producer()
                assert concat is not None
                for place, piece in enumerate(pieces):
                    concat.replace_input_with(place, piece)
                return
            value = self._overridden(target, base, old, array, factors, pieces)
        elif old is not None and self._only_use(old):
            overwrite(old, np.asarray(array, np.int64))
            return
        else:
            value = self._ints(f"{base}_kept", array)
        if slot >= len(target.inputs):
            target.resize_inputs(slot + 1)
        target.replace_input_with(slot, value)
        if old is not None:
            self.touched.append(old)

    def _pieces(self, operand: ir.Value, array: Array) -> list[ir.Value] | None:
        """For sizes put together by a Concat: its parts with the fixed ones replaced; None when they do not fit."""
        concat, facts = operand.producer(), self.graph.values.get(operand.name or "")
        if concat is None or concat.op_type != "Concat" or facts is None or facts.dtype != "int64":
            return None
        pieces: list[ir.Value] = []
        start = 0
        for value in concat.inputs:
            known = self.graph.values.get(value.name or "") if value is not None else None
            if value is None or known is None or known.shape is None or len(known.shape) != 1:
                return None
            part = array[start : start + known.shape[0]]
            start += known.shape[0]
            if (part == COMPUTED).all():
                pieces.append(value)
            elif (part == COMPUTED).any():
                return None
            else:
                same = self.graph.constant(known.name)
                keep = same is not None and np.array_equal(same, part)
                pieces.append(value if keep else self._ints(f"{known.name}_kept", part))
        return pieces if start == len(array) else None

    def _overridden(
        self,
        target: ir.Node,
        base: str,
        old: ir.Value,
        array: Array,
        factors: dict[int, tuple[int, int]],
        pieces: list[ir.Value] | None,
    ) -> ir.Value:
        """Computed sizes with their fixed entries replaced and their products scaled."""
        if pieces is not None:
            return self.insert("Concat", pieces, {"axis": 0}, target)
        for op, which in (("Mul", 0), ("Div", 1)) if factors else ():
            vector = np.array([factors.get(i, (1, 1))[which] for i in range(len(array))])
            old = self.insert(op, [old, self._ints(f"{base}_{op.lower()}", vector)], {}, target)
        computed = array == COMPUTED
        return self.overlay(old, computed, np.where(computed, 1, array), target)

    def _hold_sizes(self, target: ir.Node, change: Change) -> None:
        """Hold an output of sizes at its original entries, for everything that reads it."""
        out = held = target.outputs[0]
        name, users = out.name or "", list(out.uses())
        shape = self.graph.values[name].shape
        assert shape is not None
        entries = range(int(np.prod(shape)))
        for op, which in (("Mul", 0), ("Div", 1)) if change.regrown else ():
            factors = np.array([change.regrown.get(i, (1, 1))[which] for i in entries]).reshape(shape)
            held = self._after(held, op, held, self._ints(f"{name}_{op.lower()}", factors))
        if change.fixed:
            keep = np.array([i not in change.fixed for i in entries]).reshape(shape)
            sizes = np.array([change.fixed.get(i, 0) for i in entries], np.int64).reshape(shape)
            maker = held.producer()
            assert maker is not None
            held = self.overlay(held, keep, sizes, maker, after=True)
        for user, slot in users:
            user.replace_input_with(slot, held)
        self.hand_over(out, held)

    def _after(self, value: ir.Value, op: str, *inputs: ir.Value) -> ir.Value:
        """A new node behind the one that makes a value."""
        maker = value.producer()
        assert maker is not None
        return self.insert(op, inputs, {}, maker, after=True)

    def overlay(
        self, value: ir.Value, keep: Array, other: Array | ir.Value, at: ir.Node, *, after: bool = False
    ) -> ir.Value:
        """``value`` where ``keep``, else ``other``, made beside ``at``."""
        if self.model.graph.opset_imports.get("", 1) >= WHERE_OPSET:
            fixed = other if isinstance(other, ir.Value) else self.constant(f"{value.name}_fixed", other)
            operands = [self._bools(f"{value.name}_mask", keep), value, fixed]
            return self.insert("Where", operands, {}, at, after=after)
        if isinstance(other, ir.Value):
            return mask_integers(self, value, keep, other, at)
        return mask_by_product(self, value, keep, other, at, after=after)

    def hand_over(self, old: ir.Value, new: ir.Value) -> None:
        """Give a new value the name of an old one, and its place among the graph outputs."""
        name, new.shape, new.type = old.name or "", old.shape, old.type
        replace_output(old, new)
        del self.values[new.name or ""]
        old.name = self.free(f"{name}_cut")
        new.name, self.values[old.name], self.values[name] = name, old, new

    def store(self, node: Node, slot: int, array: Array, name: str) -> None:
        """Give a node a stored operand of its own; the one it had keeps its name if nothing else reads it."""
        target = self.nodes[node.name]
        old = target.inputs[slot] if slot < len(target.inputs) else None
        if old is not None and self._only_use(old):
            overwrite(old, array)
            return
        target.resize_inputs(max(slot + 1, len(target.inputs)))
        target.replace_input_with(slot, self.constant(name, array))
        self.touched.extend([] if old is None else [old])

    def add_behind(self, node: Node, array: Array) -> None:
        """Add a constant to the first output of a node, for everything that reads it."""
        out = self.nodes[node.name].outputs[0]
        users = list(out.uses())
        held = self._after(out, "Add", out, self.constant(f"{out.name}_bias", array))
        for user, slot in users:
            user.replace_input_with(slot, held)
        self.hand_over(out, held)

    def insert(
        self,
        op: str,
        inputs: Sequence[ir.Value],
        attrs: dict[str, Any],
        at: ir.Node,
        *,
        after: bool = False,
        domain: str = "",
    ) -> ir.Value:
        """A new node beside ``at``; returns its output."""
        node = ir.node(op, inputs, attrs, domain=domain)
        out = node.outputs[0]
        name = self.free(f"{at.outputs[0].name}_{op.lower()}")
        out.name = node.name = name
        self.values[name] = out
        (home(at).insert_after if after else home(at).insert_before)(at, node)
        return out

    def _only_use(self, value: ir.Value) -> bool:
        """Whether a stored operand is read once, so that it can be changed in place."""
        stored = value.is_initializer() or _is_constant(value.producer())
        return stored and len(value.uses()) == 1 and not value.is_graph_output() and not value.is_graph_input()

    def _ints(self, name: str, array: Array) -> ir.Value:
        return self._shared(name, np.asarray(array, np.int64))

    def _bools(self, name: str, array: Array) -> ir.Value:
        return self._shared(name, np.asarray(array, np.bool_))

    def _shared(self, name: str, array: Array) -> ir.Value:
        """A constant; equal ones are written once."""
        key = (array.dtype.char, array.shape, array.tobytes())
        if key not in self._made:
            self._made[key] = self.constant(name, array)
        return self._made[key]


def _is_constant(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "Constant" and node.domain in ("", "ai.onnx")


def _attribute(name: str, value: Any) -> ir.Attr:
    if isinstance(value, int):
        return ir.AttrInt64(name, value)
    if isinstance(value, float):
        return ir.AttrFloat32(name, value)
    return ir.AttrInt64s(name, [int(v) for v in value])
