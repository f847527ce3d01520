"""Unfolded inputs times the canonical weight are what onnxruntime computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphprune as gp
from graphprune.calibration.unfold import outputs, positions, unfold, unfolds
from graphprune.folding.linear import linear
from graphprune.graph.run import Runner

rng = np.random.default_rng(0)


def layer(op: str, data: tuple[int, ...], weight: tuple[int, ...], *, left: bool = False, **attrs: Any) -> Any:
    """A model of one node, its graph, an input and what onnxruntime makes of it."""
    w = numpy_helper.from_array(rng.standard_normal(weight).astype("f4"), "w")
    node = helper.make_node(op, ["w", "x"] if left else ["x", "w"], ["y"], name="n", **attrs)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, data)
    y = onnx.ValueInfoProto(name="y")
    y.type.tensor_type.elem_type = TensorProto.FLOAT
    graph = helper.make_graph([node], "g", [x], [y], [w])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    loaded = gp.load(model)
    feed = rng.standard_normal(data).astype("f4")
    return loaded, feed, Runner(loaded.source)({"x": feed})[0], int(left)


CASES = {
    "plain": layer("Conv", (2, 3, 7, 6), (4, 3, 3, 3)),
    "strided": layer("Conv", (2, 3, 9, 8), (4, 3, 3, 2), strides=[2, 3], pads=[1, 0, 2, 1]),
    "dilated groups": layer("Conv", (1, 4, 9, 9), (6, 2, 3, 3), dilations=[2, 1], group=2, pads=[2, 1, 2, 1]),
    "depthwise": layer("Conv", (2, 5, 6, 6), (10, 1, 3, 3), group=5, strides=[2, 2]),
    "same upper": layer("Conv", (1, 3, 8, 7), (2, 3, 4, 4), auto_pad="SAME_UPPER", strides=[2, 2]),
    "same lower": layer("Conv", (1, 3, 8, 7), (2, 3, 4, 3), auto_pad="SAME_LOWER", strides=[1, 2]),
    "one dimension": layer("Conv", (2, 3, 11), (4, 3, 5), strides=[2], pads=[2, 1]),
    "three dimensions": layer("Conv", (1, 2, 4, 5, 6), (3, 2, 2, 3, 1), pads=[0, 1, 0, 1, 1, 0]),
    "transposed": layer("ConvTranspose", (2, 3, 4, 5), (3, 2, 3, 3), strides=[2, 1], pads=[1, 0, 1, 2]),
    "transposed groups": layer(
        "ConvTranspose", (1, 4, 4, 4), (4, 3, 2, 4), group=2, strides=[2, 3], dilations=[2, 1], output_padding=[1, 2]
    ),
    "gemm": layer("Gemm", (5, 3), (4, 3), transB=1),
    "gemm turned": layer("Gemm", (3, 5), (3, 4), transA=1),
    "product": layer("MatMul", (2, 5, 3), (3, 4)),
    "weight on the left": layer("MatMul", (2, 3, 5), (4, 3), left=True),
}


@pytest.mark.parametrize("name", CASES)
def test_the_product_is_the_layer(name: str) -> None:
    graph, feed, made, slot = CASES[name]
    node = graph.nodes[0]
    found = linear(graph, node, slot)
    assert found is not None
    assert unfolds(found)
    weight = found.canonical(graph.weights["w"].read())
    groups, inputs, outs, taps = weight.shape
    matrix = weight.transpose(0, 1, 3, 2).reshape(groups, inputs * taps, outs)
    kernel = graph.weights["w"].shape[2:]
    wanted = outputs(found, made)
    assert wanted.shape[1] == positions(found, made.shape)
    np.testing.assert_allclose(unfold(found, feed, kernel) @ matrix, wanted, rtol=1e-4, atol=1e-5)
    rows = rng.permutation(wanted.shape[1])[:7]
    np.testing.assert_allclose(
        unfold(found, feed, kernel, rows) @ matrix, outputs(found, made, rows), rtol=1e-4, atol=1e-5
    )
