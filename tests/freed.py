"""A model in which every axis of every input and output may be cut: inputs are stored, outputs weighted and summed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, defs, helper, numpy_helper

Array = NDArray[Any]
SETTINGS = {"scales", "roi", "ratio"}  # floats that are no data, by their usual names


def freed(model: ModelProto, inputs: Mapping[str, Array], outputs: Mapping[str, Array], seed: int = 0) -> ModelProto:
    """The model without interface.

    Args:
        model: Any model; it is not changed.
        inputs: Content of its inputs, which become stored tensors. Floats go through a node first, so that they are
            data and not parameters; where there are no floats, the others do.
        outputs: Its outputs; each is multiplied by random numbers and summed, see :func:`summed`.
        seed: Seed of these.
    """
    out = ModelProto()
    out.CopyFrom(model)
    _lower(out)
    graph, rng = out.graph, np.random.default_rng(seed)
    stored = {t.name for t in graph.initializer}
    given = {n: a for n, a in inputs.items() if n not in stored}
    reals = any(a.dtype.kind == "f" and n not in SETTINGS for n, a in given.items())
    front, back = [], []
    for name, array in given.items():
        if name in SETTINGS or (reals and array.dtype.kind != "f") or not array.size:
            graph.initializer.append(numpy_helper.from_array(array, name))
            continue
        if array.dtype.kind == "f":
            content, node = -array, helper.make_node("Neg", [f"{name}/stored"], [name])
        else:
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            content = array.astype(np.float32)
            node = helper.make_node("Cast", [f"{name}/stored"], [name], to=kind)
        graph.initializer.append(numpy_helper.from_array(np.asarray(content), f"{name}/stored"))
        front.append(node)
    del graph.output[:]
    for name, array in outputs.items():
        last = name
        if array.dtype != np.float32:
            back.append(helper.make_node("Cast", [last], [f"{name}/real"], to=TensorProto.FLOAT))
            last = f"{name}/real"
        if array.shape:
            scale = rng.standard_normal(array.shape).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(scale, f"{name}/scale"))
            back.append(helper.make_node("Mul", [last, f"{name}/scale"], [f"{name}/scaled"]))
            last = f"{name}/scaled"
        back += summed(last, f"{name}/sum")
        graph.output.append(helper.make_tensor_value_info(f"{name}/sum", TensorProto.FLOAT, []))
    nodes = [*front, *graph.node, *back]
    del graph.node[:]
    graph.node.extend(nodes)
    kept = [v for v in graph.input if v.name in stored]
    del graph.input[:]
    graph.input.extend(kept)
    out.ir_version = max(out.ir_version, 4)
    return out


def summed(value: str, out: str) -> list[NodeProto]:
    """The sum of a value and of twice its magnitudes: it tells signs apart, and rounding cannot be all that is left."""
    ends = {"keepdims": 0}
    return [
        helper.make_node("ReduceSum", [value], [f"{out}_signed"], **ends),
        helper.make_node("ReduceL1", [value], [f"{out}_magnitude"], **ends),
        helper.make_node("Add", [f"{out}_signed", f"{out}_magnitude"], [f"{out}_positive"]),
        helper.make_node("Add", [f"{out}_positive", f"{out}_magnitude"], [out]),
    ]


def _lower(model: ModelProto) -> None:
    """Take the newest opset that onnxruntime knows where the operators are the same in it."""
    opset = next((o for o in model.opset_import if not o.domain), None)
    if opset is None:
        model.opset_import.append(helper.make_opsetid("", 13))
    elif opset.version > newest_opset():
        names = {n.op_type for n in model.graph.node if not n.domain}
        if all(defs.get_schema(n, opset.version).since_version <= newest_opset() for n in names):
            opset.version = newest_opset()


@cache
def newest_opset() -> int:
    """The newest opset of the default domain that onnxruntime runs."""
    for version in range(defs.onnx_opset_version(), 0, -1):
        value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy"]
        graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "probe", value[:1], value[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=10)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            ort.InferenceSession(model.SerializeToString(), options)
        except Exception:
            continue
        return version
    raise AssertionError("onnxruntime runs nothing")
