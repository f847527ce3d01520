"""Convolution networks: residual, dense, grouped, depthwise, squeeze-excite, encoder-decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.graphs.builder import Builder
from tests.graphs.registry import golden

if TYPE_CHECKING:
    from onnx import ModelProto


def _image(name: str, size: int = 8, batch: int = 2) -> tuple[Builder, str]:
    b = Builder(name)
    return b, b.source("image", [batch, 3, size, size])


def _residual(b: Builder, x: str, n: int, inner: int, name: str) -> str:
    """A basic block: two 3x3 convolutions around a shortcut."""
    y = b.op("Relu", b.conv_bn(x, n, inner, name=f"{name}.conv1"))
    y = b.conv_bn(y, inner, n, name=f"{name}.conv2")
    return b.op("Relu", b.op("Add", y, x))


@golden(10, 12, 16)
def resnet_stage() -> ModelProto:
    """16: the stem and both block ends share one residual stream. 10 and 12: inside the blocks."""
    b, x = _image("resnet_stage")
    x = b.op("Relu", b.conv_bn(x, 3, 16, name="stem"))
    x = _residual(b, x, 16, 10, "block1")
    x = _residual(b, x, 16, 12, "block2")
    return b.build(b.classifier(x, 16))


@golden(10, 14, 16, 24)
def resnet_downsample() -> ModelProto:
    """16: first stage. 24: second stage, block end tied to the 1x1 projection shortcut. 10, 14: inside."""
    b, x = _image("resnet_downsample")
    x = b.op("Relu", b.conv_bn(x, 3, 16, name="stem"))
    x = _residual(b, x, 16, 10, "block1")
    y = b.op("Relu", b.conv_bn(x, 16, 14, name="block2.conv1", stride=2))
    y = b.conv_bn(y, 14, 24, name="block2.conv2")
    y = b.op("Add", y, b.conv_bn(x, 16, 24, 1, "block2.short", stride=2))
    return b.build(b.classifier(b.op("Relu", y), 24))


@golden(2, 6)
def resnet_pad_shortcut() -> ModelProto:
    """The shortcut pads 6 channels to 8: 6 units go through both ways.

    The 2 padded positions can go with their conv rows, by padding less. (A rule that freezes them leaves 6.)
    """
    b, x = _image("resnet_pad_shortcut")
    x = b.conv_relu(x, 3, 6, name="stem")
    short = b.op("Pad", x, b.ints(0, 1, 0, 0, 0, 1, 0, 0))
    x = b.op("Relu", b.op("Add", b.conv(x, 6, 8, name="conv"), short))
    return b.build(b.classifier(x, 8))


@golden(8, 6, 6, 6)
def densenet_block() -> ModelProto:
    """The stem's 8 channels and three growths of 6; each piece lives on in every later concat."""
    b, x = _image("densenet_block")
    x = b.conv(x, 3, 8, name="stem")
    for i, n in enumerate((8, 14, 20)):
        y = b.op("Relu", b.batchnorm(x, n, f"layer{i}.bn"))
        y = b.conv(y, n, 6, name=f"layer{i}.conv", bias=False)
        x = b.op("Concat", x, y, axis=1)
    x = b.op("Relu", b.batchnorm(x, 26, "final.bn"))
    return b.build(b.classifier(x, 26))


@golden(6, 4, 6)
def grouped_conv() -> ModelProto:
    """24 to 36 channels in 6 groups: 6 whole groups, 4 input offsets, 6 output offsets."""
    b, x = _image("grouped_conv")
    x = b.conv_relu(x, 3, 24, name="stem")
    x = b.op("Relu", b.conv(x, 24, 36, name="grouped", group=6))
    return b.build(b.classifier(x, 36))


@golden(6, 8, 12)
def depthwise_separable() -> ModelProto:
    """Depthwise convolutions pass channels through (8, then 12); the last pointwise one makes 6."""
    b, x = _image("depthwise_separable")
    x = b.conv_relu(x, 3, 8, name="stem")
    x = b.op("Relu", b.conv(x, 8, 8, name="dw1", group=8))
    x = b.conv_relu(x, 8, 12, 1, "pw1")
    x = b.op("Relu", b.conv(x, 12, 12, name="dw2", group=12, stride=2))
    x = b.conv_relu(x, 12, 6, 1, "pw2")
    return b.build(b.classifier(x, 6))


@golden(2, 5, 6)
def depthwise_multiplier() -> ModelProto:
    """Depthwise with two outputs per channel: 6 channels and 2 output offsets; then 5 pointwise channels."""
    b, x = _image("depthwise_multiplier")
    x = b.conv_relu(x, 3, 6, name="stem")
    x = b.op("Relu", b.conv(x, 6, 12, name="dw", group=6))
    x = b.conv_relu(x, 12, 5, 1, "pw")
    return b.build(b.classifier(x, 5))


