"""The masked reference: the original graph that ignores removed positions without losing them.

Where a node sums over an axis, removed positions are set to zero in front of it; where it takes statistics, it
runs on the kept positions and its result is spread out again. Everything else stays as it was, at full width,
so an error in a coupling rule, in a slice or in an edited attribute shows as a difference. A removed position whose
constant the reader takes over is not masked at all: were it no constant, that would show as well.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphprune.coupling.cut import Cut, Mask
from graphprune.graph.model import Node
from graphprune.rewrite.surgeon import Surgeon
from graphprune.rules.context import Site


def masked_reference(cut: Cut) -> ir.Model:
    """The original model with the removed positions of ``cut`` masked at every consumer."""
    surgeon = Surgeon(cut)
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
        for slot, axis in sorted({(s.slot, s.axis) for s in sites}):
            _mask_input(surgeon, node, slot, axis, free.get((node.name, slot)))
    for value in surgeon.values.values():
        if value.const_value is None and not value.is_graph_input() and not value.is_graph_output():
            value.shape = None
    return surgeon.model


def _input(cut: Cut, site: Site) -> str:
    return next(n for n in cut.deps.source.nodes if n.name == site.node).inputs[site.slot]


def _mask_input(surgeon: Surgeon, node: Node, slot: int, axis: int, free: Mask | None) -> None:
    """Read an input with zeros at its removed positions that are not free; infinities must not leak either."""
    target = surgeon.nodes[node.name]
    value = target.inputs[slot]
    assert value is not None
    facts = surgeon.graph.values[node.inputs[slot]]
    assert facts.shape is not None
    kept = surgeon.cut.kept(node.inputs[slot], axis)
    mask = np.zeros(facts.shape[axis], np.bool_)
    mask[kept] = True
    if free is not None:
        mask |= free
        if mask.all():
            return
    mask = mask.reshape([-1 if a == axis else 1 for a in range(len(facts.shape))])
    zero = np.zeros((), ir.DataType[facts.dtype.upper()].numpy())
    target.replace_input_with(slot, surgeon.overlay(value, mask, zero, target))


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
