"""A C2f block and a distribution-focal-loss detection head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.graphs.builder import Builder
from tests.graphs.registry import golden

if TYPE_CHECKING:
    from onnx import ModelProto


def _conv(b: Builder, x: str, n_in: int, n_out: int, kernel: int, name: str, stride: int = 1) -> str:
    return b.silu(b.conv_bn(x, n_in, n_out, kernel, name, stride))


def _c2f(b: Builder, x: str) -> str:
    """1x1 to 8, split in halves, two bottlenecks with shortcuts, concat of all four pieces, 1x1 to 10."""
    x = _conv(b, x, 6, 8, 1, "c2f.cv1")
    pieces = b.ops("Split", x, b.ints(4, 4), outputs=2, axis=1)
    for i in range(2):
        y = _conv(b, pieces[-1], 4, 3, 3, f"c2f.m{i}.cv1")
        y = _conv(b, y, 3, 4, 3, f"c2f.m{i}.cv2")
        pieces.append(b.op("Add", pieces[-1], y))
    return _conv(b, b.op("Concat", *pieces, axis=1), 16, 10, 1, "c2f.cv2")


def _decode(b: Builder, boxes: str, anchors: int) -> str:
    """[1, 16, A] logits to [1, 4, A] corners: softmax over 4 bins, expectation, anchor arithmetic."""
    x = b.transpose(b.reshape(boxes, 1, 4, 4, anchors), 0, 2, 1, 3)
    x = b.op("Conv", b.op("Softmax", x, axis=1), b.weight(1, 4, 1, 1, name="dfl.weight"), kernel_shape=[1, 1])
    x = b.reshape(x, 1, 4, anchors)
    grid = b.weight(1, 2, anchors, name="anchors")
    near = b.op("Sub", grid, b.slice(x, 1, 0, 2))
    far = b.op("Add", grid, b.slice(x, 1, 2, 4))
    return b.op("Mul", b.op("Concat", near, far, axis=1), b.weight(1, anchors, offset=8, name="strides"))


@golden(3, 3, 4, 4, 5, 6, 7, 10)
def yolo_c2f_dfl() -> ModelProto:
    """Eight kinds, 42 units.

    6: stem. 4: first half of the split, only concatenated. 4: second half, tied to both bottleneck ends by
    the shortcuts. 3, 3: inside the bottlenecks. 10: end of the block. 7, 5: hidden channels of the box and
    class branches. The last box convolution is frozen by the softmax (bins) and the output (sides), the class
    one by the output.
    """
    b = Builder("yolo_c2f_dfl")
    x = b.source("image", [1, 3, 16, 16])
    x = _conv(b, x, 3, 6, 3, "stem", stride=2)
    x = _c2f(b, x)
    boxes = b.conv(_conv(b, x, 10, 7, 3, "box.cv1"), 7, 16, 1, "box.cv2")
    classes = b.conv(_conv(b, x, 10, 5, 3, "cls.cv1"), 5, 3, 1, "cls.cv2")
    x = b.reshape(b.op("Concat", boxes, classes, axis=1), 1, 19, -1)
    boxes, classes = b.ops("Split", x, b.ints(16, 3), outputs=2, axis=1)
    corners = _decode(b, boxes, 64)
    return b.build(b.op("Concat", corners, b.op("Sigmoid", classes), axis=1))
