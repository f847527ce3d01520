"""Whether a rewritten model is a valid file with the interface of the original."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from graphprune.graph.sizes import SMALL, cloned


def changed_interface(original: ir.Model, pruned: ir.Model) -> str:
    """Empty when graph inputs and outputs kept their names, order, dtypes and (symbolic) sizes; else what changed."""
    for kind, old, new in (
        ("inputs", original.graph.inputs, pruned.graph.inputs),
        ("outputs", original.graph.outputs, pruned.graph.outputs),
    ):
        before = [_signature(v) for v in old if v.name not in original.graph.initializers]
        after = [_signature(v) for v in new if v.name not in pruned.graph.initializers]
        if before != after:
            wrong = next((f"{a} became {b}" for a, b in zip(before, after, strict=False) if a != b), "their number")
            return f"graph {kind} changed: {wrong}"
    return ""


def _signature(value: ir.Value) -> str:
    return f"{value.name} {value.dtype} {value.shape}"


def check_valid(model: ir.Model, original: ir.Model | None = None) -> str:
    """Empty when onnx's checker and strict shape inference accept the model, else their first complaint.

    What they find wrong with the original in the same words is not held against the model.
    """
    problem = _complaint(model)
    return "" if problem and original is not None and problem == _complaint(original) else problem


def _complaint(model: ir.Model) -> str:
    light = _without_data(model)
    try:
        onnx.checker.check_model(light)
        onnx.shape_inference.infer_shapes(light, check_type=True, strict_mode=True)
    except Exception as error:
        return str(error).strip().splitlines()[0][:300]
    return ""


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
