"""Shapes and shape arithmetic of a graph at given input sizes.

One pass in graph order: what follows from sizes alone is evaluated with onnx's reference operators, the rest goes
through onnx's shape functions, node by node. Two input sizes tell what is fixed from what follows the input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import defs, helper, shape_inference

from graphprune.graph.blackbox import shapes_by_running
from graphprune.graph.custom import Custom, attribute, custom, shapes_of
from graphprune.graph.evaluate import MAX_KNOWN, Evaluator

Shape = tuple[int, ...]
Typed = tuple[int, Shape | None]
UNKNOWN = -1
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
        known: Contents that follow from sizes and integer constants.
    """

    shapes: dict[str, Shape | None] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)
    known: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)


@dataclass(slots=True)
class Caches:
    """What passes over one model share: facts of its initializers, types, and the evaluator with its nodes."""

    evaluator: Evaluator
    stored: Facts | None = None
    settings: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    types: dict[tuple[int, Shape | None], onnx.TypeProto] = field(default_factory=dict)
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
                self._put(value.name, int(value.dtype or 0), self.sizes.get(value.name))
        for node in graph:
            self._node(node)
        return self.facts

    def _put(self, name: str | None, dtype: int, shape: Shape | None) -> None:
        if name:
            self.facts.shapes[name] = shape
            self.facts.dtypes[name] = dtype

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
        dtype, shape = self.facts.dtypes.get(name, 0), self.facts.shapes.get(name)
        if not dtype:
            return None
        key = (dtype, shape)
        found = self.caches.types.get(key)
        if found is None:
            dims = None if shape is None else [None if d == UNKNOWN else d for d in shape]
            found = self.caches.types[key] = helper.make_tensor_type_proto(dtype, dims)
        return found

    def _typed(self, node: ir.Node) -> None:
        """Types of the outputs by the operator's shape function, else what the file says of them."""
        graphs = node.op_type in _WITH_SUBGRAPHS
        schema = None if graphs else self._schema(node.domain, node.op_type)
        found = () if schema is None else self._by_schema(node, schema)
        entry = custom(node.domain, node.op_type)
        if entry is not None:
            found = self._custom(node, entry) or found
        for value, typed in zip_longest(node.outputs, found):
            name = value.name or ""
            dtype, shape = typed or (int(value.dtype or 0), None)
            if shape is None and not graphs:
                shape = self._declared(value)
            same = (node.op_type in _SAME_SHAPE or entry is not None) and bool(node.inputs)
            if shape is None and same and node.inputs[0] is not None:
                source = node.inputs[0].name or ""
                dtype, shape = dtype or self.facts.dtypes.get(source, 0), self.facts.shapes.get(source)
            self._put(name, dtype, shape)

    def _custom(self, node: ir.Node, entry: Custom) -> tuple[Typed | None, ...]:
        """Types of a registered operator's outputs: by its shape function, as another operator, or by running it."""
        names = [v.name or "" if v is not None else "" for v in node.inputs]
        shapes, dtypes = [self.facts.shapes.get(n) for n in names], [self.facts.dtypes.get(n, 0) for n in names]
        attrs = {k: attribute(a) for k, a in node.attributes.items()}
        dtype = int(node.outputs[0].dtype or next(iter(dtypes), 0))
        made = shapes_of(entry, shapes, attrs, len(node.outputs))
        if made is not None:
            return tuple((int(v.dtype or dtype), s) for v, s in zip(node.outputs, made, strict=False))
        schema = self._schema(*entry.like.rpartition(".")[::2]) if entry.like else None
        with suppress(BadSizes):  # it is not as like as that
            if schema is not None:
                return self._by_schema(node, schema)
        if entry.run is None and not entry.probed:
            return ()
        known = {s: self.facts.known[n] for s, n in enumerate(names) if n in self.facts.known}
        return shapes_by_running(self.model, node, attrs, shapes, dtypes, known)

    def _schema(self, domain: str, op: str) -> defs.OpSchema | None:
        key = (domain, op)
        if key not in self.caches.schemas:
            domain = "" if domain == "ai.onnx" else domain
            version = self.opsets.get(domain, 1)
            schema = defs.get_schema(op, version, domain) if defs.has(op, version, domain) else None
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
        facts = self.facts
        seen = tuple((facts.dtypes[n], facts.shapes[n]) for n in names)
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
        except (shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError) as error:
            raise BadSizes(f"{node.op_type} {node.name or ''}: {str(error).splitlines()[0]}") from None
        made = (found.get(v.name or "") for v in node.outputs)
        typed = tuple(
            (t.tensor_type.elem_type, self._dims(t)) if t is not None and t.HasField("tensor_type") else None
            for t in made
        )
        if not data:
            self.caches.typed[key] = typed
        return typed

    def _dims(self, typed: onnx.TypeProto) -> Shape | None:
        tensor = typed.tensor_type
        if not tensor.HasField("shape"):
            return None
        shape = tuple(d.dim_value if d.HasField("dim_value") else UNKNOWN for d in tensor.shape.dim)
        if any(d < UNKNOWN for d in shape):
            raise BadSizes("a size becomes negative")
        return shape

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
    return Facts(dict(facts.shapes), dict(facts.dtypes), dict(facts.known))


def tensor_shape(tensor: ir.TensorProtocol) -> Shape:
    """Sizes of a stored tensor."""
    return tuple(int(d) for d in tensor.shape if isinstance(d, int))


def _static(shape: ir.Shape | None) -> Shape | None:
    return None if shape is None else tuple(d if isinstance(d, int) else UNKNOWN for d in shape)
