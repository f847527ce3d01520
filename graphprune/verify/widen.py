"""Models in other float types, read in float32 to compare them.

float16 and bfloat16 networks keep their types in the file. Read in float32 their numbers are the same, their sums are
not rounded to three digits, so a comparison sees what would drown in that noise; and the runtime has kernels for all
of them, which it has not for bfloat16. float64 networks are read so where it has no kernels for them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from graphprune.graph.model import Array, Graph

_READ = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}
_LARGE = 1 << 30  # bytes of weights from which the half types are only widened where they have to be
_NAMED = ("to", "dtype", "output_dtype", "stash_type")  # attributes that name an element type


def readings(graph: Graph, stored: int) -> tuple[bool, ...]:
    """Ways to run a model, best first: True in float32, False as it is.

    Args:
        graph: The model.
        stored: Bytes of its weights.
    """
    types = {v.dtype for v in graph.values.values()}
    if "bfloat16" in types or ("float16" in types and stored < _LARGE):
        return True, False
    return (False, True) if types & {"float16", "double"} else (False,)


def in_float32(model: ir.Model) -> ir.Model:
    """The model with float32 in the place of bfloat16 and float64, subgraphs included."""
    clone = model.clone()
    for graph in clone.graphs():
        for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
            _retype(value)
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype in _READ:
                value.const_value = _tensor(value.const_value)
        for node in graph:
            for value in node.outputs:
                _retype(value)
            for name, attr in list(node.attributes.items()):
                _set(node, name, attr)
    return clone


def feed_in_float32(feed: Mapping[str, Array]) -> dict[str, Array]:
    """Inputs for such a model."""
    return {k: a.astype(np.float32) if ir.DataType.from_numpy(a.dtype) in _READ else a for k, a in feed.items()}


def _retype(value: ir.Value) -> None:
    if value.dtype in _READ:
        value.type = ir.TensorType(ir.DataType.FLOAT)


def _tensor(tensor: ir.TensorProtocol) -> ir.Tensor[Array]:
    return ir.Tensor(tensor.numpy().astype(np.float32), name=tensor.name)


def _set(node: ir.Node, name: str, attr: ir.Attr) -> None:
    if attr.type == ir.AttributeType.TENSOR and attr.as_tensor().dtype in _READ:
        node.attributes[name] = ir.AttrTensor(name, _tensor(attr.as_tensor()))
    elif attr.type == ir.AttributeType.INT and name in _NAMED and attr.value in {int(d) for d in _READ}:
        node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
