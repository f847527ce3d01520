"""Gradients at points of a graph: against finite differences of onnxruntime's outputs, and against autograd."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch.nn import functional

from graphprune.api import analyze, load
from graphprune.calibration.gradients import gradients_of
from graphprune.calibration.points import Point, Wanted
from graphprune.graph.run import Runner, random_feeds
from graphprune.importance.output_sensitivity import sensitivity
from tests.graphs.builder import Builder


@dataclass
class Calibrated:
    samples: list[dict[str, np.ndarray]]
    seed: int = 0


CONVS: dict[str, dict[str, Any]] = {
    "plain": {"pads": [1, 1, 1, 1]},
    "no padding": {"kernel": (3, 2)},
    "strides": {"pads": [1, 1, 1, 1], "strides": [2, 2]},
    "strides, odd sides": {"pads": [0, 1, 1, 0], "strides": [2, 3]},
    "strides wider than the kernel": {"kernel": (1, 2), "strides": [3, 3]},
    "dilations": {"pads": [2, 2, 2, 2], "dilations": [2, 1]},
    "groups": {"pads": [1, 1, 1, 1], "group": 2},
    "depthwise with strides": {"out": 8, "pads": [1, 1, 0, 0], "strides": [2, 2], "group": 4},
    "groups, strides wider than the kernel": {"out": 4, "kernel": (1, 1), "strides": [2, 3], "group": 4},
    "more padding than the kernel reaches": {"kernel": (2, 2), "pads": [2, 2, 2, 2], "group": 2},
    "same upper": {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    "same lower": {"kernel": (2, 3), "auto_pad": "SAME_LOWER", "group": 2},
    "1-D": {"kernel": (5,), "pads": [2, 2], "strides": [3]},
}


@pytest.mark.parametrize("opset", [9, 20])
@pytest.mark.parametrize("name", CONVS)
def test_a_convolution_has_the_gradients_of_finite_differences(name: str, opset: int) -> None:
    spec = dict(CONVS[name])
    kernel, out = spec.pop("kernel", (3, 3)), spec.pop("out", 6)
    b = Builder(opset=opset, seed=1)
    x = b.source("x", [2, 4, *(9, 10)[: len(kernel)]])
    w = b.weight(out, 4 // spec.get("group", 1), *kernel, fan_in=9, name="w")
    y = b.op("Conv", x, w, b.weight(out, name="bias"), **spec)
    model = b.build(b.op("Tanh", y))
    conv = load(model).nodes[0]
    assert_differences(model, {"x": Point(conv.name, 0), "w": Point(conv.name, 1), "bias": Point(conv.name, 2)})


def assert_differences(model: onnx.ModelProto, points: Mapping[str, Point]) -> None:
    """Gradients at points where inputs and initializers are read once, against central differences."""
    graph = load(model)
    gradients = gradients_of(graph, [Wanted(p, None, "gradient") for p in points.values()], threads=1)
    rng = np.random.default_rng(0)
    feed = random_feeds(graph, 1, 0)[0]
    seed = rng.standard_normal(gradients.outputs(feed)[0].shape).astype(np.float32)
    stored = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    for (name, _), grad in zip(points.items(), gradients(feed, [seed]), strict=True):
        base = feed[name] if name in feed else stored[name]
        assert grad.shape == base.shape
        direction = rng.standard_normal(base.shape).astype(np.float32)
        ends = [weighed(model, feed, name, base + step * direction, seed) for step in (1e-2, -1e-2)]
        expected = (ends[0] - ends[1]) / 2e-2
        size = np.linalg.norm(grad) * np.linalg.norm(direction)
        assert float((grad * direction).sum()) == pytest.approx(expected, abs=2e-3 * size + 1e-3)
        assert size > 0


def weighed(model: onnx.ModelProto, feed: Mapping[str, Any], name: str, array: np.ndarray, seed: np.ndarray) -> float:
    """Sum of seed · output with an input or initializer replaced."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(array, name))
    graph = load(changed)
    out = Runner(graph.source, threads=1)({**feed, name: array} if name in feed else feed)[0]
    return float((out.astype(np.float64) * seed).sum())


