"""Evaluates shape arithmetic with onnx's reference operators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper
from onnx.reference import ReferenceEvaluator

MAX_KNOWN = 1 << 16
_RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
    "Dropout",
}
_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
Known = np.ndarray[Any, Any]


class Evaluator:
    """Runs single standard operators on known inputs; equal applications share one evaluator."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self._protos: dict[int, onnx.NodeProto] = {}
        self._signatures: dict[int, bytes] = {}
        self._runners: dict[bytes, ReferenceEvaluator] = {}

    def proto(self, node: ir.Node) -> onnx.NodeProto:
        """The node serialised, once."""
        found = self._protos.get(id(node))
        if found is None:
            found = self._protos[id(node)] = _light_proto(node)
        return found

    def signature(self, node: ir.Node) -> bytes:
        """What the node does, whatever its values are called."""
        found = self._signatures.get(id(node))
        if found is None:
            proto = _canonical(self.proto(node), [bool(n) for n in self.proto(node).input])
            found = self._signatures[id(node)] = proto.SerializeToString(deterministic=True)
        return found

    def run(self, node: ir.Node, inputs: Sequence[Known | None]) -> list[Known] | None:
        """Outputs for known inputs (None for an omitted one); None when they are better not known.

        Random operators, control flow, float fills and dequantised tensors (those are weights) and large results
        stay unknown.
        """
        if (
            node.op_type in _RANDOM
            or node.op_type == "DequantizeLinear"
            or any(a.type in _GRAPHS for a in node.attributes.values())
        ):
            return None
        if node.op_type in ("ConstantOfShape", "Expand", "Tile") and not _small(node, inputs):
            return None
        try:
            with np.errstate(all="ignore"):
                results = self._runner(node, inputs).run(
                    None, {f"i{k}": v for k, v in enumerate(inputs) if v is not None}
                )
        except Exception:
            return None
        if any(not isinstance(r, np.ndarray | np.generic) or np.size(r) > MAX_KNOWN for r in results):
            return None
        return [np.asarray(r) for r in results]

    def _runner(self, node: ir.Node, inputs: Sequence[Known | None]) -> ReferenceEvaluator:
        proto = _canonical(self.proto(node), [v is not None for v in inputs])
        key = proto.SerializeToString(deterministic=True)
        found = self._runners.get(key)
        if found is None:
            found = self._runners[key] = ReferenceEvaluator(proto, opsets={"": self.opset})
        return found


def _small(node: ir.Node, inputs: Sequence[Known | None]) -> bool:
    """Whether a broadcast stays small; float fills of rank ≥ 1 are weights, not sizes."""
    data, target = inputs[0], inputs[-1]
    if data is None or target is None:
        return False
    if node.op_type == "ConstantOfShape":
        fill = node.attributes.get_tensor("value", None)
        floating = fill is None or fill.dtype.is_floating_point()
    else:
        floating = data.dtype.kind not in "iub"
    if floating and target.size:
        return False
    return bool(np.prod(np.maximum(target, 1), dtype=np.float64) <= MAX_KNOWN)


def _light_proto(node: ir.Node) -> onnx.NodeProto:
    """The node without its documentation; plain attributes are written directly, which is most of them."""
    proto = onnx.NodeProto(op_type=node.op_type, domain=node.domain, name=node.name or "")
    proto.input.extend(v.name or "" if v is not None else "" for v in node.inputs)
    proto.output.extend(v.name or "" for v in node.outputs)
    for name, attr in node.attributes.items():
        kind = attr.type
        if kind == ir.AttributeType.INTS:
            proto.attribute.add(name=name, type=onnx.AttributeProto.INTS, ints=attr.value)
        elif kind == ir.AttributeType.INT:
            proto.attribute.add(name=name, type=onnx.AttributeProto.INT, i=attr.value)
        elif kind == ir.AttributeType.FLOAT:
            proto.attribute.add(name=name, type=onnx.AttributeProto.FLOAT, f=attr.value)
        elif kind == ir.AttributeType.STRING:
            proto.attribute.add(name=name, type=onnx.AttributeProto.STRING, s=str(attr.value).encode())
        else:
            proto.attribute.append(ir.to_proto(attr))
    return proto


def _canonical(node: onnx.NodeProto, given: Sequence[bool]) -> onnx.NodeProto:
    """The node with positional value names, so that equal applications share one evaluator."""
    proto = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
    proto.attribute.extend(node.attribute)
    proto.input.extend(f"i{k}" if g else "" for k, g in enumerate(given))
    proto.output.extend(f"o{k}" for k in range(len(node.output)))
    return proto


class Operators:
    """Runs single nodes of a model by the name they have in the neutral graph, on arrays of any size."""

    def __init__(self, nodes: Iterable[tuple[str, ir.Node]], opsets: Mapping[str, int]) -> None:
        self._nodes = dict(nodes)
        self._opsets = dict(opsets)
        self._runners: dict[bytes, ReferenceEvaluator] = {}

    def runs(self, name: str) -> bool:
        """Whether a node is a standard operator without subgraphs whose outputs follow from its inputs."""
        node = self._nodes.get(name)
        if node is None or node.domain not in ("", "ai.onnx") or node.op_type in _RANDOM:
            return False
        return not any(a.type in _GRAPHS for a in node.attributes.values())

    def __call__(self, name: str, inputs: Sequence[Known | None]) -> list[Known] | None:
        """Outputs of a node, None where the reference has no answer."""
        node = self._nodes[name]
        try:
            model = self._model(node, inputs)
            key = model.SerializeToString(deterministic=True)
            if key not in self._runners:
                self._runners[key] = ReferenceEvaluator(model)
            with np.errstate(all="ignore"):
                feed = {f"i{k}": v for k, v in enumerate(inputs) if v is not None}
                results = self._runners[key].run(None, feed)
        except Exception:
            return None
        return [np.asarray(r) for r in results]

    def _model(self, node: ir.Node, inputs: Sequence[Known | None]) -> onnx.ModelProto:
        """A model of one node; its inputs are typed, which operators defined as functions need."""
        proto = _canonical(_light_proto(node), [v is not None for v in inputs])
        given = [(f"i{k}", v.dtype) for k, v in enumerate(inputs) if v is not None]
        typed = [helper.make_tensor_value_info(n, _element(t), None) for n, t in given]
        outs = [helper.make_empty_tensor_value_info(o) for o in proto.output]
        imports = [helper.make_opsetid(d, v) for d, v in self._opsets.items() if d in ("", "ai.onnx")]
        return helper.make_model(helper.make_graph([proto], "node", typed, outs), opset_imports=imports)


def _element(dtype: np.dtype[Any]) -> int:
    """ONNX element type; doubles stand for floats of any precision."""
    return int(onnx.TensorProto.FLOAT if dtype == np.float64 else helper.np_dtype_to_tensor_dtype(dtype))
