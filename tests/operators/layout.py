"""Operators that move, repeat, choose or make positions."""

from __future__ import annotations

import numpy as np

from tests.operators.case import Case, case

_HALVES = {"sizes": {"c": 6}}

CASES: tuple[Case, ...] = (
    # Reshapes.
    case("Reshape", "n g*r", lambda d: [d["n"], d["g"], d["r"]], free="n g r"),
    case("Reshape", "n g r", lambda d: [d["n"], -1], free="n g r", note="minus_one"),
    case("Reshape", "n g r t", lambda d: [0, 0, d["r"] * d["t"]], free="n g r t", note="zero"),
    case("Reshape", "n g*r", lambda d: [d["n"], d["r"], d["g"]], free="n r g", note="other_order"),
    case("Reshape", "n c", lambda d: [d["c"], d["n"]], note="conflict", sizes={"n": 3, "c": 4}),
    case("Reshape", "n c 1", lambda d: [d["n"], 1, d["c"], 1], free="n c", note="ones"),
    case("Flatten", "n g r", free="n g r", axis=1),
    case("Flatten", "n g r", free="n g r", axis=0, note="all"),
    case("Squeeze", "n 1 c", [1], free="n c"),
    case("Squeeze", "n 1 c", free="n c", axes=[1], opset=11),
    case("Squeeze", "n 1 c 1", free="n c", note="all"),
    case("Unsqueeze", "n c", [0, -1], free="n c"),
    case("Unsqueeze", "n c", free="n c", axes=[1], opset=11),
    case("Transpose", "n t c", free="n t c", perm=[2, 0, 1]),
    case("Transpose", "n t c", free="n t c", note="reversed"),
    case("DepthToSpace", "n 4*c h w", free="n c", blocksize=2, mode="DCR"),
    case("DepthToSpace", "n 9*c h w", free="n c", blocksize=3, mode="CRD", note="CRD"),
    case("DepthToSpace", "n 4*c h w", free="n c", blocksize=2, opset=10),
    case("SpaceToDepth", "n c 2*h 2*w", free="n c", blocksize=2),
    # Joining and cutting.
    case("Concat", "n a", "n b", "n c", free="n a b c", axis=1),
    case("Concat", "a c", "weight b c", free="a b c", axis=-2, note="weight"),
    case("Split", "n c", [2, 4], free="n c", axis=1, outputs=(True, True), **_HALVES),
    case("Split", "n c", free="n c", axis=-1, outputs=(True, True), num_outputs=2, opset=18, **_HALVES),
    case("Split", "n c", free="n c", axis=1, outputs=(True, True, True), opset=13, **_HALVES, note="equal"),
    case("Split", "n c", free="n c", axis=1, outputs=(True, True), split=[2, 4], opset=11, **_HALVES),
    case("Split", "n c", free="n c", axis=1, outputs=(True, True), opset=11, **_HALVES, note="equal"),
    case("Split", "n c", [3, 2, 1], free="n c:5", axis=1, outputs=(True, True, True), **_HALVES, note="single"),
    case("Slice", "n c", [1], [5], [1], [1], free="n c", **_HALVES),
    case("Slice", "n c", [-1], [-100], [1], [-2], free="n c", **_HALVES, note="backward"),
    case("Slice", "n c", [0, 1], [2**62, -1], free="n c", **_HALVES, note="two_axes"),
    case("Slice", "n c", free="n c", starts=[1], ends=[-1], axes=[1], opset=9, **_HALVES),
    case("Slice", "n c", free="n c", starts=[0, 2], ends=[2, 6], opset=7, sizes={"n": 3, "c": 6}),
    case("Slice", "n c", [2], [3], [1], free="n c:5", **_HALVES, note="one_position"),
    case("Slice", "n c", "indices 1", [6], [1], bound="2", fixed_shape=False, **_HALVES, note="computed"),
    case("Pad", "n c h", [0, 1, 0, 0, 2, 0], 0.5, free="n c h", extra=3),
    case("Pad", "n c h", [1, 2], 0.5, [-1], free="n c h", extra=3, note="axes"),
    case("Pad", "n c h", free="n c h", pads=[0, 0, 1, 0, 0, 0], value=0.5, extra=1, opset=10),
    case("Pad", "n c h", [0, 0, 1, 0, 0, 1], free="n c", mode="reflect", note="reflect"),
    case("Pad", "n c h", [0, 0, -1, 0, 0, -1], free="n c h", sizes={"h": 6}, note="crop"),
    case("Pad", "n c h", [0, 0, -2, 0, 0, 1], free="n c h", extra=1, sizes={"h": 6}, note="crop_and_pad"),
    # Repeating and filling.
    case("Expand", "n 1", lambda d: [d["n"], 4], free="n", extra=4),
    case("Expand", "n 1", [3, 1, 4], free="n", extra=7, note="rank"),
    case("Expand", "1 c", lambda d: [5, 1], free="c", extra=5, note="ones"),
    case("Tile", "n c", [1, 3], free="n c"),
    case("Tile", "n 1", [1, 4], free="n", extra=4, note="one"),
    case("Tile", "n c", [2, 2], free="n c", note="both"),
    case("Resize", "n c 4", "", np.array([1, 1, 2], np.float32), free="n c", mode="nearest"),
    case("Resize", "n c 4", "", "", lambda d: [d["n"], d["c"], 7], free="n c", mode="linear", note="sizes"),
    case("Resize", "n c 4", "", "", [7], free="n c", axes=[2], opset=18, note="axes"),
    case("Resize", "n c 4", np.array([1, 1, 2], np.float32), free="n c", mode="nearest", opset=10),
    case("Upsample", "n c 4 4", np.array([1, 1, 2, 2], np.float32), free="n c", mode="nearest", opset=9),
    case("Upsample", "n c 4 4", free="n c", scales=[1.0, 1.0, 2.0, 2.0], mode="nearest", opset=7),
    case("ConstantOfShape", [3, 4], extra=7),
    # Sizes.
    case("Shape", "n c", free="n c"),
    case("Shape", "n c h", free="n c h", start=1, end=-1, opset=15, note="part"),
    case("Size", "n c", free="n c"),
    case("Range", 1.0, 7.0, 2.0, sizes={}),
    case("RandomNormal", shape=[2, 3], seed=1.0),
    case("RandomUniform", shape=[2, 3], seed=1.0),
)  # fmt: skip
