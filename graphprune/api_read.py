"""Models in: from what a user has to a graph and its coupled channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphprune.api_torch import is_torch, trace
from graphprune.coupling.groups import DependencyGraph
from graphprune.coupling.groups import analyze as _analyze
from graphprune.graph.model import Graph
from graphprune.graph.onnx import Source
from graphprune.graph.onnx import load as _load
from graphprune.rules import has_rule


def load(source: Source, *, input_shapes: Mapping[str, tuple[int, ...]] | None = None) -> Graph:
    """Read a model into a neutral graph.

    Args:
        source: Path of an ONNX file, a ModelProto, or an ``onnx_ir.Model``. It is never changed.
        input_shapes: Sizes to use for inputs with dynamic axes, by input name.

    Returns:
        The graph; ``graph.source`` is the ``onnx_ir.Model``, with local functions and operators that have no rule
        but a function body written out.

    Raises:
        InputError: The file cannot be read, is not a valid model, or cannot run at any size tried.
    """
    return _load(source, input_shapes=input_shapes, ruled=has_rule)


def graph_of(
    source: Source | Graph, input_shapes: Mapping[str, tuple[int, ...]] | None = None, example_inputs: Any = None
) -> Graph:
    """The neutral graph of whatever a verb was given."""
    if isinstance(source, Graph):
        return source
    if is_torch(source):
        return trace(source, () if example_inputs is None else example_inputs)
    return load(source, input_shapes=input_shapes)


def analyze(
    source: Source | Graph | DependencyGraph, *, example_inputs: Any = None, allow_io: Sequence[str] = ()
) -> DependencyGraph:
    """Find the coupled channels of a model.

    Args:
        source: Path, ModelProto, ``onnx_ir.Model``, PyTorch module, exported program, or a loaded or traced graph; a
            dependency graph is returned as it is.
        example_inputs: What a module takes: a tensor, a tuple, or a dictionary by keyword.
        allow_io: Patterns of graph inputs and outputs whose axes may shrink, such as KV caches.

    Returns:
        The dependency graph: ``groups``, ``blocked``, ``explain(name)`` and ``graph`` (networkx).

    Raises:
        InputError: The model cannot be read, or a pattern matches nothing.
    """
    return source if isinstance(source, DependencyGraph) else _analyze(graph_of(source, None, example_inputs), allow_io)