@golden(8, 16)
def inverted_residual() -> ModelProto:
    """MobileNet v2: 8 residual channels, 16 expanded ones that run through the depthwise convolution."""
    b, x = _image("inverted_residual")
    x = b.conv_bn(x, 3, 8, name="stem")
    y = b.op("Clip", b.conv_bn(x, 8, 16, 1, "expand"), b.scalar(0), b.scalar(6))
    y = b.batchnorm(b.conv(y, 16, 16, name="dw", group=16, bias=False), 16, "dw.bn")
    y = b.op("Clip", y, b.scalar(0), b.scalar(6))
    x = b.op("Add", x, b.conv_bn(y, 16, 8, 1, "project"))
    return b.build(b.classifier(x, 8))


@golden(4, 16)
def squeeze_excite() -> ModelProto:
    """16 trunk channels, tied to the gate's expand convolution; 4 squeezed ones."""
    b, x = _image("squeeze_excite")
    x = b.conv_relu(x, 3, 16, name="stem")
    gate = b.conv_relu(b.op("GlobalAveragePool", x), 16, 4, 1, "squeeze")
    gate = b.op("Sigmoid", b.conv(gate, 4, 16, 1, "expand"))
    return b.build(b.classifier(b.op("Mul", x, gate), 16))


@golden(5, 6, 7, 8)
def unet() -> ModelProto:
    """6 encoder, 8 bottom, 5 up-sampled, 7 merged channels; both branches are cropped before the concat."""
    b, x = _image("unet", 16, batch=1)
    skip = b.conv_relu(x, 3, 6, name="encoder")
    down = b.op("Relu", b.conv(skip, 6, 8, name="down", stride=2))
    up = b.conv_transpose(down, 8, 5, "up")
    crops = [b.slice(b.slice(t, 2, 1, 15), 3, 1, -1) for t in (skip, up)]
    x = b.conv_relu(b.op("Concat", *crops, axis=1), 11, 7, name="merge")
    return b.build(b.conv(x, 7, 2, 1, "head"))


@golden(2, 3, 3, 3, 4, 7)
def straddling_slice() -> ModelProto:
    """A slice 3:9 of concat(6, 5) meets halves of both pieces.

    The first piece falls into 3 + 3 units, the second into 3 + 2: inside or outside the slice, which has
    its own consumer. 4: stem. 7: merged channels, tied to the side branch.
    """
    b, x = _image("straddling_slice")
    x = b.conv_relu(x, 3, 4, name="stem")
    pieces = [b.conv_relu(x, 4, 6, name="left"), b.conv_relu(x, 4, 5, name="right")]
    x = b.op("Concat", *pieces, axis=1)
    side = b.conv(b.slice(x, 1, 3, 9), 6, 7, 1, "side")
    x = b.op("Relu", b.op("Add", b.conv(x, 11, 7, name="merge"), side))
    return b.build(b.classifier(x, 7))


@golden(6, 8)
def conv_transpose() -> ModelProto:
    """A [in, out, k, k] weight: 6 channels in, 8 out."""
    b, x = _image("conv_transpose")
    x = b.op("Relu", b.conv_transpose(b.conv_relu(x, 3, 6, name="stem"), 6, 8, "up"))
    return b.build(b.conv(x, 8, 2, name="head"))


@golden(2, 4, 6)
def conv_transpose_grouped() -> ModelProto:
    """8 to 12 channels in 2 groups: 2 whole groups, 4 input offsets, 6 output offsets."""
    b, x = _image("conv_transpose_grouped")
    x = b.conv_relu(x, 3, 8, name="stem")
    x = b.op("Relu", b.conv_transpose(x, 8, 12, "up", group=2))
    return b.build(b.conv(x, 12, 3, name="head"))


@golden(6, 8)
def prelu() -> ModelProto:
    """The slope of shape [C, 1, 1] follows the channels."""
    b, x = _image("prelu")
    x = b.op("PRelu", b.conv(x, 3, 6, name="conv1"), b.weight(6, 1, 1, name="slope1"))
    x = b.op("PRelu", b.conv(x, 6, 8, name="conv2"), b.weight(8, 1, 1, name="slope2"))
    return b.build(b.classifier(x, 8))


@golden(6, 8, 10)
def flatten_gemm() -> ModelProto:
    """[8, 4, 4] is flattened: each of 8 channels carries 16 columns of the first Gemm, which has 10 rows."""
    b, x = _image("flatten_gemm")
    x = b.op("MaxPool", b.conv_relu(x, 3, 6, name="conv1"), kernel_shape=[2, 2], strides=[2, 2])
    x = b.op("Flatten", b.conv_relu(x, 6, 8, name="conv2"))
    x = b.op("Relu", b.gemm(x, 128, 10, "fc1"))
    return b.build(b.gemm(x, 10, 5, "classifier"))
