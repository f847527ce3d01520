"""Networks as onnxruntime's own quantisers write them."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from tests.graphs.builder import Builder
from tests.graphs.feeds import random_feeds

if TYPE_CHECKING:
    from onnx import ModelProto


def convnet() -> ModelProto:
    """A stem, an inverted residual with a depthwise convolution, a residual with a projection, two branches."""
    b = Builder("convnet")
    x = b.conv_relu(b.source("image", ["n", 3, 16, 16]), 3, 16, name="stem")
    y = b.conv_relu(x, 16, 48, 1, "expand")
    y = b.conv(b.op("Relu", b.conv(y, 48, 48, 3, "depthwise", group=48)), 48, 16, 1, "project")
    x = b.op("Add", x, y)
    y = b.conv(b.conv_relu(x, 16, 24, 3, "inner"), 24, 32, 3, "outer")
    x = b.op("Relu", b.op("Add", y, b.conv(x, 16, 32, 1, "skip")))
    x = b.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = b.op("Concat", b.conv(x, 32, 16, 3, "left"), b.op("Sigmoid", b.conv(x, 32, 16, 1, "right")), axis=1)
    return b.build(b.classifier(x, 32))


def decoder(width: int = 64, heads: int = 4, inner: int = 128, layers: int = 2, vocab: int = 50) -> ModelProto:
    """Pre-norm transformer layers between an embedding and a head."""
    b = Builder("decoder")
    x = b.op("Gather", b.weight(vocab, width, name="embed"), b.source("ids", ["b", "s"], onnx.TensorProto.INT64))
    for i in range(layers):
        y = b.layernorm(x, width, f"norm_a{i}")
        q, k, v = (
            b.transpose(b.reshape(b.linear(y, width, width, f"{n}{i}"), 0, 0, heads, -1), 0, 2, 1, 3) for n in "qkv"
        )
        scores = b.op("Div", b.op("MatMul", q, b.transpose(k, 0, 1, 3, 2)), b.scalar((width // heads) ** 0.5))
        mixed = b.transpose(b.op("MatMul", b.op("Softmax", scores), v), 0, 2, 1, 3)
        x = b.op("Add", x, b.linear(b.reshape(mixed, 0, 0, -1), width, width, f"out{i}"))
        y = b.op("Gelu", b.linear(b.layernorm(x, width, f"norm_b{i}"), width, inner, f"up{i}"))
        x = b.op("Add", x, b.linear(y, inner, width, f"down{i}"))
    return b.build(b.linear(b.layernorm(x, width, "norm"), width, vocab, "head"))


def mlp() -> ModelProto:
    """Two hidden layers, of a Gemm and of a MatMul."""
    b = Builder("mlp")
    x = b.op("Relu", b.gemm(b.source("x", ["n", 32]), 32, 48, "first"))
    return b.build(b.linear(b.op("Relu", b.linear(x, 48, 40, "second")), 40, 6, "last"))


class _Reader(CalibrationDataReader):
    def __init__(self, model: ModelProto) -> None:
        self.feeds = iter([random_feeds(model, seed, {"n": 4}) for seed in range(4)])

    def get_next(self) -> Any:
        return next(self.feeds, None)


def static(
    model: ModelProto, how: QuantFormat, *, per_channel: bool, activation: QuantType, weight: QuantType, symmetric: bool
) -> ModelProto:
    """Calibrated on random inputs."""
    options = {"ActivationSymmetric": symmetric, "WeightSymmetric": weight == QuantType.QInt8}
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "integer.onnx"
        onnx.save(model, source)
        quantize_static(
            source, target, _Reader(model), quant_format=how, per_channel=per_channel, activation_type=activation,
            weight_type=weight, extra_options=options,
        )  # fmt: skip
        return onnx.load(target)


def dynamic(model: ModelProto, *, per_channel: bool, weight: QuantType) -> ModelProto:
    """Weights in integers, activations quantised as they come."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "integer.onnx"
        onnx.save(model, source)
        quantize_dynamic(source, target, per_channel=per_channel, weight_type=weight)
        return onnx.load(target)


def nbits(model: ModelProto, how: QuantFormat, bits: int, *, symmetric: bool, block: int = 16) -> ModelProto:
    """Weights in blocks of few bits: MatMulNBits, or DequantizeLinear of opset 21."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    logging.disable(logging.WARNING)
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    quantizer = MatMulNBitsQuantizer(
        copy, block_size=block, is_symmetric=symmetric, bits=bits, quant_format=how,
        op_types_to_quantize=("MatMul", "Gather") if bits == 4 and how == QuantFormat.QOperator else ("MatMul",),
        quant_axes=(("MatMul", 0), ("Gather", 1)),
    )  # fmt: skip
    quantizer.process()
    found: ModelProto = quantizer.model.model
    return found


def optimised(model: ModelProto) -> ModelProto:
    """As onnxruntime writes it after fusing what it can."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "fused.onnx")
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)
