"""Sub-pixel and channel shuffles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.graphs.builder import Builder
from tests.graphs.registry import ambiguous, golden

if TYPE_CHECKING:
    from onnx import ModelProto


def _upscaler(name: str, mode: str | None) -> ModelProto:
    """6 stem channels, then 20 rows that become 5 channels of twice the size."""
    b = Builder(name)
    x = b.source("image", [1, 3, 8, 8])
    x = b.conv(b.conv_relu(x, 3, 6, name="stem"), 6, 20, name="expand")
    if mode:
        x = b.op("DepthToSpace", x, blocksize=2, mode=mode)
    else:
        x = b.transpose(b.reshape(x, 1, 5, 2, 2, 8, 8), 0, 1, 4, 2, 5, 3)
        x = b.reshape(x, 1, 5, 16, 16)
    return b.build(b.conv(b.op("Relu", x), 5, 3, name="head"))


@golden(5, 6)
def pixel_shuffle_crd() -> ModelProto:
    """5 units of 4 adjacent rows; the 3x3 head fixes all sub-pixel positions."""
    return _upscaler("pixel_shuffle_crd", "CRD")


@golden(5, 6)
def pixel_shuffle_dcr() -> ModelProto:
    """5 units of 4 rows, 5 apart."""
    return _upscaler("pixel_shuffle_dcr", "DCR")


@golden(5, 6)
def pixel_shuffle_reshape() -> ModelProto:
    """The same as CRD, written as Reshape, Transpose, Reshape."""
    return _upscaler("pixel_shuffle_reshape", None)


@golden(5, 7)
def space_to_depth() -> ModelProto:
    """Each of 5 channels becomes 4 columns, 5 apart, of the next convolution, which has 7 rows."""
    b = Builder("space_to_depth")
    x = b.source("image", [1, 3, 8, 8])
    x = b.op("SpaceToDepth", b.conv_relu(x, 3, 5, name="stem"), blocksize=2)
    return b.build(b.classifier(b.conv_relu(x, 20, 7, name="conv"), 7))


def _shuffle(b: Builder, x: str, n: int, groups: int, size: int) -> str:
    x = b.reshape(x, 1, groups, n // groups, size, size)
    return b.reshape(b.transpose(x, 0, 2, 1, 3, 4), 1, n, size, size)


@golden(2, 2, 2, 4, 6)
def channel_shuffle_grouped() -> ModelProto:
    """Two grouped convolutions (2 groups) around a shuffle of 8 channels (g, j) to (j, g).

    The first one makes 2 groups g with 4 offsets j. The second reads position 2j + g as 4a + b, so a is the
    high bit of j, and b is made of the low bit of j and of g. Units: 2 for g, 2 for the high bit (the groups
    of the second), 2 for the low bit, 4 input offsets of the first, 6 output offsets of the second.
    """
    b = Builder("channel_shuffle_grouped")
    x = b.source("image", [1, 3, 8, 8])
    x = b.conv_relu(x, 3, 8, name="stem")
    x = b.op("Relu", b.conv(x, 8, 8, name="grouped1", group=2))
    x = _shuffle(b, x, 8, 2, 8)
    x = b.op("Relu", b.conv(x, 8, 12, name="grouped2", group=2))
    return b.build(b.classifier(x, 12))


@golden(5)
def channel_shuffle_conflict() -> ModelProto:
    """With 3 groups of 4 channels the shuffle meets 3 x 4 with 4 x 3: all 12 between are frozen.

    So are the groups of both convolutions, and only the output offsets of the second (5 of 15) are free. The
    first one has one input per group (depthwise multiplier 4), hence no input offset.
    """
    b = Builder("channel_shuffle_conflict")
    x = b.source("image", [1, 3, 8, 8])
    x = b.conv_relu(x, 3, 3, name="stem")
    x = b.op("Relu", b.conv(x, 3, 12, name="grouped1", group=3))
    x = _shuffle(b, x, 12, 3, 8)
    x = b.op("Relu", b.conv(x, 12, 15, name="grouped2", group=3))
    return b.build(b.classifier(x, 15))


@ambiguous([4, 4, 4, 5], [4, 4, 5])
def shufflenet_v2() -> ModelProto:
    """Split, branch, concat, shuffle.

    4: the second half of the stem, read by the branch; 5: inside the branch. The first half of the stem and
    the end of the branch are two groups of 4 when the shuffle is seen as a permutation of one axis, and 4
    pairs when it is taken as a box of 2 x 4.
    """
    b = Builder("shufflenet_v2")
    x = b.source("image", [1, 3, 8, 8])
    x = b.conv_relu(x, 3, 8, name="stem")
    left, right = b.ops("Split", x, outputs=2, axis=1, num_outputs=2)
    right = b.op("Relu", b.conv_bn(right, 4, 5, 1, "branch.pw1"))
    right = b.batchnorm(b.conv(right, 5, 5, name="branch.dw", group=5, bias=False), 5, "branch.dw.bn")
    right = b.op("Relu", b.conv_bn(right, 5, 4, 1, "branch.pw2"))
    x = _shuffle(b, b.op("Concat", left, right, axis=1), 8, 2, 8)
    return b.build(b.conv(x, 8, 3, 1, name="head"))
