"""What the kept channels can say exactly is said exactly after the re-fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from graphprune.recover.paired import Job
from graphprune.recover.refit import refit
from tests.graphs import Builder
from tests.recovery import changed_weight, feeds, run_all, stored, without

DATA = feeds(12, 3, 4, 7, 7)


def doubled(b: Builder, layer: str, axis: int = 0) -> None:
    """Let channel 5 be twice channel 2, with the bias."""
    for part in ("weight", "bias"):
        if f"{layer}.{part}" in b.initializers:
            array = stored(b, f"{layer}.{part}")
            index: Any = [slice(None)] * array.ndim
            index[axis if part == "weight" else 0] = 5
            source = list(index)
            source[axis if part == "weight" else 0] = 2
            array[tuple(index)] = 2 * array[tuple(source)]
            changed_weight(b, f"{layer}.{part}", array)


def plain(b: Builder, x: str) -> str:
    return b.conv(b.conv_relu(x, 4, 8, name="first"), 8, 5, name="second")


def transposed(b: Builder, x: str) -> str:
    return b.conv_transpose(b.conv_relu(x, 4, 8, name="first"), 8, 5, name="second")


def batchnorm(b: Builder, x: str) -> str:
    return b.conv_bn(b.conv_relu(x, 4, 8, name="first"), 8, 5, name="second")


def stream(b: Builder, x: str) -> str:
    stem = b.conv(x, 4, 6, name="stem")
    return b.op("Add", b.conv_bn(b.conv_relu(stem, 6, 8, name="first"), 8, 6, name="second"), stem)


def product(b: Builder, x: str) -> str:
    x = b.transpose(b.conv_relu(x, 4, 8, name="first"), 0, 2, 3, 1)
    return b.linear(x, 8, 5, "second")


def turned(b: Builder, x: str) -> str:
    """The weight lies turned in the file, and a bias of shape (1, 5, 1, 1) or (5,) is added behind."""
    x = b.transpose(b.conv_relu(x, 4, 8, name="first"), 0, 2, 3, 1)
    weight = b.transpose(b.op("Unsqueeze", b.weight(5, 8, name="second.weight"), b.ints(0)), 0, 2, 1)
    x = b.op("MatMul", x, b.op("Squeeze", weight, b.ints(0)))
    return b.op("Add", x, b.op("Reshape", b.weight(5, name="second.bias"), b.ints(1, 1, 5)))


def added(b: Builder, x: str) -> str:
    """The bias of a convolution is a node of its own."""
    x = b.conv(b.conv_relu(x, 4, 8, name="first"), 8, 5, name="second", bias=False)
    return b.op("Add", b.weight(1, 5, 1, 1, name="second.bias"), x)


NETS = {f.__name__: f for f in (plain, transposed, batchnorm, stream, product, turned, added)}


@pytest.mark.parametrize("name", NETS)
def test_a_redundant_channel_is_made_up_for_exactly(name: str) -> None:
    b = Builder(name)
    out = NETS[name](b, b.source("x", [3, 4, 7, 7]))
    doubled(b, "first")
    cut, small = without(b.build(out), "first.weight", [5])
    wanted = run_all(cut.deps.source.source, DATA)
    assert np.abs(run_all(small.source, DATA) - wanted).max() > 0.05
    refit(Job(cut, small, DATA))
    np.testing.assert_allclose(run_all(small.source, DATA), wanted, atol=5e-4)


@pytest.mark.parametrize("build", [added, turned])
def test_a_constant_goes_into_a_bias_behind_the_layer(build: Any) -> None:
    b = Builder("behind")
    out = build(b, b.source("x", [3, 4, 7, 7]))
    weight, bias = stored(b, "first.weight"), stored(b, "first.bias")
    weight[5], bias[5] = 0, 3
    changed_weight(b, "first.weight", weight)
    changed_weight(b, "first.bias", bias)
    if build is added:  # without padding a constant gives a constant
        last = next(n for n in b.nodes if "second.weight" in n.input)
        next(a for a in last.attribute if a.name == "pads").ints[:] = [0] * 4
    cut, small = without(b.build(out), "first.weight", [5])
    refit(Job(cut, small, DATA))
    np.testing.assert_allclose(run_all(small.source, DATA), run_all(cut.deps.source.source, DATA), atol=5e-4)


def test_a_batchnorm_takes_the_bias_that_a_layer_has_not() -> None:
    """A channel that always holds 3 is removed: only a bias can make up for it."""
    b = Builder("constant")
    x = b.conv_relu(b.source("x", [3, 4, 7, 7]), 4, 8, name="first")
    x = b.conv_bn(x, 8, 5, 1, name="second")
    weight, bias = stored(b, "first.weight"), stored(b, "first.bias")
    weight[5], bias[5] = 0, 3
    changed_weight(b, "first.weight", weight)
    changed_weight(b, "first.bias", bias)
    cut, small = without(b.build(x), "first.weight", [5])
    wanted = run_all(cut.deps.source.source, DATA)
    assert np.abs(run_all(small.source, DATA) - wanted).max() > 0.05
    refit(Job(cut, small, DATA))
    np.testing.assert_allclose(run_all(small.source, DATA), wanted, atol=5e-4)


def ridge(inputs: np.ndarray, targets: np.ndarray, weight: np.ndarray, strength: float) -> np.ndarray:
    """Argmin of the centred residuals squared + λ times the squared distance from a weight, one system of rows."""
    x, y = inputs - inputs.mean(0), targets - targets.mean(0)
    pull = np.sqrt(strength * (x**2).sum() / x.shape[1]) * np.eye(x.shape[1])
    return np.asarray(np.linalg.lstsq(np.vstack([x, pull]), np.vstack([y, pull @ weight]), rcond=None)[0])


def test_the_fit_is_least_squares_on_what_the_pruned_layers_give() -> None:
    """Two layers in a row: the second one sees what the first one, re-fitted, gives."""
    b = Builder("two")
    x = b.source("x", [64, 6])
    x = b.op("Relu", b.gemm(x, 6, 8, "first"))
    x = b.op("Relu", b.gemm(x, 8, 8, "second"))
    model = b.build(b.gemm(x, 8, 3, "third"))
    data = feeds(16, 64, 6)
    cut, small = without(model, "first.weight", [1, 2])
    strengths = [line.strength for line in refit(Job(cut, small, data))]
    (w1, b1), (w2, b2), (w3, b3) = (
        (stored(b, f"{n}.weight").astype(float).T, stored(b, f"{n}.bias").astype(float))
        for n in ("first", "second", "third")
    )
    inputs = np.concatenate([f["x"] for f in data]).astype(float)
    hidden = np.maximum(inputs @ w1 + b1, 0)
    target = hidden @ w2 + b2
    kept = np.delete(hidden, [1, 2], axis=1)
    best = ridge(kept, target, np.delete(w2, [1, 2], axis=0), strengths[0])
    graph = small.source.graph.initializers
    np.testing.assert_allclose(graph["second.weight"].const_value.numpy().T, best, atol=1e-4)
    shift = (target - kept @ best).mean(0)
    np.testing.assert_allclose(graph["second.bias"].const_value.numpy(), shift, atol=1e-4)
    aim = np.maximum(target, 0) @ w3 + b3
    best = ridge(np.maximum(kept @ best + shift, 0), aim, w3, strengths[1])
    np.testing.assert_allclose(graph["third.weight"].const_value.numpy().T, best, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_element_types_stay(dtype: Any) -> None:
    b = Builder("types")
    x = b.op("Cast", b.source("x", [64, 6]), to=int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype))))
    x = b.op("Relu", b.gemm(x, 6, 8, "first"))
    out = b.op("Cast", b.gemm(x, 8, 3, "second"), to=1)
    doubled(b, "first")
    for name in list(b.initializers):
        array = stored(b, name).astype(dtype)
        del b.initializers[name]
        b.const(array, name)
    data = feeds(16, 64, 6)
    cut, small = without(b.build(out), "first.weight", [5])
    wanted = run_all(cut.deps.source.source, data)
    plainly = np.abs(run_all(small.source, data) - wanted).max()
    refit(Job(cut, small, data))
    assert small.source.graph.initializers["second.weight"].const_value.numpy().dtype == dtype
    assert np.abs(run_all(small.source, data) - wanted).max() < 0.02 * plainly
