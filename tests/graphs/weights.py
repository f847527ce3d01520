"""Where weights live: shared, tied, behind other nodes, in Constant nodes, in branches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.graphs.builder import Builder
from tests.graphs.registry import ambiguous, golden

if TYPE_CHECKING:
    from onnx import ModelProto


def _dense(b: Builder, x: str, weight: str, bias: str | None = None) -> str:
    """relu(x weight + bias)."""
    x = b.op("MatMul", x, weight)
    return b.op("Relu", b.op("Add", x, bias) if bias else x)


@golden(12, 12, 12)
def shared_zero_bias() -> ModelProto:
    """One zero vector is the bias of three hidden layers of 12 units and of a classifier with 12 classes.

    Equal constants are no tie: the layers are independent; the classifier's frozen rows freeze nobody else.
    """
    b = Builder("shared_zero_bias")
    x, zero = b.source("hidden", [2, 10]), b.const(np.zeros(12, np.float32), "zero")
    for i, n_in in enumerate((10, 12, 12)):
        x = _dense(b, x, b.weight(n_in, 12, fan_in=n_in, name=f"fc{i}.weight"), zero)
    logits = b.op("MatMul", x, b.weight(12, 12, fan_in=12, name="classifier.weight"))
    return b.build(b.op("Add", logits, zero))


@golden(12, 12)
def shared_norm_scale() -> ModelProto:
    """One vector of ones and one of zeros serve the norms of two unrelated hidden layers of 12 units."""
    b = Builder("shared_norm_scale")
    ones, zeros = b.const(np.ones(12, np.float32), "ones"), b.const(np.zeros(12, np.float32), "zeros")
    x = b.source("hidden", [2, 10])
    for i, n_in in enumerate((10, 12)):
        x = b.op("LayerNormalization", b.linear(x, n_in, 12, f"fc{i}"), ones, zeros, axis=-1)
        x = b.op("Relu", x)
    return b.build(b.linear(x, 12, 5, "classifier"))


@golden(6, 6)
def shared_shape_constant() -> ModelProto:
    """One [2, 6, 8, 8] Reshape target for two unrelated layers of 6 channels."""
    b = Builder("shared_shape_constant")
    x, shape = b.source("image", [2, 3, 8, 8]), b.ints(2, 6, 8, 8)
    for i, n_in in enumerate((3, 6)):
        x = b.reshape(b.conv_relu(x, n_in, 6, name=f"conv{i}"), 2, 6, 64)
        x = b.op("Reshape", b.op("Sigmoid", x), shape)
    return b.build(b.classifier(x, 6))


@golden(12)
def tied_linear() -> ModelProto:
    """One square weight applied twice: its rows, its columns and the layer before are the same 12 units."""
    b = Builder("tied_linear")
    x = _dense(b, b.source("hidden", [2, 10]), b.weight(10, 12, fan_in=10, name="fc1.weight"))
    shared = b.weight(12, 12, fan_in=12, name="shared.weight")
    x = _dense(b, _dense(b, x, shared), shared)
    return b.build(b.linear(x, 12, 5, "classifier"))


@golden(8, 9)
def tied_autoencoder() -> ModelProto:
    """A weight [8, 9] read forwards, then transposed: 8 units on both outer sides, 9 inside."""
    b = Builder("tied_autoencoder")
    x = b.linear(b.source("hidden", [2, 10]), 10, 8, "embed")
    weight = b.weight(8, 9, fan_in=9, name="shared.weight")
    x = _dense(b, _dense(b, x, weight), b.transpose(weight, 1, 0))
    return b.build(b.linear(x, 8, 5, "classifier"))


@golden(6, 7, 8, 9)
def weights_behind_nodes() -> ModelProto:
    """Behind Transpose (6 units), Identity (7), Cast from float16 (8), and Reshape from 1-D (9)."""
    b = Builder("weights_behind_nodes")
    x = b.source("hidden", [2, 10])
    x = _dense(b, x, b.transpose(b.weight(6, 10, fan_in=10, name="transposed"), 1, 0))
    x = _dense(b, x, b.op("Identity", b.weight(6, 7, fan_in=6, name="plain")))
    half = b.const(b.sample(7, 8, fan_in=7).astype(np.float16), "half")
    x = _dense(b, x, b.op("Cast", half, to=TensorProto.FLOAT))
    x = _dense(b, x, b.reshape(b.weight(72, fan_in=8, name="flat"), 8, 9))
    return b.build(b.linear(x, 9, 5, "classifier"))


@ambiguous([12], [3, 4])
def weight_reshaped_box() -> ModelProto:
    """A weight stored as [10, 4, 3] and reshaped to [10, 12].

    12 units if the Reshape is folded into the weight, else the stored box allows 4 and 3.
    """
    b = Builder("weight_reshaped_box")
    weight = b.reshape(b.weight(10, 4, 3, fan_in=10, name="boxed"), 10, 12)
    return b.build(b.linear(_dense(b, b.source("hidden", [2, 10]), weight), 12, 5, "classifier"))


@golden(6, 8)
def weights_in_constant_nodes() -> ModelProto:
    """All weights are Constant nodes: 6 convolution channels, 8 linear units."""
    b = Builder("weights_in_constant_nodes")

    def constant(*shape: int, fan_in: float = 1) -> str:
        return b.op("Constant", value=numpy_helper.from_array(b.sample(*shape, fan_in=fan_in)))

    x = b.op("Conv", b.source("image", [2, 3, 8, 8]), constant(6, 3, 3, 3, fan_in=27), constant(6))
    x = b.op("Flatten", b.op("GlobalAveragePool", b.op("Relu", x)))
    x = _dense(b, x, constant(6, 8, fan_in=6), constant(8))
    return b.build(b.op("MatMul", x, constant(8, 5, fan_in=8)))


@golden(8, 12)
def weights_behind_dequantize() -> ModelProto:
    """int8 weights with scales per output channel (12 units) and per tensor (8 units)."""
    b = Builder("weights_behind_dequantize")

    def int8(*shape: int, name: str) -> str:
        return b.const(b.rng.integers(-127, 128, shape).astype(np.int8), name)

    scale = b.const(b.rng.uniform(0.003, 0.006, 12).astype(np.float32), "scale1")
    zero = b.const(np.zeros(12, np.int8), "zero1")
    weight = b.op("DequantizeLinear", int8(10, 12, name="quantized1"), scale, zero, axis=1)
    x = _dense(b, b.source("hidden", [2, 10]), weight, b.weight(12, name="bias1"))
    weight = b.op("DequantizeLinear", int8(12, 8, name="quantized2"), b.scalar(0.004))
    x = _dense(b, x, weight, b.weight(8, name="bias2"))
    return b.build(b.linear(x, 8, 5, "classifier"))


@golden(12)
def if_branches() -> ModelProto:
    """Two branches with weights of the outer scope give the same 12 units."""
    b = Builder("if_branches")
    flag, x = b.source("flag", [], TensorProto.BOOL), b.source("hidden", [2, 10])
    graphs = {}
    for name in ("then", "else"):
        weight = b.weight(10, 12, fan_in=10, name=f"{name}.weight")
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [2, 12])
        node = helper.make_node("MatMul", [x, weight], [out.name], name=f"{name}_matmul")
        graphs[f"{name}_branch"] = helper.make_graph([node], name, [], [out])
    x = b.op("Relu", b.op("If", flag, **graphs))
    return b.build(b.linear(x, 12, 5, "classifier"))


@golden(4, 6, 7)
def two_inputs_two_outputs() -> ModelProto:
    """An image and a vector meet by concat (6 + 4 columns); 7 units feed two heads."""
    b = Builder("two_inputs_two_outputs")
    image = b.conv_relu(b.source("image", [2, 3, 8, 8]), 3, 6, name="conv")
    image = b.op("Flatten", b.op("GlobalAveragePool", image))
    vector = b.op("Relu", b.linear(b.source("vector", [2, 10]), 10, 4, "fc"))
    x = b.op("Relu", b.linear(b.op("Concat", image, vector, axis=1), 10, 7, "join"))
    return b.build(b.linear(x, 7, 5, "head1"), b.linear(x, 7, 2, "head2"))
