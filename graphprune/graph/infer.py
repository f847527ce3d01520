"""Shapes and shape arithmetic of a graph at given input sizes.

One pass in graph order: what follows from sizes alone is evaluated with onnx's reference operators, the rest goes
through onnx's shape functions, node by node. Two input sizes tell what is fixed from what follows the input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import checker, defs, helper, shape_inference

from graphprune.graph.blackbox import infer_custom
from graphprune.graph.contrib import TWINS, as_twin, contrib_types
from graphprune.graph.control import BadSizes, infer_control, is_control
from graphprune.graph.custom import custom
from graphprune.graph.evaluate import MAX_KNOWN, Evaluator
from graphprune.graph.integer_shapes import TWIN_OPSET
from graphprune.graph.scopes import constant_tensor, tensor_shape
from graphprune.graph.types import UNKNOWN, Shape, Typed, container_of, read_type, type_proto

MAX_SETTING = 8  # float operands such as the scales of a Resize
_RECURRENT = {"LSTM", "GRU", "RNN"}
_OPAQUE_GRAPHS = {"Scan", "SequenceMap"}


@dataclass(slots=True)
class Facts:
    """What is known of each value at one set of input sizes.

    Attributes:
        shapes: Sizes per value, UNKNOWN where data decides, None where the rank is unknown.
        dtypes: ONNX element type per value, 0 when unknown.
        containers: For sequences and optionals, which of them: "sequence", "optional" or "optional sequence"; their
            sizes and type above are those of the elements, UNKNOWN where elements differ.
        known: Contents that follow from sizes and integer constants.
        failed: Number of branches that cannot run at these sizes.
    """

    shapes: dict[str, Shape | None] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)
    containers: dict[str, str] = field(default_factory=dict)
    known: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    failed: int = 0


@dataclass(slots=True)
class Caches:
    """What passes over one model share: facts of its initializers, types, and the evaluator with its nodes."""

    evaluator: Evaluator
    stored: Facts | None = None
    settings: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    types: dict[Typed, onnx.TypeProto] = field(default_factory=dict)
    schemas: dict[tuple[str, str], defs.OpSchema | None] = field(default_factory=dict)
    typed: dict[tuple[bytes, tuple[Typed, ...]], tuple[Typed | None, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: ir.Model) -> Caches:
        """Empty caches for a model."""
        return cls(Evaluator(model.graph.opset_imports.get("", 1)))


def infer(model: ir.Model, sizes: Mapping[str, Shape], caches: Caches | None = None) -> Facts:
    """Facts of the main graph with its inputs at ``sizes``.

    Args:
        model: The model.
        sizes: Sizes by input name.
        caches: Shared between passes over the same model.

    Raises:
        BadSizes: The operators' shape functions reject these sizes, or a size becomes zero or negative.
    """
    return Pass(model, sizes, caches or Caches.of(model)).run()


class Pass:
    """One forward pass; holds the caches that make it cheap. Control flow calls back into it."""

    def __init__(self, model: ir.Model, sizes: Mapping[str, Shape], caches: Caches) -> None:
        self.model = model
        self.sizes = sizes
        self.facts = Facts()
        self.opsets = dict(model.graph.opset_imports)
        self.imports = [helper.make_opsetid(d, v) for d, v in self.opsets.items()]
        self.caches = caches

    def run(self) -> Facts:
        """Facts of the whole model."""
        graph = self.model.graph
        if self.caches.stored is None:
            self.initializers(graph)
            self.caches.stored = _copied(self.facts)
        self.facts = _copied(self.caches.stored)
        for value in graph.inputs:
            if value.name is not None and value.name not in graph.initializers:
                container = container_of(value)
                shape = _static(value.shape) if container else self.sizes.get(value.name)
                self.put(value.name, int(value.dtype or 0), shape, container)
        for node in graph:
            self.node(node)
        return self.facts

    def body(self, graph: ir.Graph) -> None:
        """Go through a graph inside a node whose inputs are typed already."""
        self.initializers(graph)
        for node in graph:
            self.node(node)

    def typed(self, value: ir.Value | None) -> Typed:
        """Element type and sizes of a value."""
        return self._typed_as((value.name or "") if value is not None else "")

    def initializers(self, graph: ir.Graph) -> None:
        """Types of a graph's stored tensors."""
        for name, value in graph.initializers.items():
            self._stored(name, value.const_value, value)

    def put(self, name: str | None, dtype: int, shape: Shape | None, container: str = "") -> None:
        """Note the type of a value."""
        if name:
            self.facts.shapes[name] = shape
            self.facts.dtypes[name] = dtype
            if container:
                self.facts.containers[name] = container

    def _know(self, name: str, array: np.ndarray[Any, Any]) -> None:
        self.facts.known[name] = array
        self.put(name, int(ir.DataType.from_numpy(array.dtype)), array.shape)

    def _stored(self, name: str, tensor: ir.TensorProtocol | None, value: ir.Value) -> None:
        """A constant of the file: integers and scalars are known, the rest are weights."""
        if tensor is None:
            self.put(name, int(value.dtype or 0), _static(value.shape))
            return
        shape = tensor_shape(tensor)
        self.put(name, int(tensor.dtype), shape)
        size = math.prod(shape)
        index_like = tensor.dtype in (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)
        if size <= (MAX_KNOWN if index_like else 1) and tensor.dtype != ir.DataType.STRING:
            self.facts.known[name] = tensor.numpy()
        elif size <= MAX_SETTING and tensor.dtype == ir.DataType.FLOAT:
            self.caches.settings[name] = tensor.numpy()

    def node(self, node: ir.Node) -> None:
        """Facts of a node's outputs."""
        op, standard = node.op_type, node.domain in ("", "ai.onnx")
        if op == "Constant" and standard:
            self._stored(node.outputs[0].name or "", constant_tensor(node), node.outputs[0])
        elif op in ("Shape", "Size") and standard:
            self._size(node)
        elif is_control(node, self.opsets.get("", 1)):
            infer_control(self, node)
        elif not (standard and self._evaluated(node)):
            self._typed(node)

    def _size(self, node: ir.Node) -> None:
        name, out = node.inputs[0].name if node.inputs[0] else "", node.outputs[0].name or ""
        shape = self.facts.shapes.get(name or "")
        if shape is None or UNKNOWN in shape:
            self.put(
                out,
                onnx.TensorProto.INT64,
                None if shape is None or node.op_type == "Size" else (len(shape),),
            )
            return
        if node.op_type == "Size":
            self._know(out, np.array(np.prod(shape, dtype=np.int64)))
            return
        start = node.attributes.get_int("start", 0)
        end = node.attributes.get_int("end", len(shape))
        self._know(out, np.array(shape[slice(start, end)], np.int64))

    def _evaluated(self, node: ir.Node) -> bool:
        """Evaluate a node whose inputs are all known; False when it has to be typed instead."""
        names = [v.name or "" if v is not None else "" for v in node.inputs]
        if not any(names) or not all(n == "" or n in self.facts.known for n in names):
            return False
        results = self.caches.evaluator.run(node, [self.facts.known[n] if n else None for n in names])
        for value, result in zip(node.outputs, results or (), strict=False):
            self._know(value.name or "", result)
        return results is not None

    def _type(self, name: str) -> onnx.TypeProto | None:
        key = self._typed_as(name)
        if not key[0]:
            return None
        if key not in self.caches.types:
            self.caches.types[key] = type_proto(key)
        return self.caches.types[key]

    def _typed_as(self, name: str) -> Typed:
        facts = self.facts
        return facts.dtypes.get(name, 0), facts.shapes.get(name), facts.containers.get(name, "")

    def _typed(self, node: ir.Node) -> None:
        """Types of the outputs by the operator's shape function, else what the file says of them."""
        if node.op_type in _RECURRENT:
            self._check_states(node)
        graphs = node.op_type in _OPAQUE_GRAPHS
        schema = None if graphs else self.schema(node.domain, node.op_type)
        found = () if schema is None else self.by_schema(node, schema)
        entry = custom(node.domain, node.op_type)
        if entry is not None:
            found = infer_custom(self, node, entry) or found
        more: tuple[Typed | None, ...] = ()
        if not graphs and all(t is None or t[1] is None for t in found):
            more = contrib_types(self, node)
        for value, typed, other in zip_longest(node.outputs, found, more[: len(node.outputs)]):
            name = value.name or ""
            dtype, shape, container = typed or (int(value.dtype or 0), None, container_of(value))
            if shape is None and other is not None:
                dtype, shape = dtype or other[0], other[1]
            if shape is None and not graphs:
                shape = self._declared(value)
            if shape is None and entry is not None and node.inputs and node.inputs[0] is not None:
                dtype, shape = dtype or self.typed(node.inputs[0])[0], self.typed(node.inputs[0])[1]
            self.put(name, dtype, shape, container)

    def _check_states(self, node: ir.Node) -> None:
        """Shape functions do not compare the batch of initial states with that of the sequence; runtimes do."""
        batch = 0 if node.attributes.get_int("layout", 0) else 1
        found = [self.typed(v)[1] for v in (node.inputs[0], *node.inputs[5:7]) if v is not None]
        sizes = {s[batch] for s in found if s is not None and len(s) == 3 and s[batch] != UNKNOWN}
        if len(sizes) > 1:
            raise BadSizes(f"{node.op_type} {node.name or ''}: sequence and initial state differ in their batch")

    def schema(self, domain: str, op: str) -> defs.OpSchema | None:
        """The operator's schema at the model's opset, None when there is none."""
        key = (domain, op)
        if key not in self.caches.schemas:
            domain = "" if domain == "ai.onnx" else domain
            twin = TWINS.get(f"{domain}.{op}")
            if twin is not None:
                domain, op = "", twin
            version = max(self.opsets.get(domain, 1), TWIN_OPSET if twin is not None else 1)
            schema = defs.get_schema(op, version, domain) if defs.has(op, version, domain) else None
            self.caches.schemas[key] = None if schema is not None and schema.deprecated else schema
        return self.caches.schemas[key]

    def by_schema(self, node: ir.Node, schema: defs.OpSchema) -> tuple[Typed | None, ...]:
        """Types by output; equal applications to equal types are inferred once."""
        names = [v.name or "" for v in node.inputs if v is not None]
        types = {n: t for n in names if (t := self._type(n)) is not None}
        if len(types) < len(set(names)):
            return ()
        data = {
            n: onnx.numpy_helper.from_array(array, n)
            for n in names[1:] or names
            if (array := self.facts.known.get(n, self.caches.settings.get(n))) is not None
            and array.dtype.kind in "iufb"
        }
        seen = tuple(self._typed_as(n) for n in names)
        key = (self.caches.evaluator.signature(node), seen)
        if not data and key in self.caches.typed:
            return self.caches.typed[key]
        try:
            found = shape_inference.infer_node_outputs(
                schema,
                as_twin(self.caches.evaluator.proto(node), schema),
                types,
                data,
                opset_imports=self.imports,
                ir_version=self.model.ir_version,
            )
        except (shape_inference.InferenceError, checker.ValidationError, RuntimeError, ValueError) as error:
            raise BadSizes(f"{node.op_type} {node.name or ''}: {str(error).splitlines()[0]}") from None
        made = (found.get(v.name or "") for v in node.outputs)
        typed = tuple(None if t is None else read_type(t) for t in made)
        if any(d < UNKNOWN for t in typed if t is not None for d in t[1] or ()):
            raise BadSizes("a size becomes negative")
        if not data:
            self.caches.typed[key] = typed
        return typed

    def _declared(self, value: ir.Value) -> Shape | None:
        """The file's own shape of a value; symbols count as unknown."""
        if value.shape is None:
            return None
        return tuple(d if isinstance(d, int) else UNKNOWN for d in value.shape)


def _copied(facts: Facts) -> Facts:
    return Facts(dict(facts.shapes), dict(facts.dtypes), dict(facts.containers), dict(facts.known))


def _static(shape: ir.Shape | None) -> Shape | None:
    return None if shape is None else tuple(d if isinstance(d, int) else UNKNOWN for d in shape)
