"""Models of opsets that nothing at hand runs, in a later one."""

from __future__ import annotations

import onnx


def upgraded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Models before opset 7, which nothing at hand runs, in opset 7: second operands get their place by Unsqueeze."""
    if model.opset_import[0].version >= 7:
        return model
    model = onnx.shape_inference.infer_shapes(model)
    values = (*model.graph.input, *model.graph.value_info)
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in values}
    ranks.update({t.name: len(t.dims) for t in model.graph.initializer})
    nodes = []
    for node in model.graph.node:
        attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        place = 1 if node.op_type == "PRelu" else attrs.get("axis") if attrs.get("broadcast") else None
        if place is not None and ranks[node.input[0]] > place + ranks[node.input[1]]:
            axes = list(range(ranks[node.input[1]], ranks[node.input[0]] - place))
            nodes.append(onnx.helper.make_node("Unsqueeze", [node.input[1]], [f"{node.name}_placed"], axes=axes))
            node.input[1] = f"{node.name}_placed"
        for name in ("axis", "broadcast") if "broadcast" in attrs else ():
            node.attribute.remove(next(a for a in node.attribute if a.name == name)) if name in attrs else None
        nodes.append(node)
    out = onnx.helper.make_graph(nodes, "upgraded", model.graph.input, model.graph.output, model.graph.initializer)
    return onnx.helper.make_model(out, opset_imports=[onnx.helper.make_opsetid("", 7)], ir_version=model.ir_version)