def small_net(b: Builder, batch: int | str) -> str:
    """Convolutions with and without groups, a residual, ReLU6, and a linear end."""
    x = b.source("x", [batch, 3, 8, 8])
    x = stem = b.op("Relu", b.conv(x, 3, 6, name="stem"))
    x = b.op("Clip", b.conv(x, 6, 6, name="depth", group=6, stride=1), b.scalar(0), b.scalar(6))
    x = b.op("Add", b.conv(x, 6, 6, 1, name="point"), stem)
    return b.classifier(x, 6, 4)


def torch_net(weights: Mapping[str, torch.Tensor], x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The same in PyTorch, with the output of every layer."""
    w = weights
    layers = {"stem": functional.conv2d(x, w["stem.weight"], w["stem.bias"], padding=1)}
    stem = functional.relu(layers["stem"])
    layers["depth"] = functional.conv2d(stem, w["depth.weight"], w["depth.bias"], padding=1, groups=6)
    layers["point"] = functional.conv2d(functional.relu6(layers["depth"]), w["point.weight"], w["point.bias"])
    pooled = (layers["point"] + stem).mean((2, 3))
    layers["classifier"] = functional.linear(pooled, w["classifier.weight"], w["classifier.bias"])
    return layers["classifier"], layers


@pytest.mark.parametrize(("batch", "alike"), [(1, False), ("n", False), ("n", True)])
def test_sensitivity_is_the_mean_squared_gradient_of_autograd(batch: int | str, alike: bool) -> None:
    """With as many probes as it takes: E[(v J)²] is the sum of squared Jacobians over outputs."""
    b = Builder(seed=3)
    model = b.build(small_net(b, batch))
    deps = analyze(load(model))
    rng = np.random.default_rng(2)
    feeds = [{"x": rng.standard_normal((3 if batch == "n" else 1, 3, 8, 8)).astype(np.float32)} for _ in range(2)]
    found = sensitivity(deps, Calibrated(feeds), probes=1500, alike=alike)
    weights = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in model.graph.initializer}
    by_weight = {n.inputs[1].split(".")[0]: n.name for n in deps.source.nodes if n.op in ("Conv", "Gemm")}
    assert set(found) == {(name, 0) for name in by_weight.values()}
    samples = torch.from_numpy(np.concatenate([f["x"] for f in feeds]))
    norm = float(torch_net(weights, samples)[0].square().sum(1).mean())
    for layer, node in by_weight.items():
        expected = 0.0
        for k in range(len(samples)):
            y, layers = torch_net({n: w.requires_grad_() for n, w in weights.items()}, samples[k : k + 1])
            rows = [torch.autograd.grad(v, layers[layer], retain_graph=True)[0] for v in y[0]]
            flat = torch.stack([r.reshape(r.shape[1], -1) for r in rows])
            squares = flat.sum(2).square() / flat.shape[2] if alike else flat.square().mean(2)
            expected = expected + squares.sum(0) / norm / len(samples)
        np.testing.assert_allclose(found[node, 0], expected.numpy(), rtol=0.15)


def test_sensitivity_is_the_same_for_the_same_seed() -> None:
    b = Builder(seed=3)
    deps = analyze(load(b.build(small_net(b, "n"))))
    data = Calibrated(random_feeds(deps.source, 2, 0))
    first, second = sensitivity(deps, data, loss="fisher"), sensitivity(deps, data, loss="fisher")
    assert all(np.array_equal(first[key], second[key]) for key in first)
    assert all(len(v) == deps.source.values[node_output(deps, key[0])].shape[1] for key, v in first.items())


def node_output(deps: Any, name: str) -> str:
    return next(n.outputs[0] for n in deps.source.nodes if n.name == name)
