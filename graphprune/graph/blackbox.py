"""One operator as a black box: a Python kernel, or a session of onnxruntime with one node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from graphprune.graph.control import BadSizes
from graphprune.graph.custom import STANDARD, Custom, attribute, called, custom, libraries, shapes_of
from graphprune.graph.model import Array
from graphprune.graph.types import Typed

if TYPE_CHECKING:
    from graphprune.graph.infer import Pass


class CannotProbe(Exception):
    """The operator does not run on these inputs."""


class BlackBox:
    """Runs one node on any inputs.

    Args:
        model: The model it belongs to, for its opsets and local functions.
        domain: Domain of the operator.
        op: Its type.
        attrs: Its attributes.
        outputs: Which outputs are wanted.
        fixed: Content of inputs, by slot, that are stored in the file: settings.
    """

    def __init__(
        self,
        model: ir.Model,
        domain: str,
        op: str,
        attrs: Mapping[str, Any],
        outputs: Sequence[bool],
        fixed: Mapping[int, Array] | None = None,
    ) -> None:
        self.model, self.domain, self.op, self.attrs = model, domain, op, dict(attrs)
        self.outputs, self.fixed = tuple(outputs), dict(fixed or {})
        entry = custom(domain, op)
        self.kernel = entry.run if entry is not None else None
        self._sessions: dict[tuple[tuple[str, int] | None, ...], Any] = {}

    def __call__(self, inputs: Sequence[Array | None]) -> list[Array | None]:
        """Outputs by slot, None for those not wanted.

        Args:
            inputs: Content by slot, None for an omitted input.

        Raises:
            CannotProbe: It does not run.
        """
        try:
            with np.errstate(all="ignore"):
                if self.kernel is not None:
                    made: list[Any] = called(self.kernel, inputs, self.attrs)
                else:
                    feed = {f"i{k}": a for k, a in enumerate(inputs) if a is not None and k not in self.fixed}
                    made = self._session(inputs).run(None, feed)
        except Exception as error:
            raise CannotProbe(" ".join(str(error).split())[:300]) from None
        if self.kernel is not None:
            return [a if used else None for a, used in zip(made, self.outputs, strict=False)]
        rest = iter(made)
        return [np.asarray(next(rest)) if used else None for used in self.outputs]

    def _session(self, inputs: Sequence[Array | None]) -> Any:
        key = tuple(None if a is None else (str(a.dtype), a.ndim) for a in inputs)
        if key not in self._sessions:
            import onnxruntime as ort

            options = ort.SessionOptions()
            options.log_severity_level, options.intra_op_num_threads = 4, 1
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            for path in libraries():
                options.register_custom_ops_library(path)
            proto = self._proto(inputs).SerializeToString()
            self._sessions[key] = ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
        return self._sessions[key]

    def _proto(self, inputs: Sequence[Array | None]) -> onnx.ModelProto:
        names = ["" if a is None else f"i{k}" for k, a in enumerate(inputs)]
        outs = [f"o{k}" if used else "" for k, used in enumerate(self.outputs)]
        domain = "" if self.domain in STANDARD else self.domain
        node = helper.make_node(self.op, names, outs, domain=domain)
        for name, value in self.attrs.items():
            given = numpy_helper.from_array(value, name) if isinstance(value, np.ndarray) else value
            node.attribute.append(helper.make_attribute(name, given))
        stored = [numpy_helper.from_array(np.asarray(a), f"i{k}") for k, a in self.fixed.items()]
        open_ = [
            helper.make_tensor_value_info(f"i{k}", helper.np_dtype_to_tensor_dtype(a.dtype), [None] * a.ndim)
            for k, a in enumerate(inputs)
            if a is not None and k not in self.fixed
        ]
        results = [helper.make_empty_tensor_value_info(o) for o in outs if o]
        graph = helper.make_graph([node], "black box", open_, results, stored)
        opsets = dict(self.model.graph.opset_imports)
        if domain not in opsets and "ai.onnx" not in opsets:
            opsets[domain] = 1
        imports = [helper.make_opsetid(d, v) for d, v in opsets.items()]
        functions = [ir.to_proto(f) for f in self.model.functions.values()]
        return helper.make_model(
            graph, opset_imports=imports, ir_version=min(self.model.ir_version, 10), functions=functions
        )


def sample(rng: np.random.Generator, dtype: str, shape: Sequence[int], kind: int) -> Array:
    """Random content of an input.

    Args:
        rng: Where it is drawn from.
        dtype: Name of the element type.
        shape: Sizes.
        kind: 0 normal, 1 normal and large, 2 positive, from 3 on between -1 and 1.

    Raises:
        CannotProbe: There are no random values of this type.
    """
    element = ir.DataType[dtype.upper()].numpy() if dtype else np.dtype("f4")
    if element.kind == "b":
        return np.asarray(rng.integers(0, 2, shape), bool)
    if element.kind in "iu":
        return np.asarray(rng.integers(0, (2, 100, 2, 5)[min(kind, 3)], shape), element)
    if element.kind not in "fV":
        raise CannotProbe(f"there are no random values of type {dtype}")
    if kind >= 2:
        return np.asarray(rng.uniform(0.1 if kind == 2 else -1, 2 if kind == 2 else 1, shape), element)
    return np.asarray((30.0 if kind else 1.0) * rng.standard_normal(shape), element)


def shapes_by_running(
    model: ir.Model,
    node: ir.Node,
    attrs: Mapping[str, Any],
    shapes: Sequence[tuple[int, ...] | None],
    dtypes: Sequence[int],
    known: Mapping[int, Array],
) -> tuple[Typed | None, ...]:
    """Element types and shapes of a node's outputs, from one run on random inputs; () where it does not run.

    Args:
        model: The model the node belongs to.
        node: The node.
        attrs: Its attributes.
        shapes: Sizes of its inputs by slot.
        dtypes: ONNX element types of its inputs by slot, 0 for an omitted one.
        known: Content of inputs that are settings.
    """
    if any(d and (s is None or min(s, default=0) < 0) for s, d in zip(shapes, dtypes, strict=True)):
        return ()
    box = BlackBox(model, node.domain, node.op_type, attrs, [bool(v.name) for v in node.outputs], known)
    rng = np.random.default_rng(0)
    try:
        made = box(
            [
                known[k] if k in known else sample(rng, ir.DataType(d).name, s, 3) if d and s is not None else None
                for k, (s, d) in enumerate(zip(shapes, dtypes, strict=True))
            ]
        )
    except CannotProbe:
        return ()
    return tuple(None if a is None else (int(ir.DataType.from_numpy(a.dtype)), a.shape, "") for a in made)


def infer_custom(p: Pass, node: ir.Node, entry: Custom) -> tuple[Typed | None, ...]:
    """Types of a registered operator's outputs: by its shape function, as another operator, or by running it."""
    names = [v.name or "" if v is not None else "" for v in node.inputs]
    shapes, dtypes = [p.facts.shapes.get(n) for n in names], [p.facts.dtypes.get(n, 0) for n in names]
    attrs = {k: attribute(a) for k, a in node.attributes.items()}
    dtype = int(node.outputs[0].dtype or next(iter(dtypes), 0))
    made = shapes_of(entry, shapes, attrs, len(node.outputs))
    if made is not None:
        return tuple((int(v.dtype or dtype), s, "") for v, s in zip(node.outputs, made, strict=False))
    schema = p.schema(*entry.like.rpartition(".")[::2]) if entry.like else None
    with suppress(BadSizes):  # it is not as like as that
        if schema is not None:
            return p.by_schema(node, schema)
    if entry.run is None and not entry.probed:
        return ()
    known = {s: p.facts.known[n] for s, n in enumerate(names) if n in p.facts.known}
    return shapes_by_running(p.model, node, attrs, shapes, dtypes, known)
