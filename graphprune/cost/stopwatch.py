"""Times an operator at many widths, all side by side in one session, so that a busy machine slows all alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphprune.cost.operators import Dim, Operand, Operator
from graphprune.graph.model import Array
from graphprune.graph.run import CannotRun
from graphprune.graph.timing import NodeTime, Setting, node_times

_RUNS = 12
_BYTES = 192 << 20  # of one session
_REORDER = "Reorder"
_CONVS = ("Conv", "FusedConv", "ConvTranspose")

Times = dict[tuple[int, ...], float]
Stopwatch = Callable[["Shape", Sequence[tuple[int, ...]]], Times]


@dataclass(frozen=True)
class Shape:
    """A distinct operator shape: what its time depends on, the widths left open.

    Attributes:
        operator: One of the operators of this shape.
        axes: The widths, each a product of axes.
        sizes: Full width of each.
        joint: True where the widths only make sense scaled together.
    """

    operator: Operator
    axes: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    joint: bool

    @property
    def steps(self) -> tuple[int, ...]:
        """The widths that are timed: all, or the first that the others follow."""
        return self.sizes[:1] if self.joint else self.sizes

    def full(self, at: Sequence[int]) -> dict[tuple[int, ...], int]:
        """Every width where those timed are given."""
        if not self.joint:
            return dict(zip(self.axes, at, strict=True))
        share = at[0] / self.sizes[0]
        return {axes: max(1, round(n * share)) for axes, n in zip(self.axes, self.sizes, strict=True)}

    def describe(self) -> dict[str, Any]:
        """All that tells this shape from others, as data."""
        node = self.operator.node
        assert node is not None
        places = {axes: i for i, axes in enumerate(self.axes)}

        def dims(listed: Sequence[Dim]) -> list[list[float]]:
            return [[d.factor, places[d.axes]] if d.axes in places else [d.factor] for d in listed]

        return {
            "operator": f"{node.domain}.{node.op_type}" if node.domain else node.op_type,
            "opset": self.operator.opset,
            "attributes": sorted((a.name, _plain(a)) for a in node.attribute),
            "inputs": [None if x is None else [*_said(x), dims(x.dims)] for x in self.operator.inputs],
            "sizes": list(self.sizes),
        }

    @property
    def key(self) -> str:
        """Digest of :meth:`describe`."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()[:24]


def shape_of(operator: Operator, sizes: Callable[[tuple[int, ...]], int]) -> Shape | None:
    """The shape of an operator; None where nothing of it varies or its node is not known."""
    if operator.node is None:
        return None
    dims = [d for x in operator.inputs if x is not None for d in x.dims]
    dims += [d for out in operator.outputs for d in out]
    axes = tuple(dict.fromkeys(d.axes for d in dims if d.axes))
    if not axes:
        return None
    grouped = operator.op in _CONVS and any(a.name == "group" and a.i > 1 for a in operator.node.attribute)
    return Shape(operator, axes, tuple(sizes(a) for a in axes), joint=len(axes) > 2 or (grouped and len(axes) > 1))


def _plain(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, int | float | str):
        return value
    if isinstance(value, TensorProto | onnx.GraphProto):
        return hashlib.sha256(value.SerializeToString()).hexdigest()
    return [v.decode(errors="replace") if isinstance(v, bytes) else v for v in value]


def _said(operand: Operand) -> list[Any]:
    value = operand.value.SerializeToString().hex() if operand.value is not None else ""
    return [operand.dtype, operand.stored, value]


class SessionStopwatch:
    """Times shapes in onnxruntime.

    Args:
        setting: How it runs.
        measure: Times the nodes of a model, as :func:`graphprune.graph.timing.node_times` does.
    """

    def __init__(self, setting: Setting, measure: Callable[..., list[NodeTime]] = node_times) -> None:
        self._setting, self._measure = setting, measure
        self._pool = np.random.default_rng(0).standard_normal(1 << 20).astype(np.float32)

    def __call__(self, shape: Shape, at: Sequence[tuple[int, ...]]) -> Times:
        """Seconds at each of some widths; empty where the runtime refuses the operator at changed widths."""
        out: Times = {}
        for part in _parts(shape, at):
            try:
                out.update(self._timed(shape, part))
            except (CannotRun, ValueError, TypeError):
                return {}
        return out

    def _timed(self, shape: Shape, at: Sequence[tuple[int, ...]]) -> Times:
        model, feed = _model(shape, at, self._pool)
        times = self._measure(model.SerializeToString(), feed, self._setting, _RUNS)
        found = [[t for t in times if f"w{i}_" in t.name and not t.op.startswith(_REORDER)] for i in range(len(at))]
        if not all(found):
            raise ValueError("the runtime dropped a node")
        seconds = {w: sum(t.seconds for t in mine) for w, mine in zip(at, found, strict=True)}
        blocked = {w: any("_nchwc" in t.name for t in mine) for w, mine in zip(at, found, strict=True)}
        if any(
            blocked.values()
        ):  # whoever leaves the blocked layout pays for the way out and back, by half: others leave as well
            rate = _reorder_rate(times)
            for w in at:
                if not blocked[w]:
                    seconds[w] += 0.5 * rate * _moved(shape, w)
        return seconds


