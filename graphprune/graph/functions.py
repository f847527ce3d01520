"""Operators that no rule describes but onnx defines by others: they are written out before the model is looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import onnx_ir as ir
from onnx import defs
from onnx_ir.passes.common import InlinePass, ShapeInferencePass

from graphprune.graph.types import container_of, type_proto

_DOMAIN = "graphprune.body"
_STANDARD = ("", "ai.onnx")


def has_body(schema: Any) -> bool:
    """Whether onnx defines an operator by others."""
    return bool(schema.has_function or schema.has_context_dependent_function)


def bodies_written_out(model: ir.Model, ruled: Callable[[str], bool]) -> ir.Model:
    """The model with every operator that has no rule but a body of others replaced by that body.

    Args:
        model: Any model; it is not changed.
        ruled: Whether an operator, such as "Conv" or "com.microsoft.Attention", has a rule.

    Returns:
        The model itself where there is no such operator, else a changed clone.
    """
    if not any(_schema(model, node, ruled) for node in model.graph.all_nodes()):
        return model
    clone = model.clone()
    if any(_by_types(_schema(clone, node, ruled)) for node in clone.graph.all_nodes()):
        ShapeInferencePass(strict_mode=False)(clone)  # such a body depends on the types of the inputs
    for index, node in enumerate(list(clone.graph.all_nodes())):
        schema = _schema(clone, node, ruled)
        function = None if schema is None else _body(clone, node, schema)
        if schema is None or function is None:
            continue
        for name, attribute in schema.attributes.items():
            if name not in node.attributes and attribute.default_value.name:
                node.attributes[name] = ir.from_proto(attribute.default_value)
        node.domain, node.op_type = _DOMAIN, f"{node.op_type}_{index}"
        for place, inner in enumerate(function):
            inner.name = f"{node.name or schema.name}/{inner.op_type}_{place}"
        attributes = list(function.attributes.values())
        called = ir.Function(node.domain, node.op_type, graph=function.graph, attributes=attributes)
        called.opset_imports.clear()
        called.opset_imports[""] = clone.opset_imports.get("", 1)
        clone.functions[called.identifier()] = called
    try:
        InlinePass(lambda function: function.domain == _DOMAIN)(clone)
    except Exception:  # a body that does not fit this model: the operator freezes what it touches
        return model
    return clone


def _schema(model: ir.Model, node: ir.Node, ruled: Callable[[str], bool]) -> Any:
    """The schema of an operator that is to be written out."""
    domain = "" if node.domain in _STANDARD else node.domain
    key = f"{domain}.{node.op_type}" if domain else node.op_type
    version = model.opset_imports.get(domain, 1)
    if ruled(key) or not defs.has(node.op_type, version, domain):
        return None
    schema = defs.get_schema(node.op_type, version, domain)
    return schema if has_body(schema) and node.op_identifier() not in model.functions else None


def _by_types(schema: Any) -> bool:
    return schema is not None and not schema.has_function


def _body(model: ir.Model, node: ir.Node, schema: Any) -> ir.Function | None:
    """The body for this node in the model's opset; None when there is none for it."""
    version = model.opset_imports.get(schema.domain, 1)
    try:
        if schema.has_function:
            text = schema.get_function_with_opset_version(version)
        else:
            types = [type_proto(_type(v)).SerializeToString() if v is not None else b"" for v in node.inputs]
            proto = ir.to_proto(node).SerializeToString()
            text = schema.get_context_dependent_function_with_opset_version(version, proto, types)
    except (RuntimeError, ValueError):
        return None
    function = onnx.FunctionProto.FromString(text)
    del function.output[len(node.outputs) :]  # those that this call does not use may be made by nothing
    needs = max((o.version for o in function.opset_import if o.domain in _STANDARD), default=1)
    if not function.node or needs > model.opset_imports.get("", 1):
        return None
    made = {*function.input, *(name for inner in function.node for name in inner.output)}
    return ir.from_proto(function) if made.issuperset(function.output) else None


def _type(value: ir.Value) -> tuple[int, tuple[int, ...] | None, str]:
    sizes = None if value.shape is None else tuple(d if isinstance(d, int) else -1 for d in value.shape)
    return int(value.dtype or 0), sizes, container_of(value)
