"""Pruned files at input sizes that were used neither to analyse nor to verify them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from graphprune import api
from graphprune.plan import planned_cut
from graphprune.rewrite.onnx import rewrite
from graphprune.verify.oracle import masked_reference
from tests.cuts import random_cut, random_fibres, summary
from tests.graphs import GRAPHS, Builder, random_feeds, run
from tests.graphs.quantised import decoder, mlp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from onnx import ModelProto

    from graphprune.coupling.groups import Cut


def _sizes(b: Builder, x: str, *axes: int) -> list[str]:
    """Single sizes of a value as vectors, as exporters write them: Shape, Gather, Unsqueeze."""
    shape = b.op("Shape", x)
    return [b.op("Unsqueeze", b.pick(shape, a, 0), b.ints(0)) for a in axes]


def convnet() -> ModelProto:
    """Strides, a squeeze, a pyramid whose coarse level is resized to the size of the fine one, and tokens at the end.

    The 12 channels of the last stage are normalised in 3 groups by a Reshape with a computed size: they stay.
    """
    b = Builder("convnet")
    fine = b.op("Relu", b.conv_bn(b.source("image", ["n", 3, "h", "w"]), 3, 12, 3, "stem", stride=2))
    gate = b.op("Sigmoid", b.conv(b.op("ReduceMean", fine, b.ints(2, 3), keepdims=1), 12, 12, 1, "gate"))
    fine = b.op("Mul", fine, gate)
    deep = b.op("Relu", b.conv(fine, 12, 16, 3, "down", stride=2))
    deep = b.op("Relu", b.conv(b.op("MaxPool", deep, kernel_shape=[2, 2], strides=[2, 2]), 16, 8, 1, "lateral"))
    target = b.op("Concat", *_sizes(b, deep, 0, 1), *_sizes(b, fine, 2, 3), axis=0)
    up = b.op("Resize", deep, "", "", target, mode="nearest")
    x = b.conv(b.op("Concat", fine, up, axis=1), 20, 12, 3, "merge")
    n, height, width = _sizes(b, x, 0, 2, 3)
    groups = b.op("Reshape", x, b.op("Concat", n, b.ints(3), b.ints(-1), axis=0))
    groups = b.op("InstanceNormalization", groups, b.const(np.ones(3, np.float32)), b.const(np.zeros(3, np.float32)))
    x = b.op("Relu", b.op("Reshape", groups, b.op("Concat", n, b.ints(12), height, width, axis=0)))
    x = b.op("Reshape", b.conv(x, 12, 14, 1, "tokens"), b.op("Concat", n, b.ints(14), b.ints(-1), axis=0))
    return b.build(b.linear(b.transpose(x, 0, 2, 1), 14, 5, "head"))


def transformer() -> ModelProto:
    """Embeddings cut to the length, a causal mask filled to it, Reshape targets and a scale computed from Shape."""
    b = Builder("transformer")
    ids = b.source("ids", ["batch", "length"], TensorProto.INT64)
    length = _sizes(b, ids, 1)[0]
    places = b.op("Slice", b.weight(64, 24, name="positions"), b.ints(0), length, b.ints(0))
    x = b.op("Add", b.op("Gather", b.weight(20, 24, name="embed"), ids), places)
    square = b.op("Concat", length, length, axis=0)
    low = b.const(np.array([-1e4], np.float32))
    fill = b.op("Expand", low, square)
    mask = b.op("Trilu", fill, b.const(np.int64(1)), upper=1)
    keep = b.op("Unsqueeze", b.source("attention_mask", ["batch", "length"]), b.ints(1, 2))
    mask = b.op("Add", mask, b.op("Mul", b.op("Sub", b.scalar(1), keep), low))
    for i in range(2):
        y = b.layernorm(x, 24, f"norm_a{i}")
        sizes = _sizes(b, y, 0, 1)
        target = b.op("Concat", *sizes, b.ints(3), b.ints(8), axis=0)
        q, k, v = (b.transpose(b.op("Reshape", b.linear(y, 24, 24, f"{n}{i}"), target), 0, 2, 1, 3) for n in "qkv")
        dims = b.op("Cast", b.op("Gather", b.op("Shape", q), b.const(np.int64(-1)), axis=0), to=TensorProto.FLOAT)
        scores = b.op("Div", b.op("MatMul", q, b.transpose(k, 0, 1, 3, 2)), b.op("Sqrt", dims))
        mixed = b.op("MatMul", b.op("Softmax", b.op("Add", scores, mask), axis=-1), v)
        whole = b.op("Concat", *sizes, b.ints(24), axis=0)
        x = b.op("Add", x, b.linear(b.op("Reshape", b.transpose(mixed, 0, 2, 1, 3), whole), 24, 24, f"out{i}"))
        y = b.op("Gelu", b.linear(b.layernorm(x, 24, f"norm_b{i}"), 24, 40, f"up{i}"))
        x = b.op("Add", x, b.linear(y, 40, 24, f"down{i}"))
    return b.build(b.linear(b.layernorm(x, 24, "norm"), 24, 20, "head"))


def windows() -> ModelProto:
    """Patches of 4 by 4 cut out by Reshape and Transpose; their number follows height and width."""
    b = Builder("windows")
    x = b.transpose(b.conv_relu(b.source("image", ["n", 3, "h", "w"]), 3, 10, name="stem"), 0, 2, 3, 1)
    n, height, width = _sizes(b, x, 0, 1, 2)
    four = b.ints(4)
    rows, columns = (b.op("Div", size, four) for size in (height, width))
    x = b.op("Reshape", x, b.op("Concat", n, rows, four, columns, four, b.ints(10), axis=0))
    x = b.reshape(b.transpose(x, 0, 1, 3, 2, 4, 5), -1, 16, 10)
    q, k, v = (b.transpose(b.reshape(b.linear(x, 10, 12, s), -1, 16, 2, 6), 0, 2, 1, 3) for s in "qkv")
    scores = b.op("Softmax", b.op("MatMul", q, b.transpose(k, 0, 1, 3, 2)), axis=-1)
    y = b.reshape(b.transpose(b.op("MatMul", scores, v), 0, 2, 1, 3), -1, 16, 12)
    x = b.op("Add", x, b.linear(y, 12, 10, "proj"))
    x = b.op("Reshape", x, b.op("Concat", n, rows, columns, four, four, b.ints(10), axis=0))
    x = b.transpose(x, 0, 1, 3, 2, 4, 5)
    x = b.op("Reshape", x, b.op("Concat", n, height, width, b.ints(10), axis=0))
    return b.build(b.conv(b.transpose(x, 0, 3, 1, 2), 10, 4, 1, "head"))


def symbols(model: ModelProto) -> list[str]:
    """Names of the dynamic sizes of the inputs."""
    found = (d.dim_param for v in model.graph.input for d in v.type.tensor_type.shape.dim)
    return list(dict.fromkeys(name for name in found if name))


MODELS: dict[str, Callable[[], ModelProto]] = {
    "convnet": convnet,
    "transformer": transformer,
    "windows": windows,
    "decoder": decoder,
    "mlp": mlp,
    **{name: make for name, make in GRAPHS.items() if symbols(make())},
}
# Sizes in the order of a model's symbols; the probes use 1 and 2 in front, 32 and more behind.
THIRD = {"image": [(3, 20, 28), (1, 52, 8), (5, 8, 116)], "other": [(3, 11, 13), (4, 1, 1), (5, 7, 3), (7, 50, 21)]}


def third_sizes(model: ModelProto) -> list[dict[str, int]]:
    found = symbols(model)
    table = THIRD["image" if {"h", "w"} <= set(found) else "other"]
    return [dict(zip(found, row, strict=False)) for row in table]


def assert_same(model: ModelProto, cut: Cut, pruned: ModelProto, *, optimize: bool = False) -> None:
    """The pruned model gives what the masked original gives, at sizes the analysis has not seen."""
    probed = [dict(sizes) for sizes in cut.deps.source.input_shapes]
    masked = ir.to_proto(masked_reference(cut))
    for seed, sizes in enumerate(third_sizes(model)):
        feeds = random_feeds(model, seed, sizes)
        assert {k: v.shape for k, v in feeds.items()} not in probed
        plain = run(model, feeds)
        for a, b, whole in zip(run(masked, feeds), run(pruned, feeds, optimize=optimize), plain, strict=True):
            assert a.shape == b.shape == whole.shape, sizes
            spread = max(float(np.abs(a).max()), 1e-3)
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-4 * spread, err_msg=f"{sizes}, {summary(cut)}")


@pytest.mark.parametrize("name", MODELS)
def test_a_pruned_file(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    onnx.save(model, tmp_path / "whole.onnx")
    result = api.prune(tmp_path / "whole.onnx", tmp_path / "small.onnx", ratio=0.4, align=1)
    assert result.verdict is not None
    assert result.verdict.passed
    assert not result.frozen
    assert result.after.params < result.before.params
    small = onnx.load(tmp_path / "small.onnx")
    before, after = (declared(m) for m in (model, small))
    assert before == after
    cut = planned_cut(api.analyze(tmp_path / "whole.onnx"), result.plan)
    for optimize in (False, True):
        assert_same(model, cut, small, optimize=optimize)


def declared(model: ModelProto) -> dict[str, list[Any]]:
    """Sizes that a model states for its inputs and outputs."""
    values = (*model.graph.input, *model.graph.output)
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


@pytest.mark.parametrize("name", MODELS)
def test_random_removals(name: str) -> None:
    model = MODELS[name]()
    deps = api.analyze(model)
    for seed in range(4):
        cut = random_cut(random_fibres(deps, seed), seed)
        assert cut is not None
        assert_same(model, cut, ir.to_proto(rewrite(cut)))


def test_what_is_free_in_them() -> None:
    """By hand, so that the equalities are about something."""
    sizes: Mapping[str, list[int]] = {
        "convnet": [3, 8, 12, 14, 16],  # groups of a norm over a computed size, upsampled, stem, tokens, coarse
        "transformer": [3, 3, 8, 8, 8, 8, 24, 40, 40],  # per layer: heads, dims of q and k, dims of v, inner
        "windows": [2, 6, 6, 10],
    }
    for name, wanted in sizes.items():
        assert sorted(g.size for g in api.analyze(MODELS[name]()).groups) == wanted, name
