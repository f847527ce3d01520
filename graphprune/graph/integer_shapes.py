"""Shapes of operators outside the standard domain, which have no shape function of their own at hand.

Most are integer twins of a standard operator: its shape function is asked about the data operands. One entry of
``SHAPES`` per operator; an operator without one keeps what the file declares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx import defs, helper, shape_inference

from graphprune.graph.types import UNKNOWN, Shape

Typed = tuple[int, Shape | None]
_FLOAT, _BOOL, _UINT8 = (int(d) for d in (ir.DataType.FLOAT, ir.DataType.BOOL, ir.DataType.UINT8))


@dataclass(frozen=True, slots=True)
class Call:
    """A node with the types of its inputs ((0, None) for an omitted or unknown one)."""

    node: ir.Node
    inputs: Sequence[Typed]
    opset: int

    def shape(self, slot: int) -> Shape | None:
        """Sizes of an input, None when it is omitted or its rank is unknown."""
        return self.inputs[slot][1] if slot < len(self.inputs) else None

    def dtype(self, slot: int, default: int = 0) -> int:
        """Element type of an input."""
        return (self.inputs[slot][0] or default) if slot < len(self.inputs) else default

    def attr(self, name: str, default: int) -> int:
        """An integer attribute."""
        return self.node.attributes.get_int(name, default)


TWIN_OPSET = 20  # operators of onnxruntime are like the standard ones of today, whatever the model's opset
Shaper = Callable[[Call], tuple[Typed | None, ...]]


def integer_types(node: ir.Node, inputs: Sequence[Typed], opset: int) -> tuple[Typed | None, ...]:
    """Types of a node's outputs; () when nothing is known of the operator.

    Raises:
        onnx.shape_inference.InferenceError: The input sizes do not fit the operator.
    """
    shaper = SHAPES.get(f"{node.domain}.{node.op_type}")
    return shaper(Call(node, inputs, opset)) if shaper is not None else ()


def twin(op: str, slots: Callable[[int], Sequence[int]], dtype: Callable[[Call], int]) -> Shaper:
    """The shape of the standard operator ``op`` on the inputs ``slots(number of inputs)``."""

    def shaper(call: Call) -> tuple[Typed | None, ...]:
        used = [s for s in slots(len(call.inputs)) if s < len(call.inputs)]
        if call.attr("channels_last", 0) or any(call.shape(s) is None for s in used):
            return ()
        opset = max(call.opset, TWIN_OPSET)
        schema = defs.get_schema(op, opset, "")
        proto = onnx.NodeProto(op_type=op, input=[f"i{s}" for s in used], output=["o"])
        known = [a for n, a in call.node.attributes.items() if n in schema.attributes]
        proto.attribute.extend(ir.to_proto(a) for a in known)
        found = shape_inference.infer_node_outputs(
            schema,
            proto,
            {f"i{s}": _typed(call.dtype(s), call.shape(s) or ()) for s in used},
            {},
            opset_imports=[helper.make_opsetid("", opset)],
            ir_version=onnx.IR_VERSION,
        )
        return ((dtype(call), _dims(found.get("o"))),)

    return shaper


def _typed(dtype: int, shape: Shape) -> onnx.TypeProto:
    """Integers count as floats, which every standard operator takes."""
    kind = _BOOL if dtype == _BOOL else _FLOAT
    return helper.make_tensor_type_proto(kind, [None if d == UNKNOWN else d for d in shape])


def _dims(typed: onnx.TypeProto | None) -> Shape | None:
    if typed is None or not typed.tensor_type.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else UNKNOWN for d in typed.tensor_type.shape.dim)


def _packed_matmul(call: Call) -> tuple[Typed | None, ...]:
    """A (…, K) by packed weights of N rows: (…, N)."""
    shape = call.shape(0)
    return ((call.dtype(0), None if shape is None else (*shape[:-1], call.attr("N", UNKNOWN))),)


def _gather_blocks(call: Call) -> tuple[Typed | None, ...]:
    """Gather of dequantised rows; bytes hold several values along the last axis."""
    data, indices = call.shape(0), call.shape(1)
    if data is None or indices is None:
        return ()
    if call.dtype(0) == _UINT8:
        data = (*data[:-1], data[-1] * (8 // call.attr("bits", 4)))
    axis = call.attr("gather_axis", 0) % len(data)
    return ((call.dtype(2, _FLOAT), (*data[:axis], *indices, *data[axis + 1 :])),)


def _dynamic_lstm(call: Call) -> tuple[Typed | None, ...]:
    """X (T, B, I) and R (D, H, 4H): Y (T, D, B, H), then both last states (D, B, H)."""
    x, r = call.shape(0), call.shape(2)
    if x is None or r is None:
        return ()
    state = (r[0], x[1], r[1])
    return (_FLOAT, (x[0], *state)), (_FLOAT, state), (_FLOAT, state)


def _q_attention(call: Call) -> tuple[Typed | None, ...]:
    """Input (B, S, I) and weight (I, 3·heads·d): the output is (B, S, heads·d)."""
    x, w = call.shape(0), call.shape(1)
    return () if x is None or w is None else ((call.dtype(3, _FLOAT), (*x[:-1], w[1] // 3)),)


def _same(call: Call) -> int:
    return call.dtype(0)


SHAPES: dict[str, Shaper] = {
    f"com.microsoft.{op}": shaper
    for op, shaper in {
        **{f"QLinear{op}": twin(op, lambda _: (0, 3), _same) for op in ("Add", "Mul")},
        "QLinearConv": twin("Conv", lambda _: (0, 3), lambda c: c.dtype(7)),
        **{op: twin("Identity", lambda _: (0,), _same) for op in ("QLinearSigmoid", "QLinearLeakyRelu")},
        "QLinearSoftmax": twin("Identity", lambda _: (0,), _same),
        "QLinearAveragePool": twin("AveragePool", lambda _: (0,), _same),
        "QLinearGlobalAveragePool": twin("GlobalAveragePool", lambda _: (0,), _same),
        "QLinearConcat": twin("Concat", lambda n: range(2, n, 3), lambda c: c.dtype(1)),
        "QLinearWhere": twin("Where", lambda _: (0, 1, 4), lambda c: c.dtype(1)),
        "QGemm": twin("Gemm", lambda _: (0, 3), lambda c: c.dtype(8, _FLOAT)),
        "DynamicQuantizeMatMul": twin("MatMul", lambda _: (0, 1), _same),
        "MatMulIntegerToFloat": twin("MatMul", lambda _: (0, 1), lambda c: c.dtype(2)),
        "QuantizeLinear": twin("Identity", lambda _: (0,), lambda c: c.dtype(2, _UINT8)),
        "DequantizeLinear": twin("Identity", lambda _: (0,), lambda c: c.dtype(1)),
        "MatMulNBits": _packed_matmul,
        "MatMulBnb4": _packed_matmul,
        "GatherBlockQuantized": _gather_blocks,
        "DynamicQuantizeLSTM": _dynamic_lstm,
        "QAttention": _q_attention,
    }.items()
}
