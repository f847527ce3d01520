"""What is refused before anything is worked out: graphs and weights that no runtime would make sense of."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import onnx_ir as ir

from graphprune.errors import InputError
from graphprune.graph.model import Graph
from graphprune.graph.scopes import tensor_shape

_CONTRACTIONS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN"}
_FLOATS = {"float", "double", "float16", "bfloat16"}


def sort_nodes(model: ir.Model) -> None:
    """Put nodes behind what they read, which some tools do not see to; a cycle is left to be refused by name."""
    seen: set[ir.Node] = set()
    for node in model.graph:
        makers = (v.producer() for v in node.inputs if v is not None)
        if any(m is not None and m.graph is model.graph and m not in seen for m in makers):
            with suppress(ValueError):
                model.graph.sort()
            return
        seen.add(node)


def check_structure(model: ir.Model, name: str) -> None:
    """Refuse what no runtime would load: cycles, undefined values, duplicate outputs, zero-size weights."""
    graph = model.graph
    known = {v.name for v in graph.inputs} | set(graph.initializers)
    for node in graph:
        for value in node.inputs:
            if value is not None and value.name and value.name not in known:
                made = value.producer() is not None
                cause = "comes later or forms a cycle" if made else "is produced by nothing"
                raise InputError(f"{name}: node {node.name or node.op_type}: input {value.name} {cause}")
        for value in node.outputs:
            if value.name and value.name in known:
                raise InputError(f"{name}: node {node.name or node.op_type}: output {value.name} is defined twice")
            known.add(value.name)
    for value in graph.outputs:
        if value.name not in known:
            raise InputError(f"{name}: graph output {value.name} is produced by nothing")
    _check_weight_sizes(model, name)


def _check_weight_sizes(model: ir.Model, name: str) -> None:
    """Weights without elements have nothing to contract with. Elsewhere empty tensors are fine: a Resize's roi."""
    for node in model.graph:
        if node.op_type not in _CONTRACTIONS or node.domain not in ("", "ai.onnx"):
            continue
        for value in node.inputs:
            stored = model.graph.initializers.get(value.name or "") if value is not None else None
            if stored is not None and stored.const_value is not None and 0 in tensor_shape(stored.const_value):
                shape = "x".join(str(n) for n in tensor_shape(stored.const_value))
                raise InputError(
                    f"{name}: node {node.name or node.op_type}: weight {stored.name} has no elements ({shape})"
                )


def refuse_nan(graph: Graph) -> None:
    """Refuse weights that hold NaN: no ranking and no comparison means anything with them.

    Raises:
        InputError: A weight holds NaN.
    """
    seen: set[str] = set()
    for weight in graph.weights.values():
        if weight.source in seen or weight.origin in ("fill", "shape") or weight.dtype not in _FLOATS:
            continue
        seen.add(weight.source)
        array = weight.read()
        if array.size and np.isnan(np.min(array)):
            raise InputError(f"{graph.name}: weight {weight.source} holds NaN values; repair the model first")
