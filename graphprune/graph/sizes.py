"""Bytes that a model takes on disk."""

from __future__ import annotations

import onnx_ir as ir

from graphprune.graph.scopes import initializers

SMALL = 1024
_ONE_FILE = 1 << 30


def file_bytes(model: ir.Model) -> int:
    """Bytes the model takes when written: exact for what fits one file, else weights and structure."""
    stored = weight_bytes(model)
    if stored < _ONE_FILE:
        return int(ir.to_proto(model).ByteSize())
    return stored + structure_bytes(model)


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers."""
    return sum(v.const_value.nbytes for _, v in initializers(model) if v.const_value is not None)


def cloned(model: ir.Model) -> ir.Model:
    """A clone that holds its small external tensors in memory.

    Writers load small tensors and close the file they were mapped from, which fails while others still read it;
    checkers look for that file beside a model that was never written.
    """
    clone = model.clone()
    for graph in clone.graphs():
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes <= SMALL:
                value.const_value = ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=name)
    return clone


def structure_bytes(model: ir.Model) -> int:
    """Bytes of everything but the initializers' content."""
    clone = model.clone()
    large = [v for _, v in initializers(clone) if v.const_value is not None and v.const_value.nbytes > 64]
    for value in large:
        if value.graph is not None:
            del value.graph.initializers[value.name or ""]
        value.const_value = None
    return int(ir.to_proto(clone).ByteSize()) + 40 * len(large)
