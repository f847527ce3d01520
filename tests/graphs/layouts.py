"""Reshapes, gathers and pools that hide or split a channel axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.graphs.builder import Builder
from tests.graphs.registry import golden

if TYPE_CHECKING:
    from onnx import ModelProto


def _self_attend(b: Builder, x: str) -> str:
    """softmax(t t^T) t, heads first, for t of shape [1, N, H, D]; back as [1, N, H, D]."""
    x = b.transpose(x, 0, 2, 1, 3)
    scores = b.op("Softmax", b.op("MatMul", x, b.transpose(x, 0, 1, 3, 2)), axis=-1)
    return b.transpose(b.op("MatMul", scores, x), 0, 2, 1, 3)


@golden(2, 2, 6)
def weight_two_head_counts() -> ModelProto:
    """One [10, 24] weight, used with 4 heads of 6 and with 2 heads of 12.

    24 = 2 x 2 x 6: the pairs of the coarse heads, the high bit within a pair, and 6 dims. Only coarse heads
    have a scale of their own.
    """
    b = Builder("weight_two_head_counts")
    x = b.op("MatMul", b.source("hidden", [1, 3, 10]), b.weight(10, 24, fan_in=10, name="shared.weight"))
    fine = _self_attend(b, b.reshape(x, 1, 3, 4, 6))
    coarse = _self_attend(b, b.reshape(x, 1, 3, 2, 12))
    coarse = b.op("Mul", coarse, b.weight(2, 1, offset=1, name="coarse.scale"))
    fine = b.linear(b.reshape(fine, 1, 3, 24), 24, 5, "fine.out")
    coarse = b.linear(b.reshape(coarse, 1, 3, 24), 24, 5, "coarse.out")
    return b.build(b.op("Add", fine, coarse))


@golden()
def weight_conflicting_heads() -> ModelProto:
    """12 rows as 3 x 4 and as 4 x 3: no common factor, nothing is free."""
    b = Builder("weight_conflicting_heads")
    x = b.op("MatMul", b.source("hidden", [1, 5, 10]), b.weight(10, 12, fan_in=10, name="shared.weight"))
    one = b.reshape(_self_attend(b, b.reshape(x, 1, 5, 3, 4)), 1, 5, 12)
    two = b.reshape(_self_attend(b, b.reshape(x, 1, 5, 4, 3)), 1, 5, 12)
    return b.build(b.op("Add", b.linear(one, 12, 6, "out1"), b.linear(two, 12, 6, "out2")))


@golden(8, 9)
def kernel_one_conv_on_tokens() -> ModelProto:
    """Conv with weight [1, 3, 1] over 3 stacked scales: the 9 channels are its "spatial" axis and pass.

    8: the embedding before the three projections. The scales are axes of length one put together: frozen.
    """
    b = Builder("kernel_one_conv_on_tokens")
    x = b.linear(b.source("hidden", [2, 10]), 10, 8, "embed")
    scales = [b.op("Unsqueeze", b.linear(x, 8, 9, f"scale{i}"), b.ints(1)) for i in range(3)]
    x = b.op("Concat", *scales, axis=1)
    x = b.op("Conv", x, b.weight(1, 3, 1, fan_in=3, name="mix.weight"), kernel_shape=[1])
    return b.build(b.gemm(b.op("Squeeze", b.op("Relu", x), b.ints(1)), 9, 5, "classifier"))


@golden(6, 8)
def as_strided_pool() -> ModelProto:
    """Global pool as ReduceMean, Reshape to [C], Gather with indices of shape [1, C, 1, 1]: 8 units pass."""
    b = Builder("as_strided_pool")
    x = b.conv_relu(b.source("image", [1, 3, 8, 8]), 3, 6, name="conv1")
    x = b.op("ReduceMean", b.conv_relu(x, 6, 8, name="conv2"), b.ints(2, 3), keepdims=1)
    index = b.const(np.arange(8).reshape(1, 8, 1, 1), "index")
    x = b.op("Gather", b.reshape(x, 8), index, axis=0)
    return b.build(b.gemm(b.op("Flatten", x), 8, 5, "classifier"))


@golden(6, 7)
def gather_permutation() -> ModelProto:
    """6 stem channels; a constant Gather permutes the 7 of the second convolution before the classifier."""
    b = Builder("gather_permutation")
    x = b.conv_relu(b.source("image", [2, 3, 8, 8]), 3, 6, name="stem")
    x = b.conv_relu(x, 6, 7, name="conv")
    index = b.const(np.array([3, 0, 6, 2, 5, 1, 4]), "index")
    return b.build(b.classifier(b.op("Gather", x, index, axis=1), 7))


@golden(3, 4, 6)
def sum_over_groups() -> ModelProto:
    """12 channels as (3, -1) and summed over the 3: 3 group units, 4 offsets. Then 6 channels.

    The -1 of the Reshape target hides the 4.
    """
    b = Builder("sum_over_groups")
    x = b.conv_relu(b.source("image", [2, 3, 4, 4]), 3, 12, name="stem")
    x = b.op("ReduceSum", b.reshape(x, 2, 3, -1, 4, 4), b.ints(1), keepdims=0)
    return b.build(b.classifier(b.conv_relu(x, 4, 6, name="conv"), 6))


@golden(3, 5, 7)
def tile_channels() -> ModelProto:
    """Tile repeats 5 channels three times: each unit has 3 columns, 5 apart, of the next layer (7 rows).

    Whole copies are free too: the next layer need not read all three.
    """
    b = Builder("tile_channels")
    x = b.conv_relu(b.source("image", [1, 3, 4, 4]), 3, 5, name="stem")
    x = b.op("Tile", x, b.ints(1, 3, 1, 1))
    return b.build(b.classifier(b.conv_relu(x, 15, 7, name="conv"), 7))
