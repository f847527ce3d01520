"""Vision blocks that mix token and channel axes: window attention, token mixers, ConvNeXt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.graphs.attention import attend
from tests.graphs.builder import Builder
from tests.graphs.registry import golden

if TYPE_CHECKING:
    from onnx import ModelProto


def _windows(b: Builder, x: str) -> str:
    """[1, 4, 4, C=10] to 4 windows of 4 tokens."""
    x = b.transpose(b.reshape(x, 1, 2, 2, 2, 2, 10), 0, 1, 3, 2, 4, 5)
    return b.reshape(x, 4, 4, 10)


def _unwindows(b: Builder, x: str) -> str:
    x = b.transpose(b.reshape(x, 1, 2, 2, 2, 2, 10), 0, 1, 3, 2, 4, 5)
    return b.reshape(x, 1, 4, 4, 10)


def _position_bias(b: Builder) -> str:
    """A table [9 offsets, 2 heads], looked up for all pairs of a 2x2 window: [1, 2, 4, 4]."""
    at = np.stack(np.meshgrid(range(2), range(2), indexing="ij")).reshape(2, 4)
    offset = at[:, :, None] - at[:, None, :] + 1
    index = b.const((3 * offset[0] + offset[1]).reshape(16).astype(np.int64), "relative_index")
    bias = b.reshape(b.op("Gather", b.weight(9, 2, name="relative_table"), index, axis=0), 4, 4, 2)
    return b.op("Unsqueeze", b.transpose(bias, 2, 0, 1), b.ints(0))


def _merge_patches(b: Builder, x: str) -> str:
    """Four strided views, side by side in the channel axis."""
    views = [b.slice(b.slice(x, 1, i, 4, 2), 2, j, 4, 2) for j in range(2) for i in range(2)]
    return b.op("Concat", *views, axis=-1)


@golden(2, 4, 10, 12)
def swin_patch_merging() -> ModelProto:
    """2 heads (with their column of the position table), 4 dims, 10 stream channels, 12 after the merging.

    The merging repeats each of the 10 labels four times, 10 apart, in its norm and its linear layer.
    """
    b = Builder("swin_patch_merging")
    x = b.conv(b.source("image", [1, 3, 8, 8]), 3, 10, 2, "patch", stride=2, pad=0)
    x = b.transpose(x, 0, 2, 3, 1)
    y = _windows(b, b.layernorm(x, 10, "ln1"))
    y = b.transpose(b.reshape(b.linear(y, 10, 24, "qkv"), 4, 4, 3, 2, 4), 2, 0, 3, 1, 4)
    q, k, v = (b.pick(y, i, 0) for i in range(3))
    y = attend(b, q, k, v, 0.5, _position_bias(b))
    y = b.linear(b.reshape(y, 4, 4, 8), 8, 10, "proj")
    x = _merge_patches(b, b.op("Add", x, _unwindows(b, y)))
    x = b.linear(b.layernorm(x, 40, "merge.ln"), 40, 12, "merge", bias=False)
    x = b.op("ReduceMean", b.layernorm(x, 12, "ln2"), b.ints(1, 2), keepdims=0)
    return b.build(b.gemm(x, 12, 5, "classifier"))


@golden(7, 10, 14)
def mlp_mixer() -> ModelProto:
    """10 channels, 7 hidden units of the MLP over the 4 (fixed) tokens, 14 of the one over channels."""
    b = Builder("mlp_mixer")
    x = b.conv(b.source("image", [2, 3, 8, 8]), 3, 10, 4, "patch", stride=4, pad=0)
    x = b.transpose(b.reshape(x, 2, 10, 4), 0, 2, 1)
    y = b.transpose(b.layernorm(x, 10, "ln1"), 0, 2, 1)
    y = b.linear(b.op("Gelu", b.linear(y, 4, 7, "token.fc1")), 7, 4, "token.fc2")
    x = b.op("Add", x, b.transpose(y, 0, 2, 1))
    y = b.op("Gelu", b.linear(b.layernorm(x, 10, "ln2"), 10, 14, "channel.fc1"))
    x = b.op("Add", x, b.linear(y, 14, 10, "channel.fc2"))
    x = b.op("ReduceMean", x, b.ints(1), keepdims=0)
    return b.build(b.gemm(x, 10, 5, "classifier"))


@golden(8, 20)
def convnext_block() -> ModelProto:
    """8 stream channels through depthwise, channels-last norm and layer scale; 20 hidden units."""
    b = Builder("convnext_block")
    x = b.conv(b.source("image", [2, 3, 8, 8]), 3, 8, 2, "stem", stride=2, pad=0)
    y = b.transpose(b.conv(x, 8, 8, 5, "dw", group=8), 0, 2, 3, 1)
    y = b.op("Gelu", b.linear(b.layernorm(y, 8, "ln"), 8, 20, "fc1"))
    y = b.op("Mul", b.linear(y, 20, 8, "fc2"), b.weight(8, name="layer_scale"))
    x = b.op("Add", x, b.transpose(y, 0, 3, 1, 2))
    return b.build(b.classifier(x, 8))
