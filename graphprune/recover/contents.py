"""Contents of stored tensors, read and exchanged in a model of any kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.graph.model import Array, Graph
from graphprune.graph.scopes import constant_tensor
from graphprune.rewrite.values import overwrite, stored_value


def content(graph: Graph, name: str) -> Array:
    """A stored tensor as it is now."""
    if not isinstance(graph.source, ir.Model):
        from graphprune.graph.torch_types import array_of

        return array_of(_tensor(graph, name).detach()).copy()
    tensor = stored_value(graph.source, graph.weights[name].source)
    producer = tensor.producer()
    held = tensor.const_value if producer is None else constant_tensor(producer)
    assert held is not None
    return np.asarray(held.numpy())


def exchange(graph: Graph, name: str, array: Array) -> None:
    """Give a stored tensor another content; its element type and shape stay."""
    if not isinstance(graph.source, ir.Model):
        import torch

        tensor = _tensor(graph, name)
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(np.array(array, np.float64).reshape(tuple(tensor.shape))))
        return
    old = content(graph, name)
    source = graph.weights[name].source
    overwrite(stored_value(graph.source, source), np.reshape(array, old.shape).astype(old.dtype))


def _tensor(graph: Graph, name: str) -> Any:
    from graphprune.graph.torch_program import named_tensors

    return next(t for n, t in named_tensors(graph.source.module) if n == graph.weights[name].source)
