"""The masked reference: the original graph that ignores removed positions without losing them.

Where a node sums over an axis, removed positions are set to zero in front of it; where it takes statistics, it
runs on the kept positions and its result is spread out again. Everything else stays as it was, at full width,
so an error in a coupling rule, in a slice or in an edited attribute shows as a difference.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from graphprune.coupling.cut import Cut
from graphprune.graph.model import Node
from graphprune.rewrite.surgeon import Surgeon, forget_shape
from graphprune.rules.context import Site


def masked_reference(cut: Cut) -> ir.Model:
    """The original model with the removed positions of ``cut`` masked at every consumer."""
    surgeon = Surgeon(cut)
    by_node: dict[str, list[Site]] = {}
    for site in cut.deps.sites:
        if cut.kept(_input(cut, site), site.axis) is not None:
            by_node.setdefault(site.node, []).append(site)
    for node in cut.deps.source.nodes:
        sites = by_node.get(node.name, [])
        if any(s.mode == "restrict" for s in sites):
            _run_restricted(surgeon, node)
            continue
        for slot, axis, fill in sorted({(s.slot, s.axis, s.fill) for s in sites}):
            _mask_input(surgeon, node, slot, axis, fill)
    interface = {id(v) for v in (*surgeon.model.graph.inputs, *surgeon.model.graph.outputs)}
    for value in surgeon.values.values():
        if value.const_value is None and id(value) not in interface:
            forget_shape(value)
    return surgeon.model


def _input(cut: Cut, site: Site) -> str:
    return next(n for n in cut.deps.source.nodes if n.name == site.node).inputs[site.slot]


def _mask_input(surgeon: Surgeon, node: Node, slot: int, axis: int, fill: int) -> None:
    """Read an input with zeros at its removed positions; infinities there must not leak either.

    In front of integer sums zero is the operand's zero point. A value that comes out of a DequantizeLinear is masked
    before it: the same values, and the runtime still finds the pattern that it runs in integers.
    """
    target = surgeon.nodes[node.name]
    value = target.inputs[slot]
    assert value is not None
    facts = surgeon.graph.values[node.inputs[slot]]
    assert facts.shape is not None
    kept = surgeon.cut.kept(node.inputs[slot], axis)
    mask = np.zeros(facts.shape[axis], np.bool_)
    mask[kept] = True
    mask = mask.reshape([-1 if a == axis else 1 for a in range(len(facts.shape))])
    zero = target.inputs[fill] if fill >= 0 else None
    if zero is not None:
        masked = surgeon.overlay(value, mask, zero, target)
    elif (integers := _integer_zero(surgeon, value)) is not None:
        masked = _mask_integers(surgeon, value, integers, mask, target)
    else:
        masked = surgeon.overlay(value, mask, np.zeros((), ir.DataType[facts.dtype.upper()].numpy()), target)
    target.replace_input_with(slot, masked)


def _integer_zero(surgeon: Surgeon, value: ir.Value) -> ir.Value | np.ndarray | None:
    """What stands for zero in the 8-bit integers that a DequantizeLinear makes a value of; None if it is not so."""
    maker = value.producer()
    if maker is None or maker.op_type != "DequantizeLinear" or maker.graph is not surgeon.model.graph:
        return None
    source, zero = maker.inputs[0], maker.inputs[2] if len(maker.inputs) > 2 else None
    if source is None or (dtype := _dtype(surgeon, source)) not in (ir.DataType.INT8, ir.DataType.UINT8):
        return None
    if zero is None:
        return np.zeros((), dtype.numpy())
    if zero.shape is not None and math.prod(zero.shape.numpy()) == 1:
        return zero
    known, facts = surgeon.graph.constant(zero.name or ""), surgeon.graph.values.get(source.name or "")
    rank = len(facts.shape or ()) if facts is not None else 0
    if known is None or known.ndim != 1 or not rank:
        return None
    axis = maker.attributes.get_int("axis", 1) % rank
    return known.reshape([-1 if a == axis else 1 for a in range(rank)])


def _dtype(surgeon: Surgeon, value: ir.Value) -> ir.DataType:
    """Element type of a value, whether the file states it or not."""
    facts = surgeon.graph.values.get(value.name or "")
    known = ir.DataType[facts.dtype.upper()] if facts is not None and facts.dtype else None
    return value.dtype or known or ir.DataType.UNDEFINED


def _mask_integers(
    surgeon: Surgeon, value: ir.Value, zero: ir.Value | np.ndarray, mask: np.ndarray, target: ir.Node
) -> ir.Value:
    """The value dequantised once more, from masked integers."""
    maker = value.producer()
    assert maker is not None
    source = maker.inputs[0]
    assert source is not None
    masked = surgeon.overlay(source, mask, zero, target)
    masked.type = ir.TensorType(_dtype(surgeon, source))
    operands = [masked, *(v for v in maker.inputs[1:] if v is not None)]
    attrs = {k: a.value for k, a in maker.attributes.items()}
    return surgeon.insert("DequantizeLinear", operands, attrs, target, domain=maker.domain)


def _run_restricted(surgeon: Surgeon, node: Node) -> None:
    """Run a node on the kept positions only and spread its outputs out; what lands on removed ones is noise."""
    target, cut = surgeon.nodes[node.name], surgeon.cut
    change = cut.edit(node)
    if change is not None:
        surgeon.apply(node, change)
    for slot, name in enumerate(node.inputs):
        shape = surgeon.graph.values[name].shape if name else ()
        for axis in range(len(shape or ())):
            kept = cut.kept(name, axis)
            if kept is not None:
                _gather(surgeon, target, slot, axis, kept)
    for slot, name in enumerate(node.outputs):
        shape = surgeon.graph.values[name].shape if name else ()
        for axis, size in enumerate(shape or ()):
            kept = cut.kept(name, axis)
            if kept is not None:
                spread = np.zeros(size, np.int64)
                spread[kept] = np.arange(len(kept))
                _spread(surgeon, target, slot, axis, spread)


def _gather(surgeon: Surgeon, target: ir.Node, slot: int, axis: int, index: np.ndarray) -> None:
    value = target.inputs[slot]
    assert value is not None
    operand = surgeon.constant(f"{value.name}_kept_index", np.asarray(index, np.int64))
    target.replace_input_with(slot, surgeon.insert("Gather", [value, operand], {"axis": axis}, target))


def _spread(surgeon: Surgeon, target: ir.Node, slot: int, axis: int, index: np.ndarray) -> None:
    value = target.outputs[slot]
    users = list(value.uses())
    operand = surgeon.constant(f"{value.name}_spread_index", index)
    wide = surgeon.insert("Gather", [value, operand], {"axis": axis}, target, after=True)
    for user, place in users:
        user.replace_input_with(place, wide)
    if value.is_graph_output():
        surgeon.hand_over(value, wide)
