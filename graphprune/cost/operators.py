"""What the runtime makes of a model: its operators after fusion, with their shapes over kept lengths and their time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from graphprune.cost.lengths import Lengths
from graphprune.coupling.groups import DependencyGraph
from graphprune.errors import InputError
from graphprune.graph.run import CannotRun, harmful, loadable, random_feeds
from graphprune.graph.sizes import cloned
from graphprune.graph.timing import NodeTime, Setting, node_times

_RUNS = 16
_BLOCKED = "_nchwc"  # the runtime names a convolution it moves to its blocked layout after the tensor it makes


@dataclass(frozen=True, slots=True)
class Dim:
    """A size: a factor times the kept lengths of some axes."""

    factor: float
    axes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Operand:
    """An input of an operator.

    Attributes:
        dims: Its sizes.
        dtype: Element type of ONNX.
        stored: Whether it is a weight.
        value: What it holds if that are integers, such as a shape; None else.
    """

    dims: tuple[Dim, ...]
    dtype: int
    stored: bool
    value: onnx.TensorProto | None = None


@dataclass(frozen=True)
class Operator:
    """An operator that the runtime runs, in the model itself.

    Attributes:
        name: Name of its node in the optimised graph.
        node: The node, None where it was not found and only its time is known.
        opset: Version of its domain.
        inputs: Its inputs, None for one that is left out.
        outputs: Sizes of its outputs as far as known.
        seconds: Its time in the whole model.
    """

    name: str
    op: str
    node: onnx.NodeProto | None
    opset: int
    inputs: tuple[Operand | None, ...]
    outputs: tuple[tuple[Dim, ...], ...]
    seconds: float


def operators(deps: DependencyGraph, lengths: Lengths, setting: Setting) -> list[Operator]:
    """Every operator of the optimised model with its time.

    Raises:
        InputError: The model cannot be run under this setting.
    """
    source = checked(deps)
    setting.check()
    feed = random_feeds(deps.source, 1, 0)[0]
    try:
        with tempfile.TemporaryDirectory(prefix="graphprune-") as folder, loadable(named(source)) as model:
            extended = Path(folder) / "extended.onnx"
            without = harmful(source)
            shapes = node_times(model, feed, setting, 1, level="extended", written=str(extended), without=without)
            graph = onnx.load(str(extended), load_external_data=False)
            times = node_times(model, feed, setting, _RUNS, without=without)
    except CannotRun as error:
        raise InputError(f"{deps.source.name}: cannot be timed: onnxruntime: {error}") from None
    return list(_Reader(deps, lengths, graph, shapes).operators(times))


def checked(deps: DependencyGraph) -> ir.Model:
    """The model to run.

    Raises:
        InputError: It is none that onnxruntime runs.
    """
    source = deps.source.source
    if not isinstance(source, ir.Model):
        raise InputError(f"{deps.source.name}: latency is measured in onnxruntime; export the model to ONNX")
    return source


def named(model: ir.Model) -> ir.Model:
    """The model with a name for every node, so that times can be told apart."""
    clone, seen = cloned(model), set[str]()
    for number, node in enumerate(clone.graph.all_nodes()):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{number}_unnamed"
        seen.add(node.name)
    return clone


class _Reader:
    """Reads an optimised graph in terms of the axes of the original."""

    def __init__(
        self, deps: DependencyGraph, lengths: Lengths, model: onnx.ModelProto, shapes: Sequence[NodeTime]
    ) -> None:
        self.deps, self.lengths = deps, lengths
        self.nodes = {n.name: n for n in model.graph.node}
        self.makers = {out: n for n in model.graph.node for out in n.output if out}
        self.stored = {t.name: t for t in model.graph.initializer}
        self.opsets = {o.domain if o.domain != "ai.onnx" else "": o.version for o in model.opset_import}
        self.shapes, self.dtypes = _run_shapes(self.nodes, shapes, self.stored), _dtypes(model)

    def operators(self, times: Sequence[NodeTime]) -> Iterator[Operator]:
        """The nodes that were timed, those fused at the highest level under the node they grew from."""
        for time in times:
            node = self.nodes.get(time.name)
            if node is None and _BLOCKED in time.name:
                node = self.makers.get(time.name[: time.name.rindex(_BLOCKED)])
            if node is None:
                yield Operator(time.name, time.op, None, 0, (), self._guessed(time), time.seconds)
                continue
            outputs = tuple(self._dims(name) for name in node.output if name)
            opset = self.opsets.get(node.domain, 1)
            yield Operator(time.name, node.op_type, node, opset, self._inputs(node), outputs, time.seconds)

    def _guessed(self, time: NodeTime) -> tuple[tuple[Dim, ...], ...]:
        """Sizes of a node that only the runtime knows, such as a change of layout: those of its largest output."""
        if not time.outputs:
            return ()
        shape = max(time.outputs, key=lambda s: int(np.prod(s)))
        for name, found in self.shapes.items():
            if found == shape and any(d.axes for d in self._dims(name)):
                return (self._dims(name),)
        return (tuple(Dim(float(n)) for n in shape),)

    def _inputs(self, node: onnx.NodeProto) -> tuple[Operand | None, ...]:
        moving = [self._dims(n) for n in (*node.input, *node.output) if n and n not in self.stored]
        known = {self._size(d): d for dims in moving for d in dims if d.axes}
        out: list[Operand | None] = []
        for slot, name in enumerate(node.input):
            tensor = self.stored.get(name)
            if not name:
                out.append(None)
            elif tensor is None:
                out.append(Operand(self._dims(name), self.dtypes.get(name, onnx.TensorProto.FLOAT), stored=False))
            else:
                dims = self._weight_dims(node, slot, tensor, known)
                floating = tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
                value = None if floating and len(dims) else tensor
                out.append(Operand(dims, tensor.data_type, stored=True, value=value))
        return tuple(out)

    def _weight_dims(
        self, node: onnx.NodeProto, slot: int, tensor: onnx.TensorProto, known: Mapping[int, Dim]
    ) -> tuple[Dim, ...]:
        """Sizes of a weight: by its name, or, where the runtime made it, by the axes that the node works on."""
        shape = tuple(tensor.dims)
        value = self.deps.source.weights.get(tensor.name)
        if value is not None and value.shape == shape and tensor.name in self.deps.types:
            return self._dims(tensor.name, shape)
        if node.op_type in ("Conv", "FusedConv") and slot < 3:
            made, read = self._dims(node.output[0]), self._dims(node.input[0])
            grouped = next((a.i for a in node.attribute if a.name == "group"), 1) > 1
            head = [made[1] if len(made) > 1 else Dim(shape[0])]
            if slot == 1:
                head.append(read[1] if not grouped and len(read) > 1 else Dim(float(shape[1])))
            return (*head, *(Dim(float(n)) for n in shape[len(head) :]))
        return tuple(known.get(n, Dim(float(n))) for n in shape)

    def _size(self, dim: Dim) -> int:
        return round(dim.factor * float(np.prod([self.lengths.axes[a].n for a in dim.axes])))

    def _dims(self, name: str, shape: tuple[int, ...] | None = None) -> tuple[Dim, ...]:
        """Sizes of a tensor by the labels of its axes; without labels they are fixed."""
        value = self.deps.source.values.get(name)
        if shape is None:
            shape = value.shape if value is not None and value.shape is not None else self.shapes.get(name, ())
        labels = self.deps.types.get(name) or ()
        if len(labels) != len(shape):
            return tuple(Dim(float(n)) for n in shape)
        out = []
        for axis, n in zip(labels, shape, strict=True):
            factor, found = (float(n), []) if axis is None else self.lengths.term(1.0, [axis])
            out.append(Dim(factor, tuple(sorted(found))))
        return tuple(out)


def _run_shapes(
    nodes: Mapping[str, onnx.NodeProto], times: Sequence[NodeTime], stored: Mapping[str, Any]
) -> dict[str, tuple[int, ...]]:
    """Shapes of tensors as they were seen in a run."""
    out = {name: tuple(t.dims) for name, t in stored.items()}
    for time in times:
        node = nodes.get(time.name)
        if node is None:
            continue
        for names, shapes in ((node.input, time.inputs), (node.output, time.outputs)):
            present = [n for n in names if n]
            if len(present) == len(shapes):
                out.update(zip(present, shapes, strict=True))
    return out


def _dtypes(model: onnx.ModelProto) -> dict[str, int]:
    """Element types as far as the optimised file tells them."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    return {v.name: v.type.tensor_type.elem_type for v in values if v.type.tensor_type.elem_type}
