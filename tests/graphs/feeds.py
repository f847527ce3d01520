"""Random inputs for a model, and a plain run in onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto


def random_feeds(model: ModelProto, seed: int = 0, sizes: Mapping[str, int] | None = None) -> dict[str, NDArray[Any]]:
    """One random array per graph input; symbolic dimensions get ``sizes[name]`` or 2."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, NDArray[Any]] = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [(sizes or {}).get(d.dim_param, 2) if d.dim_param else d.dim_value for d in kind.shape.dim]
        if kind.elem_type == TensorProto.INT64:
            feeds[value.name] = rng.integers(0, 4, shape)
        elif kind.elem_type == TensorProto.BOOL:
            feeds[value.name] = np.asarray(rng.random(shape) > 0.5)
        else:
            feeds[value.name] = rng.standard_normal(shape).astype(np.float32)
    return feeds


def run(model: ModelProto, feeds: Mapping[str, NDArray[Any]], *, optimize: bool = False) -> list[NDArray[Any]]:
    """The outputs of ``model``; graph optimisations are off unless asked for."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))
