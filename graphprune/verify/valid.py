"""Whether a rewritten model is a valid file with the interface of the original."""

from __future__ import annotations

import re

import onnx
import onnx_ir as ir

from graphprune.coupling.cut import Cut
from graphprune.graph.sizes import SMALL, cloned

_FOREIGN_DOMAIN = "graphprune.unchecked"
_FOREIGN = {"SimplifiedLayerNormalization"}


def changed_interface(cut: Cut, pruned: ir.Model) -> str:
    """Empty when graph inputs and outputs kept their names, order, dtypes and (symbolic) sizes; else what changed.

    Axes of those that the cut shrinks have their new size.
    """
    original = cut.deps.source.origin.source
    for kind, old, new in (
        ("inputs", original.graph.inputs, pruned.graph.inputs),
        ("outputs", original.graph.outputs, pruned.graph.outputs),
    ):
        before = [_signature(v, cut) for v in old if v.name not in original.graph.initializers]
        after = [_signature(v) for v in new if v.name not in pruned.graph.initializers]
        if before != after:
            wrong = next((f"{a} became {b}" for a, b in zip(before, after, strict=False) if a != b), "their number")
            return f"graph {kind} changed: {wrong}"
    return ""


def _signature(value: ir.Value, cut: Cut | None = None) -> str:
    shape = value.shape
    if cut is not None and shape is not None:
        kept = [cut.kept(value.name or "", a) for a in range(len(shape))]
        shape = ir.Shape([n if k is None else len(k) for n, k in zip(shape, kept, strict=True)])
    return f"{value.name} {value.dtype} {shape}"


def check_valid(model: ir.Model, original: ir.Model | None = None) -> str:
    """Empty when onnx's checker and strict shape inference accept the model, else their first complaint.

    What they find wrong with the original in the same words, sizes aside, is not held against the model.
    """
    problem = _complaint(model)
    if problem and original is not None and _wording(problem) == _wording(_complaint(original)):
        return ""
    return problem


def _wording(problem: str) -> str:
    return re.sub(r"\d+", "#", problem)


def _complaint(model: ir.Model) -> str:
    light = _without_data(model)
    try:
        _move_foreign(light)
        onnx.checker.check_model(light)
        onnx.shape_inference.infer_shapes(light, check_type=True, strict_mode=True)
    except Exception as error:
        return str(error).strip().splitlines()[0][:300]
    return ""


def _move_foreign(model: onnx.ModelProto) -> None:
    """Operators that onnxruntime keeps in onnx's own domain: the checker would take them for mistakes."""
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    moved = False
    for node in model.graph.node:
        foreign = node.op_type in _FOREIGN and node.domain in ("", "ai.onnx")
        if foreign and not onnx.defs.has(node.op_type, version, ""):
            node.domain, moved = _FOREIGN_DOMAIN, True
    if moved:
        model.opset_import.append(onnx.helper.make_opsetid(_FOREIGN_DOMAIN, 1))


def _without_data(model: ir.Model) -> onnx.ModelProto:
    """The model with large initializers turned into inputs: the structure alone is checked."""
    clone = cloned(model)
    for name, value in list(clone.graph.initializers.items()):
        if value.const_value is not None and value.const_value.nbytes > SMALL:
            del clone.graph.initializers[name]
            value.const_value = None
            if not value.is_graph_input():
                clone.graph.inputs.append(value)
    return ir.to_proto(clone)