def _reorder_rate(times: Sequence[NodeTime]) -> float:
    """Seconds per element of a change of layout."""
    mine = [t for t in times if t.op.startswith(_REORDER)]
    elements = sum(float(np.prod(s)) for t in mine for s in t.outputs[:1])
    return sum(t.seconds for t in mine) / elements if elements else 0.0


def _moved(shape: Shape, at: Sequence[int]) -> float:
    """Elements of what an operator reads and makes at some widths."""
    full, operator = shape.full(at), shape.operator
    read = [x.dims for x in operator.inputs if x is not None and not x.stored]
    return float(sum(np.prod([_size(d, full) for d in dims]) for dims in (*read, *operator.outputs)))


def _parts(shape: Shape, at: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Widths in portions that fit one session."""
    part, held = list[tuple[int, ...]](), 0.0
    for w in sorted(at, reverse=True):
        full = shape.full(w)
        size = 4.0 * sum(np.prod([_size(d, full) for d in x.dims]) for x in shape.operator.inputs if x is not None)
        size += 4.0 * sum(np.prod([_size(d, full) for d in dims]) for dims in shape.operator.outputs)
        if part and held + size > _BYTES:
            yield part
            part, held = [], 0.0
        part.append(w)
        held += size
    if part:
        yield part


def _size(dim: Dim, full: Mapping[tuple[int, ...], int]) -> int:
    return max(1, round(dim.factor * full[dim.axes])) if dim.axes in full else round(dim.factor)


def _model(shape: Shape, at: Sequence[tuple[int, ...]], pool: Array) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A model with the operator at every width, and its inputs; equal inputs are shared."""
    nodes, initializers, feed = [], [], dict[str, Array]()
    inputs, outputs = [], []
    template = shape.operator.node
    assert template is not None
    for number, w in enumerate(at):
        full = shape.full(w)
        names = []
        for slot, operand in enumerate(shape.operator.inputs):
            if operand is None:
                names.append("")
                continue
            sizes = tuple(_size(d, full) for d in operand.dims)
            if operand.value is not None:
                tensor = TensorProto()
                tensor.CopyFrom(operand.value)
                tensor.name = f"w{number}_{slot}"
                initializers.append(tensor)
                names.append(tensor.name)
                continue
            array = np.resize(pool, sizes).astype(helper.tensor_dtype_to_np_dtype(operand.dtype))
            if operand.stored:
                names.append(f"w{number}_{slot}")
                initializers.append(numpy_helper.from_array(array, names[-1]))
            else:
                names.append(f"x{slot}_{'x'.join(map(str, sizes))}")
                if names[-1] not in feed:
                    feed[names[-1]] = array
                    inputs.append(helper.make_tensor_value_info(names[-1], operand.dtype, sizes))
        node = onnx.NodeProto()
        node.CopyFrom(template)
        node.name = f"w{number}_node"
        del node.input[:], node.output[:]
        node.input.extend(names)
        node.output.extend(f"w{number}_out{i}" if name else "" for i, name in enumerate(template.output))
        _regroup(node, shape, full)
        nodes.append(node)
        outputs.append(onnx.ValueInfoProto(name=node.output[0]))
    graph = helper.make_graph(nodes, "stopwatch", inputs, outputs, initializers)
    domains = {"": 18, template.domain: shape.operator.opset} if template.domain else {"": shape.operator.opset}
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), feed


def _regroup(node: onnx.NodeProto, shape: Shape, full: Mapping[tuple[int, ...], int]) -> None:
    """The number of groups of a convolution that lost some."""
    read, weight = shape.operator.inputs[0], shape.operator.inputs[1] if len(shape.operator.inputs) > 1 else None
    if node.op_type not in ("Conv", "FusedConv") or read is None or weight is None:
        return
    for attribute in node.attribute:
        if attribute.name == "group" and attribute.i > 1:
            attribute.i = max(1, _size(read.dims[1], full) // _size(weight.dims[1], full))
