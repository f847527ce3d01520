"""The masked reference: the original graph that ignores removed positions without losing them.

Where a node sums over an axis, removed positions are set to zero in front of it; where it takes statistics, it
runs on the kept positions and its result is spread out again. Everything else stays as it was, at full width,
so an error in a coupling rule, in a slice or in an edited attribute shows as a difference. A removed position whose
constant the reader takes over is not masked at all: were it no constant, that would show as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.coupling.cut import Cut, Mask
from graphprune.graph.model import Array, Bypass, Node
from graphprune.rewrite.surgeon import Surgeon
from graphprune.rewrite.values import forget_shape
from graphprune.rules.context import Site


def masked_reference(cut: Cut) -> ir.Model:
    """The original model with the removed positions of ``cut`` masked at every consumer.

    Where branches were bypassed it is the model that has them still, with each of them masked in whole.
    """
    surgeon = Surgeon(cut, cut.deps.source.origin.source)
    for bypass in cut.deps.source.bypassed:
        _mask_branch(surgeon, bypass)
    by_node: dict[str, list[Site]] = {}
    free = {(f.node, slot): f.free for f in cut.folds for slot, _ in f.sites}
    for site in cut.deps.sites:
        if cut.kept(_input(cut, site), site.axis) is not None:
            by_node.setdefault(site.node, []).append(site)
    for node in cut.deps.source.nodes:
        sites = by_node.get(node.name, [])
        if any(s.mode == "restrict" for s in sites):
            _run_restricted(surgeon, node)
            continue
        for slot, axis, fill in sorted({(s.slot, s.axis, s.fill) for s in sites}):
            _mask_input(surgeon, node, slot, axis, fill, free.get((node.name, slot)))
    interface = {id(v) for v in (*surgeon.model.graph.inputs, *surgeon.model.graph.outputs)}
    for value in surgeon.values.values():
        if value.const_value is None and id(value) not in interface:
            forget_shape(value)
    return surgeon.model


def _mask_branch(surgeon: Surgeon, bypass: Bypass) -> None:
    """Add zeros in the place of a summand that is left out; the branch itself still runs."""
    target, facts = surgeon.nodes[bypass.node], surgeon.graph.origin.values[bypass.branch]
    value = target.inputs[bypass.slot]
    assert value is not None
    assert facts.shape is not None
    nothing = np.zeros((), ir.DataType[facts.dtype.upper()].numpy())
    everywhere = np.zeros([1] * len(facts.shape), np.bool_)
    target.replace_input_with(bypass.slot, surgeon.overlay(value, everywhere, nothing, target))


def _input(cut: Cut, site: Site) -> str:
    return next(n for n in cut.deps.source.nodes if n.name == site.node).inputs[site.slot]


def _mask_input(surgeon: Surgeon, node: Node, slot: int, axis: int, fill: int, free: Mask | None) -> None:
    """Read an input with zeros at its removed positions that are not free; infinities must not leak either.

    In front of integer sums zero is the operand's zero point. A value that comes out of a DequantizeLinear is masked
    before it: the same values, and the runtime still finds the pattern that it runs in integers.
    """
    target = surgeon.nodes[node.name]
    value = target.inputs[slot]
    assert value is not None
    facts = surgeon.graph.values[node.inputs[slot]]
    assert facts.shape is not None
    mask, repeats = _mask(surgeon.cut, node.inputs[slot], axis, facts.shape)
    if free is not None and repeats is None:
        mask = mask | free.reshape([-1 if a == axis else 1 for a in range(len(facts.shape))])
        if mask.all():
            return
    nothing = np.zeros((), ir.DataType[facts.dtype.upper()].numpy())
    if repeats is not None:
        shape, split = _split_shape(surgeon, value, repeats, mask.shape[repeats + 1], mask.ndim - 1, target)
        wide = surgeon.overlay(surgeon.insert("Reshape", [value, split], {}, target), mask, nothing, target)
        target.replace_input_with(slot, surgeon.insert("Reshape", [wide, shape], {}, target))
        return
    zero = target.inputs[fill] if fill >= 0 else None
    if zero is not None:
        masked = surgeon.overlay(value, mask, zero, target)
    elif (integers := _integer_zero(surgeon, value)) is not None:
        masked = _mask_integers(surgeon, value, integers, mask, target)
    else:
        masked = surgeon.overlay(value, mask, nothing, target)
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


def _split_shape(
    surgeon: Surgeon, value: ir.Value, axis: int, inner: int, rank: int, at: ir.Node
) -> tuple[ir.Value, ir.Value]:
    """The shape of a value of some rank, and the same with one axis as (the rest, ``inner``)."""
    shape = surgeon.insert("Shape", [value], {}, at)
    front, back = (
        surgeon.insert("Gather", [shape, surgeon.constant(f"{value.name}_axes", np.arange(*ends))], {"axis": 0}, at)
        for ends in ((0, axis), (axis + 1, rank))
    )
    middle = surgeon.constant(f"{value.name}_split", np.array([-1, inner]))
    return shape, surgeon.insert("Concat", [front, middle, back], {"axis": 0}, at)


def _run_restricted(surgeon: Surgeon, node: Node) -> None:
    """Run a node on the kept positions only and spread its outputs out; what lands on removed ones is noise."""
    target, cut = surgeon.nodes[node.name], surgeon.cut
    change = cut.edit(node)
    if change is not None:
        surgeon.apply(node, change)
    for slot, name in enumerate(node.inputs):
        shape = _shape(surgeon, name)
        box = cut.box(name, len(shape))
        for axis, (block, lists) in box.ragged.items():
            _gather_ragged(surgeon, target, slot, (block, axis), len(shape), lists)
        for axis, kept in box.axes.items():
            if axis not in box.ragged:
                _gather(surgeon, target, slot, axis, kept)
    for slot, name in enumerate(node.outputs):
        shape = _shape(surgeon, name)
        box = cut.box(name, len(shape))
        for axis, (block, lists) in box.ragged.items():  # comes after the plain ones, which are put in between
            _spread_ragged(surgeon, target, slot, (block, axis), len(shape), _spreading(lists, shape[axis]))
        for axis, kept in box.axes.items():
            if axis not in box.ragged:
                _spread(surgeon, target, slot, axis, _spreading(kept[None], shape[axis])[0])


def _shape(surgeon: Surgeon, name: str) -> tuple[int, ...]:
    return (surgeon.graph.values[name].shape or ()) if name else ()


def _mask(cut: Cut, name: str, axis: int, shape: Sequence[int]) -> tuple[Array, int | None]:
    """True at kept positions of an axis, of a shape that broadcasts to the value's.

    Where the axis of the blocks follows the input size, batch times heads, its number comes with the mask, which
    has two axes in its place.
    """
    ragged = cut.ragged(name, axis)
    sizes = [1] * len(shape)
    sizes[axis] = shape[axis]
    kept = cut.kept(name, axis)
    if ragged is None or kept is None:
        mask = np.zeros(shape[axis], np.bool_)
        mask[kept] = True
        return mask.reshape(sizes), None
    block, lists = ragged
    table = np.zeros((len(lists), shape[axis]), np.bool_)
    np.put_along_axis(table, lists, values=True, axis=1)
    sizes[block] = len(lists)
    mask = (table if block < axis else table.T).reshape(sizes)
    axes = cut.deps.types[name][block]
    repeats = axes is not None and bool(axes.parts)
    return (np.expand_dims(mask, block), block) if repeats else (mask, None)


def _spreading(lists: Array, n: int) -> Array:
    """For rows of kept positions the index that puts what was gathered back in its place, shape (rows, n)."""
    out = np.zeros((len(lists), n), np.int64)
    np.put_along_axis(out, lists, np.arange(lists.shape[1])[None], axis=1)
    return out


def _gather(surgeon: Surgeon, target: ir.Node, slot: int, axis: int, index: Array) -> None:
    value = target.inputs[slot]
    assert value is not None
    operand = surgeon.constant(f"{value.name}_kept_index", np.asarray(index, np.int64))
    target.replace_input_with(slot, surgeon.insert("Gather", [value, operand], {"axis": axis}, target))


def _spread(surgeon: Surgeon, target: ir.Node, slot: int, axis: int, index: Array) -> None:
    value = target.outputs[slot]
    users = list(value.uses())
    operand = surgeon.constant(f"{value.name}_spread_index", index)
    wide = surgeon.insert("Gather", [value, operand], {"axis": axis}, target, after=True)
    for user, place in users:
        user.replace_input_with(place, wide)
    if value.is_graph_output():
        surgeon.hand_over(value, wide)


def _gather_ragged(
    surgeon: Surgeon, target: ir.Node, slot: int, axes: tuple[int, int], rank: int, lists: Array
) -> None:
    value = target.inputs[slot]
    assert value is not None
    for op, operands, attrs in _by_block(surgeon, value, axes, rank, lists):
        value = surgeon.insert(op, [value, *operands], attrs, target)
    target.replace_input_with(slot, value)


def _spread_ragged(
    surgeon: Surgeon, target: ir.Node, slot: int, axes: tuple[int, int], rank: int, index: Array
) -> None:
    value = target.outputs[slot]
    users = list(value.uses())
    for op, operands, attrs in _by_block(surgeon, value, axes, rank, index):
        at = value.producer()
        assert at is not None
        value = surgeon.insert(op, [value, *operands], attrs, at, after=True)
    for user, place in users:
        user.replace_input_with(place, value)
    if target.outputs[slot].is_graph_output():
        surgeon.hand_over(target.outputs[slot], value)


def _by_block(
    surgeon: Surgeon, value: ir.Value, axes: tuple[int, int], rank: int, lists: Array
) -> Iterator[tuple[str, list[ir.Value], dict[str, Any]]]:
    """Reading an axis at other positions in every block: both brought to the front, read as pairs, and put back."""
    perm = [*axes, *(a for a in range(rank) if a not in axes)]
    rows = np.broadcast_to(np.arange(len(lists))[:, None], lists.shape)
    pairs = np.stack([rows, lists], axis=2).astype(np.int64)
    yield "Transpose", [], {"perm": perm}
    yield "GatherND", [surgeon.constant(f"{value.name}_pairs", pairs)], {}
    yield "Transpose", [], {"perm": np.argsort(perm).tolist()}
