"""The neutral graph: read-only facts about nodes, values and weights that rules and costs work on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor in the graph.

    Attributes:
        name: Its name, unique in the graph.
        shape: Sizes at the first probe; None when the rank is unknown.
        dynamic: Per axis, True when the size changes with the input sizes or is unknown.
        other: Sizes at the second probe (equal to ``shape`` where nothing is dynamic).
        dtype: Numpy-style name of the element type, "" when unknown.
    """

    name: str
    shape: tuple[int, ...] | None
    dynamic: tuple[bool, ...] = ()
    dtype: str = ""
    other: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Weight:
    """A stored tensor that pruning may slice.

    Attributes:
        name: Its name in this graph; a shared constant has one name per use.
        source: Its name in the file.
        shape: Sizes.
        dtype: Numpy-style name of the element type.
        origin: "initializer", "constant" (a Constant node), "fill" (ConstantOfShape) or "shape" (on PyTorch's meta
            device, without values).
        read: Returns the values, mapped where the file allows it.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    dtype: str
    origin: str
    read: Callable[[], Array] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Node:
    """An operator application.

    Attributes:
        name: Unique name (given by us where the file has none).
        op: Operator type.
        domain: Operator domain, "" for the standard one.
        version: Opset version of that domain.
        inputs: Value names, "" for an omitted input.
        outputs: Value names, "" for an omitted output.
        attrs: Attribute values as Python ints, floats, strings, lists and arrays.
        scope: The exporter's module path, if it left one.
        captures: Values of the outer scope that subgraphs read.
        fused: Names of the file's nodes that this one stands for, in order.
        times: How often it runs in one run of the model: the turns of the loops around it, as far as they are fixed.
        boundary: True at the edge of a control-flow body, where inputs and outputs are not those of the file's node.
    """

    name: str
    op: str
    domain: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]
    scope: str = ""
    captures: tuple[str, ...] = ()
    fused: tuple[str, ...] = ()
    times: int = 1
    boundary: bool = False

    @property
    def key(self) -> str:
        """Operator with its domain, "Conv" or "com.microsoft.Attention"."""
        return f"{self.domain}.{self.op}" if self.domain else self.op


@dataclass(frozen=True, slots=True)
class Bypass:
    """A summand that is left out of a sum, with everything that only it needs.

    Attributes:
        node: Name of the sum.
        slot: Which of its operands goes.
        value: Name of what the sum makes.
        branch: Name of the operand.
    """

    node: str
    slot: int
    value: str
    branch: str


@dataclass(frozen=True, slots=True)
class Graph:
    """A network in topological order.

    Attributes:
        name: File or model name, for messages.
        nodes: Nodes in topological order.
        values: All values by name.
        weights: Stored tensors by name.
        constants: Values known from the sizes alone: equal at every input size.
        varying: Values that follow from the input sizes: their content at both probes.
        inputs: Names of the graph inputs.
        outputs: Names of the graph outputs.
        source: The object this was read from (an ``onnx_ir.Model``), for the rewriter.
        input_shapes: Input sizes at each probe; what verification and costs use.
        file_bytes: Returns the bytes that the model takes when written.
        whole: Values that stay whole because something outside the graph reads them.
        equal: Sets of (value, axis) whose sizes the source says with one number: they have to stay equal.
        unread: Positions (value, axis, positions) of stored tensors that other inputs than these may read: they stay.
        bypassed: Summands that were left out of ``whole_graph``, see :mod:`graphprune.graph.bypass`.
        whole_graph: The graph before that, None where nothing was left out.
    """

    name: str
    nodes: tuple[Node, ...]
    values: Mapping[str, Value]
    weights: Mapping[str, Weight]
    constants: Mapping[str, Array]
    varying: Mapping[str, tuple[Array, Array]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    source: Any = field(repr=False, default=None)
    input_shapes: tuple[Mapping[str, tuple[int, ...]], ...] = ()
    file_bytes: Callable[[], int] = field(repr=False, default=lambda: 0)
    whole: tuple[str, ...] = ()
    equal: tuple[tuple[tuple[str, int], ...], ...] = ()
    unread: tuple[tuple[str, int, tuple[int, ...]], ...] = ()
    bypassed: tuple[Bypass, ...] = ()
    whole_graph: Graph | None = field(repr=False, default=None)

    @property
    def origin(self) -> Graph:
        """The graph with all its summands: what was given to be pruned."""
        return self if self.whole_graph is None else self.whole_graph

    def constant(self, name: str) -> Array | None:
        """The fixed content of a value (a weight is read), or None when it is computed from data or not there."""
        found = self.constants.get(name)
        if found is None and name in self.weights and self.weights[name].origin != "shape":
            return self.weights[name].read()
        return found

    def parameters(self) -> int:
        """Number of stored elements, each tensor of the file counted once."""
        seen = {w.source: w.shape for w in self.weights.values() if w.origin != "fill"}
        return int(sum(np.prod(shape, dtype=np.int64) for shape in seen.values()))
