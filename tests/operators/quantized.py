"""Integers with scales and zero points: quantisers, integer products and convolutions, packed weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import helper, numpy_helper

from tests.operators.case import Array, Case, Sizes, case

_ZERO = np.uint8(5)  # the zero point of an activation; 0.5 becomes 5 where a float source turns into an integer
_OUT = 2.5, np.uint8(7)
_ms = "com.microsoft.{}".format


def _run(op: str, arrays: list[Array | None], outputs: int, **attrs: Any) -> list[Array]:
    names = [f"x{i}" if a is not None else "" for i, a in enumerate(arrays)]
    outs = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, outs, domain="com.microsoft", **attrs)
    stored = [numpy_helper.from_array(a, n) for a, n in zip(arrays, names, strict=True) if a is not None]
    graph = helper.make_graph([node], "one", [], [helper.make_empty_tensor_value_info(o) for o in outs], stored)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # each thread takes the range of its own part of a batch
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {}))


def _lstm(inputs: list[Array], kept: list[list[Array]], sizes: Sizes) -> list[Array]:
    """The operator itself, on the kept inputs and hidden units of every gate."""
    x, w, r, b, w_scale, w_zero, r_scale, r_zero = inputs
    n, units, features = sizes["h"], kept[2][1], kept[0][2]
    gates = np.concatenate([g * n + units for g in range(8)])
    rows = gates[: 4 * len(units)]
    each = w_scale.ndim == 2

    def own(array: Array) -> Array:
        return np.ascontiguousarray(array[:, rows]) if each else array

    arrays = [
        x[:, :, features], w[:, features][:, :, rows], r[:, units][:, :, rows], b[:, gates], None, None, None, None,
        own(w_scale), own(w_zero), own(r_scale), own(r_zero),
    ]  # fmt: skip
    return _run("DynamicQuantizeLSTM", arrays, 3, hidden_size=len(units))


def _nbits(bits: int, *, packed_zeros: bool) -> Any:
    """Dequantises the weight and multiplies: (A, B, scales, zero points, bias)."""

    def unpack(array: Array, count: int) -> Array:
        per = 8 // bits
        spread = np.stack([(array >> (bits * i)) & (2**bits - 1) for i in range(per)], axis=-1)
        return spread.reshape(*array.shape[:-1], -1)[..., :count]

    def judge(inputs: list[Array], kept: list[list[Array]], sizes: Sizes) -> list[Array]:
        a, b, scales = inputs[:3]
        rows, blocks = b.shape[:2]
        values = unpack(b, b.shape[2] * 8 // bits).astype(np.float64)
        zeros: Array = np.full((rows, blocks), 2.0 ** (bits - 1))
        if packed_zeros:
            zeros = unpack(inputs[3].reshape(rows, -1), blocks)
        full = (values - zeros[..., None]) * scales.reshape(rows, blocks)[..., None]
        k, n = kept[0][-1], kept[1][0]
        out = a[..., k].astype(np.float64) @ full.reshape(rows, -1)[n][:, k].T
        out = out[np.ix_(*kept[0][:-1])]
        return [out + inputs[-1][n] if inputs[-1].shape == (rows,) else out]

    return judge


_CONV = "uint8 n i 6", 0.1, _ZERO, "weight int8 o i 3", "weight o", "weight int8 o", *_OUT
_BLOCKS = {"block_size": lambda d: d["c"], "opset": 21}
_INT8 = np.int8(0)

CASES: tuple[Case, ...] = (
    # To integers and back.
    case("QuantizeLinear", "n c h", "weight c", "weight uint8 c", free="n c h", positive=True, axis=1),
    case("QuantizeLinear", "n c h", 0.1, free="n c h", note="tensor"),
    case("QuantizeLinear", "n c h", 0.1, free="n c h", note="output_dtype", output_dtype=3, opset=21),
    case("QuantizeLinear", "n c h", "weight h", free="n c h", note="last", positive=True, axis=-1),
    case("QuantizeLinear", "n ?2*c h", "weight n 2 h", free="n 2 h", positive=True, note="blocks", axis=1, **_BLOCKS),
    case("QuantizeLinear", "n c", "weight c", "weight int16 c", free="n c", positive=True, opset=21, note="int16"),
    case("DequantizeLinear", "weight int8 n c", "weight n", "weight int8 n", free="n c", axis=0),
    case("DequantizeLinear", "uint8 n c", 0.1, free="n c", note="tensor"),
    case("DequantizeLinear", "weight int32 c", 0.1, free="c", note="bias"),
    case(
        "DequantizeLinear", "weight int8 n ?3*c", "weight n 3", "weight int8 n 3", free="n 3", axis=1, note="blocks",
        **_BLOCKS,
    ),
    case("DequantizeLinear", "weight int4 n c", "weight n", "weight int4 n", free="n c", axis=0, opset=21, note="int4"),
    case("DequantizeLinear", "weight uint4 n ?3*c", "weight n 3", free="n 3", axis=1, note="uint4_blocks", **_BLOCKS),
    case("DequantizeLinear", "weight int16 n c", "weight c", free="n c", opset=21, note="int16"),
    case("DequantizeLinear", "weight float8_e4m3fn n c", "weight c", free="n c", opset=21, note="float8"),
    case(
        "DequantizeLinear", "weight int8 n ?7", "weight n 4", free="n 4", axis=1, note="short_block", block_size=2,
        opset=21,
    ),
    case(_ms("QuantizeLinear"), "n c h", "weight c", "weight uint8 c", free="n c h", positive=True, axis=1),
    case(_ms("DequantizeLinear"), "weight int8 n c", "weight n", "weight int8 n", free="n c", axis=0),
    case("DynamicQuantizeLinear", "n c", free="n c", restricted=True, outputs=(True, True, True)),
    case("BitCast", "n c", free="n c", to=6, opset=26),
    # Element by element.
    *(case(_ms(op), "uint8 n c", 0.1, _ZERO, 0.3, np.uint8(1), free="n c") for op in ("QLinearSigmoid",)),
    case(_ms("QLinearLeakyRelu"), "uint8 n c", 0.1, _ZERO, 0.3, np.uint8(1), free="n c", alpha=0.1),
    *(
        case(_ms(op), "uint8 n c", 0.1, _ZERO, operand, 0.2, np.uint8(1), 0.3, np.uint8(2), free="n c", note=note)
        for op in ("QLinearAdd", "QLinearMul")
        for operand, note in (("uint8 n c", ""), ("uint8 c", "stretched"), ("weight uint8 1 c", "weight"))
    ),
    case(_ms("QLinearWhere"), "bool n c", "uint8 n c", 0.1, _ZERO, "uint8 1 c", 0.2, _ZERO, 0.3, _ZERO, free="n c"),
    case(_ms("QLinearConcat"), 0.3, np.uint8(1), "uint8 n c", 0.1, _ZERO, "uint8 n d", 0.2, _ZERO, free="n c d",
         axis=1),
    Case(
        _ms("QLinearSoftmax"), ("uint8 n t c", 0.1, _ZERO, 0.01, np.uint8(0)), free="n t",
        attrs={"axis": -1, "opset": 13},
    ),
    Case(
        _ms("QLinearSoftmax"), ("uint8 n t c", 0.1, _ZERO, 0.01, np.uint8(0)), free="n",
        attrs={"axis": 1, "opset": 11}, note="flat",
    ),
    case(_ms("QLinearAveragePool"), "uint8 n c 6", 0.1, _ZERO, 0.2, _ZERO, free="n c", kernel_shape=[2]),
    case(_ms("QLinearGlobalAveragePool"), "uint8 n c 5 6", 0.1, _ZERO, 0.2, _ZERO, free="n c"),
    # Products: removed positions are worth the zero point.
    case("MatMulInteger", "uint8 n k", "weight int8 k m", free="n k m", zero="k"),
    case("MatMulInteger", "uint8 n k", "weight uint8 k m", _ZERO, free="n k m", zero="k", nothing=0.5, note="zero"),
    case(
        "MatMulInteger", "uint8 b n k", "weight int8 k m", _ZERO, "weight int8 m", free="b n k m", zero="k",
        nothing=0.5, note="per_column",
    ),
    case(
        "QLinearMatMul", "uint8 n k", 0.1, _ZERO, "weight int8 k m", 0.2, _INT8, *_OUT, free="n k m", zero="k",
        nothing=0.5,
    ),
    case(
        "QLinearMatMul", "uint8 n k", 0.1, _ZERO, "weight int8 k m", "weight m", "weight int8 m", *_OUT, free="n k m",
        zero="k", nothing=0.5, positive=True, note="per_column",
    ),
    case(
        _ms("MatMulIntegerToFloat"), "uint8 n k", "weight int8 k m", 0.1, "weight m", _ZERO, "weight int8 m",
        "weight m", free="n k m", zero="k", nothing=0.5,
    ),
    case(
        _ms("DynamicQuantizeMatMul"), "n k", "weight int8 k m", "weight m", "weight int8 m", "weight m",
        free="n k m", restricted=True,
    ),
    case(
        _ms("QGemm"), "uint8 n k", 0.1, _ZERO, "weight int8 m k", "weight m", "weight int8 m", "weight int32 m",
        *_OUT, free="n k m", zero="k", nothing=0.5, positive=True, transB=1,
    ),
    case(
        _ms("QGemm"), "uint8 n k", 0.1, _ZERO, "weight int8 k m", 0.2, _INT8, free="n k m", zero="k", nothing=0.5,
        note="float",
    ),
    # Convolutions.
    case("QLinearConv", *_CONV, free="n i o", zero="i", nothing=0.5, positive=True, pads=[1, 1]),
    case("QLinearConv", *_CONV, "weight int32 o", free="n i o", zero="i", nothing=0.5, positive=True, note="bias"),
    case(_ms("QLinearConv"), *_CONV, "weight int32 o", free="n i o", zero="i", nothing=0.5, positive=True),
    case(
        "QLinearConv", "uint8 n c 6", 0.1, _ZERO, "weight int8 c 1 3", 0.2, _INT8, *_OUT, free="n c",
        group=lambda d: d["c"], note="depthwise",
    ),
    case(
        "QLinearConv", "uint8 n g*i 6", 0.1, _ZERO, "weight int8 g*o i 3", "weight g*o", "weight int8 g*o", *_OUT,
        free="n g i o", zero="g*i", nothing=0.5, positive=True, group=lambda d: d["g"], note="grouped",
    ),
    case("ConvInteger", "uint8 n i 6", "weight uint8 o i 3", free="n i o", zero="i", pads=[1, 1]),
    case(
        "ConvInteger", "uint8 n i 6", "weight uint8 o i 3", _ZERO, np.uint8(2), free="n i o", zero="i", nothing=0.5,
        pads=[1, 1], note="zero",
    ),
    # Weights packed in blocks of 16 along k; bytes of zero points hold two blocks.
    case(
        _ms("MatMulNBits"), "n ?48", "weight uint8 m 3 8", "weight ?m*3", "", "", "weight m", free="n 3 m",
        judge=_nbits(4, packed_zeros=False), N=lambda d: d["m"], K=48, bits=4, block_size=16,
    ),
    case(
        _ms("MatMulNBits"), "b n ?64", "weight uint8 m ?4 8", "weight m ?4", "weight uint8 m 2", free="b n 2 m",
        judge=_nbits(4, packed_zeros=True), N=lambda d: d["m"], K=64, bits=4, block_size=16, note="zeros",
    ),
    case(
        _ms("MatMulNBits"), "n ?80", "weight uint8 m ?5 8", "weight ?m*5", "weight uint8 ?m*3", free="n 3 m",
        judge=_nbits(4, packed_zeros=True), N=lambda d: d["m"], K=80, bits=4, block_size=16, note="odd",
    ),
    case(
        _ms("MatMulNBits"), "n ?48", "weight uint8 m 3 16", "weight ?m*3", free="n 3 m",
        judge=_nbits(8, packed_zeros=False), N=lambda d: d["m"], K=48, bits=8, block_size=16, note="bytes",
    ),
    case(_ms("MatMulBnb4"), "n 32", "weight uint8 m*16", "weight m", free="n", N=lambda d: d["m"], K=32,
         block_size=32, quant_type=1, transB=1),
    case(
        _ms("GatherBlockQuantized"), "weight uint4 v ?48", "indices b s", "weight v 3", free="3", bound="v",
        gather_axis=0, quantize_axis=1, block_size=16, opset=21,
    ),
    case(
        _ms("GatherBlockQuantized"), "weight uint8 v ?32", "indices b s", "weight v ?4", "weight uint8 v 2", free="2",
        bound="v", gather_axis=0, quantize_axis=1, block_size=16, opset=21, note="bytes",
    ),
    case(
        _ms("GatherBlockQuantized"), "weight uint4 v ?48", "picked b s", "weight v 3", free="b s 3", bound="v",
        gather_axis=0, quantize_axis=1, block_size=16, opset=21, note="computed",
    ),
    *(
        case(
            _ms("QAttention"), "uint8 b s i", f"weight {kind} i 12*h", "weight 12*h", 0.05, scale, "", _ZERO, zero,
            free="i h", zero="i", nothing=0.5, num_heads=lambda d: d["h"], note=kind,
        )
        for kind, scale, zero in (("int8", 0.1, np.int8(0)), ("uint8", 0.1, np.uint8(2)))
    ),
    # Recurrent.
    *(
        case(
            _ms("DynamicQuantizeLSTM"), "t b i", "weight int8 1 i 4*h", "weight int8 1 h 4*h", "weight 1 8*h", "", "",
            "", "", scale, zeros, scale, zeros, free="i h", judge=_lstm, hidden_size=lambda d: d["h"],
            outputs=(True, True, True), unit=True, note=note,
        )
        for scale, zeros, note in (
            ("weight 1", np.zeros(1, np.int8), ""),
            ("weight 1 4*h", lambda d: np.zeros((1, 4 * d["h"]), np.int8), "per_channel"),
        )
    ),
)  # fmt: skip
