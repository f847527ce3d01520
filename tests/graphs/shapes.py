"""Shape arithmetic in the graph, and shape operands that name a channel count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.graphs.attention import attend
from tests.graphs.builder import Builder
from tests.graphs.registry import golden

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import ModelProto


def _attention(b: Builder, x: str, split: Callable[[str, int, int], str], join: Callable[[str], str]) -> str:
    """2 heads, 5 dims of q and k, 3 of v; ``split(x, H, D)`` and ``join(x)`` spell the reshapes."""
    q, k = (b.transpose(split(b.linear(x, 9, 10, n), 2, 5), 0, 2, 1, 3) for n in "qk")
    v = b.transpose(split(b.linear(x, 9, 6, "v"), 2, 3), 0, 2, 1, 3)
    return b.linear(join(attend(b, q, k, v, 5**-0.5)), 6, 7, "proj")


@golden(2, 3, 5, 9)
def dynamic_batch_reshape() -> ModelProto:
    """Batch and length are symbolic; every Reshape target is Shape, Gather, Concat. 9: embedding."""
    b = Builder("dynamic_batch_reshape")
    x = b.linear(b.source("hidden", ["batch", "length", 10]), 10, 9, "embed")
    shape = b.op("Shape", x)
    sizes = [b.op("Unsqueeze", b.pick(shape, i, 0), b.ints(0)) for i in range(2)]

    def split(t: str, heads: int, dim: int) -> str:
        return b.op("Reshape", t, b.op("Concat", *sizes, b.ints(heads), b.ints(dim), axis=0))

    def join(t: str) -> str:
        return b.op("Reshape", t, b.op("Concat", *sizes, b.ints(6), axis=0))

    return b.build(_attention(b, x, split, join))


@golden(2, 3, 5, 9)
def dynamic_width_reshape() -> ModelProto:
    """As before, but the head dim is written as Shape(x)[-1] / 2, and the way back is -1."""
    b = Builder("dynamic_width_reshape")
    x = b.linear(b.source("hidden", ["batch", 4, 10]), 10, 9, "embed")

    def split(t: str, heads: int, dim: int) -> str:
        shape = b.op("Shape", t)
        width = b.op("Div", b.slice(shape, 0, -1, 2**31), b.ints(heads))
        return b.op("Reshape", t, b.op("Concat", b.slice(shape, 0, 0, 2), b.ints(heads), width, axis=0))

    return b.build(_attention(b, x, split, lambda t: b.reshape(t, 0, 4, -1)))


@golden(2, 3, 5, 9)
def reshape_zero_and_minus_one() -> ModelProto:
    """Targets [0, 0, 2, -1] and [0, 0, -1]: both hide the head dim."""
    b = Builder("reshape_zero_and_minus_one")
    x = b.linear(b.source("hidden", [2, 4, 10]), 10, 9, "embed")

    def split(t: str, heads: int, dim: int) -> str:
        return b.reshape(t, 0, 0, heads, -1)

    return b.build(_attention(b, x, split, lambda t: b.reshape(t, 0, 0, -1)))


@golden(2, 3, 5, 9)
def heads_folded_into_batch() -> ModelProto:
    """Heads join a symbolic batch, [B*H, N, D]; the way back divides Shape(x)[0] by the number of heads."""
    b = Builder("heads_folded_into_batch")
    x = b.linear(b.source("hidden", ["batch", 4, 10]), 10, 9, "embed")

    def fold(name: str, dim: int) -> str:
        y = b.reshape(b.linear(x, 9, 2 * dim, name), 0, 4, 2, dim)
        return b.reshape(b.transpose(y, 0, 2, 1, 3), -1, 4, dim)

    q, k, v = fold("q", 5), fold("k", 5), fold("v", 3)
    y = b.op("MatMul", b.op("Softmax", b.op("MatMul", q, b.transpose(k, 0, 2, 1)), axis=-1), v)
    batch = b.op("Div", b.op("Gather", b.op("Shape", y), b.ints(0), axis=0), b.ints(2))
    y = b.op("Reshape", y, b.op("Concat", batch, b.ints(2, 4, 3), axis=0))
    return b.build(b.linear(b.reshape(b.transpose(y, 0, 2, 1, 3), 0, 4, 6), 6, 7, "proj"))


@golden(5, 6)
def sizes_enter_the_numbers() -> ModelProto:
    """The number of elements and a width of cut tensors scale the result: both stay what they were."""
    b = Builder("sizes_enter_the_numbers")
    x = b.op("Relu", b.linear(b.source("hidden", [2, 10]), 10, 6, "fc1"))
    x = b.op("Div", x, b.op("Cast", b.op("Size", x), to=1))
    y = b.op("Tanh", b.linear(x, 6, 5, "fc2"))
    width = b.op("Cast", b.op("Shape", y, start=1), to=1)
    return b.build(b.op("Mul", b.linear(y, 5, 4, "fc3"), width))


@golden(6, 8)
def resize_scales() -> ModelProto:
    """Nearest up-sampling by scales [1, 1, 2, 2]: 6 and 8 channels; the scales are no weight."""
    b = Builder("resize_scales")
    x = b.conv_relu(b.source("image", [2, 3, 8, 8]), 3, 6, name="conv1")
    x = b.op("Resize", x, "", b.const(np.array([1, 1, 2, 2], np.float32)), mode="nearest")
    return b.build(b.classifier(b.conv_relu(x, 6, 8, name="conv2"), 8))


@golden(6, 8)
def resize_sizes() -> ModelProto:
    """Linear up-sampling to sizes [2, 6, 12, 12]: the 6 follows the channels."""
    b = Builder("resize_sizes")
    x = b.conv_relu(b.source("image", [2, 3, 8, 8]), 3, 6, name="conv1")
    x = b.op("Resize", x, "", "", b.ints(2, 6, 12, 12), mode="linear")
    return b.build(b.classifier(b.conv_relu(x, 6, 8, name="conv2"), 8))


@golden(6)
def expand_scalar_scale() -> ModelProto:
    """A [1, 1] scale expanded to [1, 6]: the shape constant follows the 6 units."""
    b = Builder("expand_scalar_scale")
    x = b.linear(b.source("hidden", [4, 10]), 10, 6, "fc1")
    scale = b.op("Expand", b.weight(1, 1, name="scale"), b.ints(1, 6))
    return b.build(b.linear(b.op("Relu", b.op("Mul", x, scale)), 6, 5, "fc2"))


@golden(12)
def expand_class_token() -> ModelProto:
    """A class token [1, 1, 12] expanded to the batch and put before 4 tokens."""
    b = Builder("expand_class_token")
    x = b.linear(b.source("hidden", [2, 4, 10]), 10, 12, "embed")
    token = b.op("Expand", b.weight(1, 1, 12, name="cls"), b.ints(2, 1, 12))
    x = b.op("Tanh", b.op("Concat", token, x, axis=1))
    return b.build(b.gemm(b.pick(x, 0, 1), 12, 5, "classifier"))


@golden(6, 7)
def constant_of_shape() -> ModelProto:
    """A recurrent-like state ConstantOfShape [2, 6] is added to 6 units; then 7 units."""
    b = Builder("constant_of_shape")
    x = b.linear(b.source("hidden", [2, 10]), 10, 6, "fc1")
    x = b.op("Tanh", b.op("Add", x, b.op("ConstantOfShape", b.ints(2, 6))))
    return b.build(b.linear(b.op("Relu", b.linear(x, 6, 7, "fc2")), 7, 5, "fc3"))


@golden(3, 7)
def dynamic_image_groupnorm() -> ModelProto:
    """Group norm spelled out at any height and width: whole groups leave; 4 offsets lie in one axis with the pixels."""
    b = Builder("dynamic_image_groupnorm")
    x = b.conv(b.source("image", ["batch", 3, "height", "width"]), 3, 12, name="conv1")
    scale = b.weight(3, offset=1, fan_in=9, name="norm.scale")
    y = b.op("InstanceNormalization", b.reshape(x, 0, 3, -1), scale, b.weight(3, name="norm.bias"))
    y = b.op("Mul", b.op("Reshape", y, b.op("Shape", x)), b.weight(12, 1, 1, name="gamma"))
    x = b.op("Relu", b.op("Add", y, b.weight(12, 1, 1, name="beta")))
    return b.build(b.classifier(b.conv_relu(x, 12, 7, name="conv2"), 7))
