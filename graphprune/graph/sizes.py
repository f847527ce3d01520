"""Bytes that a model takes on disk."""

from __future__ import annotations

import onnx_ir as ir


def file_bytes(model: ir.Model) -> int:
    """Bytes the model takes when written: weights and structure."""
    return weight_bytes(model) + structure_bytes(model)


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers."""
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)


def structure_bytes(model: ir.Model) -> int:
    """Bytes of everything but the initializers' content."""
    clone = model.clone()
    for value in clone.graph.initializers.values():
        if value.const_value is not None and value.const_value.nbytes > 64:
            value.const_value = None
    names = [n for n, v in clone.graph.initializers.items() if v.const_value is None]
    for name in names:
        del clone.graph.initializers[name]
    return int(ir.to_proto(clone).ByteSize()) + 40 * len(names)
