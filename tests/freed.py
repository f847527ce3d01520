"""A model in which every axis of every input and output may be cut: inputs are stored, outputs weighted and summed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

Array = NDArray[Any]


def freed(model: ModelProto, inputs: Mapping[str, Array], outputs: Mapping[str, Array], seed: int = 0) -> ModelProto:
    """The model without interface.

    Args:
        model: Any model; it is not changed.
        inputs: Content of its inputs, which become stored tensors. Floats go through a node first, so that they are
            data and not parameters.
        outputs: Its outputs; each tensor among them is multiplied by random numbers and summed.
        seed: Seed of these.
    """
    out = ModelProto()
    out.CopyFrom(model)
    graph, rng = out.graph, np.random.default_rng(seed)
    stored = {t.name for t in graph.initializer}
    front, back = [], []
    for name, array in inputs.items():
        if name in stored:
            continue
        real = array.dtype.kind == "f"
        graph.initializer.append(numpy_helper.from_array(-array if real else array, f"{name}/stored" if real else name))
        if real:
            front.append(helper.make_node("Neg", [f"{name}/stored"], [name], name=f"{name}/source"))
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
        back.append(helper.make_node("ReduceSum", [last], [f"{name}/sum"], keepdims=0, name=f"{name}/total"))
        graph.output.append(helper.make_tensor_value_info(f"{name}/sum", TensorProto.FLOAT, []))
    nodes = [*front, *graph.node, *back]
    del graph.node[:]
    graph.node.extend(nodes)
    kept = [v for v in graph.input if v.name not in inputs and v.name in {t.name for t in graph.initializer}]
    if out.ir_version < 4:
        out.ir_version = 4
    del graph.input[:]
    graph.input.extend(kept)
    return out
