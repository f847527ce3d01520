"""Shapes and shape arithmetic of a graph at given input sizes.

One pass in graph order: what follows from sizes alone is evaluated with onnx's reference operators, everything
else goes through onnx's own shape functions, one node at a time. Running it at two input sizes tells the sizes
that are fixed from those that follow the input.
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

from graphprune.graph.evaluate import MAX_KNOWN, Evaluator
from graphprune.graph.types import UNKNOWN, Shape, Typed, container_of, read_type, type_proto

MAX_SETTING = 8  # float operands such as the scales of a Resize
_WITH_SUBGRAPHS = {"If", "Loop", "Scan", "SequenceMap"}
# Operators whose schema, if there is one, leaves the output shape open although it is the first input's.
_SAME_SHAPE = {"GroupNormalization", "Dropout", "MeanVarianceNormalization", "Gelu", "QuickGelu"}


class BadSizes(Exception):
    """The graph cannot run at the probed input sizes."""


@dataclass(slots=True)
class Facts:
    """What is known of each value at one set of input sizes.

    Attributes:
        shapes: Sizes per value, UNKNOWN where data decides, None where the rank is unknown.
        dtypes: ONNX element type per value, 0 when unknown.
        containers: For sequences and optionals, which of them: "sequence", "optional" or "optional sequence"; their
            sizes and type above are those of the elements, UNKNOWN where elements differ.
        known: Contents that follow from sizes and integer constants.
    """

    shapes: dict[str, Shape | None] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)
    containers: dict[str, str] = field(default_factory=dict)
    known: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)


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
    return _Pass(model, sizes, caches or Caches.of(model)).run()


class _Pass:
    """One forward pass; holds the caches that make it cheap."""

    def __init__(self, model: ir.Model, sizes: Mapping[str, Shape], caches: Caches) -> None:
        self.model = model
        self.sizes = sizes
        self.facts = Facts()
        self.opsets = dict(model.graph.opset_imports)
        self.imports = [helper.make_opsetid(d, v) for d, v in self.opsets.items()]
        self.caches = caches

    def run(self) -> Facts:
        graph = self.model.graph
        if self.caches.stored is None:
            for name, value in graph.initializers.items():
                self._stored(name, value.const_value, value)
            self.caches.stored = _copied(self.facts)
        self.facts = _copied(self.caches.stored)
        for value in graph.inputs:
            if value.name is not None and value.name not in graph.initializers:
                container = container_of(value)
                shape = _static(value.shape) if container else self.sizes.get(value.name)
                self._put(value.name, int(value.dtype or 0), shape, container)
        for node in graph:
            self._node(node)
        return self.facts

    def _put(self, name: str | None, dtype: int, shape: Shape | None, container: str = "") -> None:
        if name:
            self.facts.shapes[name] = shape
            self.facts.dtypes[name] = dtype
            if container:
                self.facts.containers[name] = container

    def _know(self, name: str, array: np.ndarray[Any, Any]) -> None:
        self.facts.known[name] = array
        self._put(name, int(ir.DataType.from_numpy(array.dtype)), array.shape)

    def _stored(self, name: str, tensor: ir.TensorProtocol | None, value: ir.Value) -> None:
        """A constant of the file: integers and scalars are known, the rest are weights."""
        if tensor is None:
            self._put(name, int(value.dtype or 0), _static(value.shape))
            return
        shape = tensor_shape(tensor)
        self._put(name, int(tensor.dtype), shape)
        size = math.prod(shape)
        index_like = tensor.dtype in (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)
        if size <= (MAX_KNOWN if index_like else 1) and tensor.dtype != ir.DataType.STRING:
            self.facts.known[name] = tensor.numpy()
        elif size <= MAX_SETTING and tensor.dtype == ir.DataType.FLOAT:
            self.caches.settings[name] = tensor.numpy()

    def _node(self, node: ir.Node) -> None:
        op, standard = node.op_type, node.domain in ("", "ai.onnx")
        if op == "Constant" and standard:
            self._stored(node.outputs[0].name or "", constant_tensor(node), node.outputs[0])
        elif op in ("Shape", "Size") and standard:
            self._size(node)
        elif not (standard and self._evaluated(node)):
            self._typed(node)

    def _size(self, node: ir.Node) -> None:
        name, out = node.inputs[0].name if node.inputs[0] else "", node.outputs[0].name or ""
        shape = self.facts.shapes.get(name or "")
        if shape is None or UNKNOWN in shape:
            self._put(
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
        graphs = node.op_type in _WITH_SUBGRAPHS
        schema = None if graphs else self._schema(node)
        found = () if schema is None else self._by_schema(node, schema)
        for value, typed in zip_longest(node.outputs, found):
            name = value.name or ""
            dtype, shape, container = typed or (int(value.dtype or 0), None, container_of(value))
            if shape is None and not graphs:
                shape = self._declared(value)
            if shape is None and node.op_type in _SAME_SHAPE and node.inputs[0] is not None:
                source = node.inputs[0].name or ""
                dtype, shape = dtype or self.facts.dtypes.get(source, 0), self.facts.shapes.get(source)
            self._put(name, dtype, shape, container)

    def _schema(self, node: ir.Node) -> defs.OpSchema | None:
        key = (node.domain, node.op_type)
        if key not in self.caches.schemas:
            domain = "" if node.domain == "ai.onnx" else node.domain
            version = self.opsets.get(domain, 1)
            schema = defs.get_schema(node.op_type, version, domain) if defs.has(node.op_type, version, domain) else None
            self.caches.schemas[key] = None if schema is not None and schema.deprecated else schema
        return self.caches.schemas[key]

    def _by_schema(self, node: ir.Node, schema: defs.OpSchema) -> tuple[Typed | None, ...]:
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
                self.caches.evaluator.proto(node),
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


def constant_tensor(node: ir.Node) -> ir.TensorProtocol:
    """Content of a Constant node, whichever attribute holds it."""
    for name, attr in node.attributes.items():
        if name == "value":
            return attr.as_tensor()
        if name in ("value_float", "value_floats"):
            return ir.tensor(np.array(attr.value, np.float32))
        if name in ("value_int", "value_ints"):
            return ir.tensor(np.array(attr.value, np.int64))
    return ir.tensor(np.array([], np.float32))


def _copied(facts: Facts) -> Facts:
    return Facts(dict(facts.shapes), dict(facts.dtypes), dict(facts.containers), dict(facts.known))


def tensor_shape(tensor: ir.TensorProtocol) -> Shape:
    """Sizes of a stored tensor."""
    return tuple(int(d) for d in tensor.shape if isinstance(d, int))


def _static(shape: ir.Shape | None) -> Shape | None:
    return None if shape is None else tuple(d if isinstance(d, int) else UNKNOWN for d in shape)
