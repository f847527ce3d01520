"""Linear layers, norms in their decomposed forms, and gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.graphs.builder import Builder
from tests.graphs.registry import golden

if TYPE_CHECKING:
    from onnx import ModelProto


def _hidden(name: str, opset: int = 20) -> tuple[Builder, str]:
    b = Builder(name, opset=opset)
    return b, b.source("hidden", [2, 4, 10])


@golden(12, 20, 24)
def mlp_layernorm() -> ModelProto:
    """A residual stream of 12 with two pre-norm MLPs of 20 and 24."""
    b, x = _hidden("mlp_layernorm")
    x = b.linear(x, 10, 12, "embed")
    for i, n in enumerate((20, 24)):
        y = b.op("Gelu", b.linear(b.layernorm(x, 12, f"ln{i}"), 12, n, f"fc1_{i}"))
        x = b.op("Add", x, b.linear(y, n, 12, f"fc2_{i}"))
    return b.build(b.linear(b.layernorm(x, 12, "ln"), 12, 5, "classifier"))


def _rmsnorm(b: Builder, x: str, n: int, name: str) -> str:
    """Pow, ReduceMean, Add, Sqrt, Div, Mul."""
    square = b.op("ReduceMean", b.op("Pow", x, b.scalar(2)), b.ints(-1), keepdims=1)
    x = b.op("Div", x, b.op("Sqrt", b.op("Add", square, b.scalar(1e-5))))
    return b.op("Mul", x, b.weight(n, offset=1, fan_in=9, name=f"{name}.gamma"))


@golden(12, 20)
def rmsnorm_swiglu() -> ModelProto:
    """A residual stream of 12 under a decomposed RMSNorm; gate and up projections share 20 units."""
    b, x = _hidden("rmsnorm_swiglu")
    x = b.linear(x, 10, 12, "embed", bias=False)
    y = _rmsnorm(b, x, 12, "norm1")
    y = b.op("Mul", b.silu(b.linear(y, 12, 20, "gate")), b.linear(y, 12, 20, "up"))
    x = b.op("Add", x, b.linear(y, 20, 12, "down", bias=False))
    return b.build(b.linear(_rmsnorm(b, x, 12, "norm2"), 12, 5, "classifier"))


@golden(12)
def layernorm_decomposed() -> ModelProto:
    """ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div, Mul, Add over 12 units."""
    b, x = _hidden("layernorm_decomposed")
    x = b.linear(x, 10, 12, "embed")
    x = b.op("Sub", x, b.op("ReduceMean", x, b.ints(-1)))
    var = b.op("ReduceMean", b.op("Pow", x, b.scalar(2)), b.ints(-1))
    x = b.op("Div", x, b.op("Sqrt", b.op("Add", var, b.scalar(1e-5))))
    x = b.op("Mul", x, b.weight(12, offset=1, fan_in=9, name="gamma"))
    return b.build(b.linear(b.op("Add", x, b.weight(12, name="beta")), 12, 5, "classifier"))


@golden(3, 4, 7)
def groupnorm_decomposed() -> ModelProto:
    """[N, 12, 8, 8] seen as [N, 3, 256] by an InstanceNormalization: 3 groups, 4 offsets; then 7 channels."""
    b = Builder("groupnorm_decomposed")
    x = b.conv(b.source("image", [2, 3, 8, 8]), 3, 12, name="conv1")
    y = b.reshape(x, 2, 3, -1)
    scale = b.weight(3, offset=1, fan_in=9, name="norm.scale")
    y = b.op("InstanceNormalization", y, scale, b.weight(3, name="norm.bias"))
    y = b.op("Mul", b.reshape(y, 2, 12, 8, 8), b.weight(12, 1, 1, name="gamma"))
    x = b.op("Relu", b.op("Add", y, b.weight(12, 1, 1, name="beta")))
    return b.build(b.classifier(b.conv_relu(x, 12, 7, name="conv2"), 7))


@golden(3, 4, 7)
def groupnorm_op() -> ModelProto:
    """GroupNormalization of opset 21, scale per channel: 3 groups, 4 offsets; then 7 channels."""
    b = Builder("groupnorm_op", opset=21)
    x = b.conv(b.source("image", [2, 3, 8, 8]), 3, 12, name="conv1")
    gamma, beta = b.weight(12, offset=1, fan_in=9, name="gamma"), b.weight(12, name="beta")
    x = b.hint(b.op("GroupNormalization", x, gamma, beta, num_groups=3), 2, 12, 8, 8)
    x = b.op("Relu", x)
    return b.build(b.classifier(b.conv_relu(x, 12, 7, name="conv2"), 7))


@golden(7)
def glu_split_attribute() -> ModelProto:
    """Opset 11, sizes in an attribute: row j of both halves of the 14 rows goes at once."""
    b, x = _hidden("glu_split_attribute", opset=11)
    left, right = b.ops("Split", b.linear(x, 10, 14, "fc1"), outputs=2, axis=2, split=[7, 7])
    return b.build(b.linear(b.op("Mul", b.op("Sigmoid", left), right), 7, 5, "fc2"))


@golden(7)
def glu_split_num_outputs() -> ModelProto:
    """Opset 18, only the number of outputs is written."""
    b, x = _hidden("glu_split_num_outputs", opset=18)
    left, right = b.ops("Split", b.linear(x, 10, 14, "fc1"), outputs=2, axis=-1, num_outputs=2)
    return b.build(b.linear(b.op("Mul", b.op("Sigmoid", left), right), 7, 5, "fc2"))


@golden(3, 7)
def split_uneven() -> ModelProto:
    """17 rows cut into 7, 7, 3 by an input: 7 gated pairs, and 3 rows with a consumer of their own."""
    b, x = _hidden("split_uneven", opset=18)
    x = b.linear(x, 10, 17, "fc1")
    left, right, rest = b.ops("Split", x, b.ints(7, 7, 3), outputs=3, axis=-1)
    x = b.linear(b.op("Mul", b.op("Sigmoid", left), right), 7, 5, "fc2")
    return b.build(b.op("Add", x, b.linear(rest, 3, 5, "fc3")))


@golden(9, 12)
def gemm_chain() -> ModelProto:
    """Gemm with and without transB, alpha and beta: 12, then 9 units."""
    b = Builder("gemm_chain")
    x = b.gemm(b.source("hidden", [4, 10]), 10, 12, "fc1")
    weight, bias = b.weight(12, 9, fan_in=12, name="fc2.weight"), b.weight(9, name="fc2.bias")
    x = b.op("Gemm", b.op("Tanh", x), weight, bias, alpha=0.5, beta=2.0)
    return b.build(b.gemm(b.op("LeakyRelu", x, alpha=0.1), 9, 5, "fc3"))


@golden(5, 8)
def where_mask() -> ModelProto:
    """8 units under a Where with a token mask; then a maximum of two branches shares 5 units."""
    b, x = _hidden("where_mask")
    x = b.linear(x, 10, 8, "fc1")
    mask = b.const(np.array([True, False, True, True]).reshape(1, 4, 1), "mask")
    x = b.op("Where", mask, x, b.scalar(0.5))
    x = b.op("Max", b.linear(x, 8, 5, "left"), b.linear(x, 8, 5, "right"))
    return b.build(b.linear(x, 5, 5, "classifier"))
