"""A twin of a quantised model in which no rounding can tip over.

Float sums of other lengths differ in their last bit. In front of a QuantizeLinear that bit may decide between two
integers, so that two equal networks differ by a whole step. With powers of two as scales every product and sum is
exact in float32: the twins are equal to the last bit or not at all.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphprune.graph.model import Array, Graph
from graphprune.graph.scopes import constant_tensor

_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


def quantised(graph: Graph) -> bool:
    """Whether values are rounded to integers in the graph."""
    return any(node.op == "QuantizeLinear" for node in graph.nodes)


def exact_scales(model: ir.Model) -> ir.Model:
    """The model with powers of two as scales, for each number the same wherever it stands."""
    clone = model.clone()
    done: set[int] = set()
    for node in clone.graph:
        scale = node.inputs[1] if node.op_type in _QUANTISERS else None
        if scale is None or id(scale) in done:
            continue
        done.add(id(scale))
        maker = scale.producer()
        if scale.const_value is not None and maker is None:
            scale.const_value = _tensor(scale.const_value, scale.name)
        elif maker is not None and maker.op_type == "Constant":
            tensor = _tensor(constant_tensor(maker), scale.name)
            maker.attributes.clear()
            maker.attributes["value"] = ir.AttrTensor("value", tensor)
    return clone


def _tensor(tensor: ir.TensorProtocol, name: str | None) -> ir.Tensor[Array]:
    return ir.Tensor(powers(tensor.numpy()), dtype=tensor.dtype, name=name)


def powers(scales: Array) -> Array:
    """One of the two powers of two around each scale; which one, its last bits decide, so that a mix-up shows."""
    exponents = np.floor(np.log2(np.abs(scales.astype(np.float64)) + 1e-30))
    bits = np.asarray(scales, np.float32).view(np.uint32).astype(np.uint64)
    exponents += (bits * np.uint64(2654435761) >> np.uint64(13)) & np.uint64(1)
    return np.asarray(2.0**exponents).astype(scales.dtype)
