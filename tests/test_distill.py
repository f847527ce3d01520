"""Distillation: which weights learn, and what becomes of gradients that are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import graphprune as gp
from graphprune.errors import InputError
from tests.graphs import Builder
from tests.recovery import feeds

pytest.importorskip("onnx_ad")

DATA = feeds(12, 4, 4, 6, 6)


def net(*, magnitudes: bool = False) -> onnx.ModelProto:
    """Three convolutions; with magnitudes the first one's outputs are squared, and roots are taken of the squares."""
    b = Builder("net")
    x = b.conv_relu(b.source("x", [4, 4, 6, 6]), 4, 8, name="first")
    if magnitudes:
        x = b.op("Sqrt", b.op("Mul", x, x))
    x = b.conv_relu(x, 8, 8, name="second")
    return b.build(b.conv(x, 8, 5, name="third"))


def with_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with Constant nodes in the place of initializers, as Paddle exports them."""
    nodes = [onnx.helper.make_node("Constant", [], [t.name], value=t) for t in model.graph.initializer]
    inner = [*nodes, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(inner)
    onnx.checker.check_model(model, full_check=True)
    return model


def distilled(model: Any) -> tuple[float, Any]:
    result = gp.prune(model, macs="50%", align=1, data=DATA, criterion="l2", recover="distill")
    assert result.recovery is not None
    return result.recovery.cut, result.recovery.steps[0]


def test_distillation_brings_the_outputs_closer() -> None:
    cut, step = distilled(net())
    assert step.kept
    assert step.error < 0.8 * cut


def test_weights_in_constant_nodes_learn_like_initializers() -> None:
    cut, step = distilled(with_constants(net()))
    usual_cut, usual = distilled(net())
    assert step.kept
    assert (cut, step.error) == pytest.approx((usual_cut, usual.error), rel=1e-3)


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    """A root has no finite gradient at zero, which is where a ReLU in front of it puts half of the positions."""
    cut, step = distilled(net(magnitudes=True))
    assert step.kept
    assert np.isfinite(step.error)
    assert step.error < cut


def test_a_model_without_weights_that_could_learn_is_told() -> None:
    b = Builder("double")
    model = b.build(b.gemm(b.op("Relu", b.gemm(b.source("x", [4, 6]), 6, 8, "first")), 8, 5, "second"))
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(float), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    data = [{"x": np.random.default_rng(k).normal(size=(4, 6))} for k in range(4)]
    with pytest.raises(InputError, match="no layer has a float32 weight"):
        gp.prune(model, macs="50%", align=1, data=data, criterion="l2", recover="distill")
