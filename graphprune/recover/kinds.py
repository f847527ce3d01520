"""Copies, graphs and outputs of pruned models of any kind."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir

from graphprune.errors import InputError
from graphprune.graph.model import Array, Graph
from graphprune.graph.onnx import load
from graphprune.graph.run import Runner


def copied(source: Graph, model: Any, feed: Mapping[str, Array]) -> Graph:
    """The graph of a copy of a pruned model.

    Args:
        source: The original.
        model: The pruned model or module.
        feed: Inputs that a module is traced with.

    Raises:
        InputError: A pruned module has other nodes than the original.
    """
    if isinstance(model, ir.Model):
        return load(model.clone())
    from graphprune.graph.torch import trace
    from graphprune.graph.torch_feed import Call

    args, kwargs = Call(source.source)(feed)
    small = trace(copy.deepcopy(model), args, kwargs, name=source.name)
    if [(n.name, n.key) for n in small.nodes] != [(n.name, n.key) for n in source.nodes]:
        raise InputError(f"{source.name}: the pruned module is captured with other nodes than the original")
    return small


def model_of(graph: Graph) -> Any:
    """The model or module that a graph was read from."""
    return graph.source if isinstance(graph.source, ir.Model) else graph.source.module


def runner(graph: Graph) -> Callable[[Mapping[str, Array]], list[Any]]:
    """From a feed to all outputs."""
    if isinstance(graph.source, ir.Model):
        return Runner(graph.source)
    from graphprune.calibration.torch_values import TorchValues

    read = TorchValues(graph).reader(graph.outputs)

    def run(feed: Mapping[str, Array]) -> list[Any]:
        made = read(feed)
        return [made[name] for name in graph.outputs]

    return run
