"""Merging against channels that are multiples of others, and transport plans against linear programming."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

import graphprune as gp
from graphprune.graph.onnx import load
from graphprune.recover.merge import merge
from graphprune.recover.paired import Job
from graphprune.recover.transport import plan
from graphprune.rewrite.onnx import rewrite
from graphprune.rewrite.torch import rewrite as module_without
from tests.graphs import Builder
from tests.recovery import changed_weight, feeds, run_all, stored, without

DATA = feeds(3, 3, 4, 8, 8)


def plain(b: Builder, x: str) -> str:
    return b.conv(b.conv_relu(x, 4, 8, name="first"), 8, 5, name="second")


def pooled(b: Builder, x: str) -> str:
    x = b.op("MaxPool", b.conv_relu(x, 4, 8, name="first"), kernel_shape=[2, 2], strides=[2, 2])
    return b.classifier(b.op("LeakyRelu", x, alpha=0.2), 8)


def normed(b: Builder, x: str) -> str:
    return b.conv_bn(b.op("Relu", b.conv_bn(x, 4, 8, name="first")), 8, 5, name="second")


def branches(b: Builder, x: str) -> str:
    x = b.conv_relu(x, 4, 8, name="first")
    return b.op("Add", b.conv(x, 8, 5, 1, name="second"), b.conv(x, 8, 5, name="third"))


def deep(b: Builder, x: str) -> str:
    x = b.conv_relu(b.conv_relu(x, 4, 8, name="first"), 8, 6, name="second")
    return b.conv(x, 6, 5, name="third")


def products(b: Builder, x: str) -> str:
    x = b.op("Relu", b.linear(b.transpose(x, 0, 2, 3, 1), 4, 8, "first"))
    return b.linear(x, 8, 5, "second")


def averaged(b: Builder, x: str) -> str:
    x = b.op("ReduceMean", b.conv_relu(x, 4, 8, name="first"), b.ints(-1, 2), keepdims=0)
    return b.gemm(x, 8, 5, "second")


NETS = {f.__name__: f for f in (plain, pooled, normed, branches, deep, products, averaged)}


def multiple(b: Builder, layer: str, axis: int, factor: float) -> None:
    """Let channel 5 be a multiple of channel 2, with a BatchNormalization where there is one."""
    parts = {"weight": axis, "bias": 0, "bn.gamma": 0, "bn.beta": 0}
    if f"{layer}.bn.mean" in b.initializers:
        for part in ("bn.mean", "bn.var"):
            array = stored(b, f"{layer}.{part}")
            array[5] = array[2]
            changed_weight(b, f"{layer}.{part}", array)
    for part, place in parts.items():
        name = f"{layer}.{part}"
        if name in b.initializers:
            array = np.moveaxis(stored(b, name), place, 0)
            normed = f"{layer}.bn.mean" in b.initializers and part == "weight"
            array[5] = array[2] if normed else factor * array[2]
            changed_weight(b, name, np.moveaxis(array, 0, place))


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_a_multiple_of_a_kept_channel_is_merged_without_loss(name: str, factor: float) -> None:
    b = Builder(name)
    out = NETS[name](b, b.source("x", [3, 4, 8, 8]))
    axis = 1 if name == "products" else 0
    multiple(b, "first", axis, factor)
    cut, small = without(b.build(out), "first.weight", [5], axis=axis)
    wanted = run_all(cut.deps.source.source, DATA)
    plainly = np.abs(run_all(small.source, DATA) - wanted).max()
    (line,) = merge(Job(cut, small, []))
    assert np.abs(run_all(small.source, DATA) - wanted).max() < 0.03 * plainly
    assert line.after < 0.01 * line.before


def test_merging_two_layers_in_a_row() -> None:
    b = Builder("deep")
    out = deep(b, b.source("x", [3, 4, 8, 8]))
    multiple(b, "first", 0, 2.0)
    multiple(b, "second", 0, 0.7)
    deps_model = b.build(out)
    deps = gp.analyze(deps_model)
    units: list[Any] = [deps.types[f"{n}.weight"][0].units for n in ("first", "second")]
    cut = deps.cut(np.concatenate([u[5] for u in units]).astype(np.int32))
    small = load(rewrite(cut))
    wanted = run_all(deps.source.source, DATA)
    plainly = np.abs(run_all(small.source, DATA) - wanted).max()
    assert len(merge(Job(cut, small, []))) == 2
    assert np.abs(run_all(small.source, DATA) - wanted).max() < 0.03 * plainly


def sigmoid(b: Builder, x: str) -> str:
    x = b.op("Sigmoid", b.conv(x, 4, 8, name="first"))
    return b.conv(x, 8, 5, name="second")


def summed(b: Builder, x: str) -> str:
    """Two producers."""
    x = b.op("Relu", b.op("Add", b.conv(x, 4, 8, name="first"), b.conv(x, 4, 8, 1, name="other")))
    return b.conv(x, 8, 5, name="second")


@pytest.mark.parametrize("build", [sigmoid, summed])
def test_what_cannot_be_merged_stays(build: Callable[[Builder, str], str]) -> None:
    b = Builder("left")
    cut, small = without(b.build(build(b, b.source("x", [3, 4, 8, 8]))), "first.weight", [5])
    before = run_all(small.source, DATA)
    assert merge(Job(cut, small, [])) == []
    np.testing.assert_array_equal(run_all(small.source, DATA), before)


def test_a_blurred_plan_costs_what_the_best_one_costs() -> None:
    rng = np.random.default_rng(0)
    cost = rng.random((5, 4))
    masses, room = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(4))
    found = plan(cost, masses, room, blur=2e-3, lean=np.inf)
    np.testing.assert_allclose(found.sum(axis=1), masses, atol=1e-9)
    np.testing.assert_allclose(found.sum(axis=0), room, atol=1e-3)
    sums = np.vstack([np.kron(np.eye(5), np.ones(4)), np.kron(np.ones(5), np.eye(4))])
    best = linprog(cost.ravel(), A_eq=sums, b_eq=np.concatenate([masses, room]), bounds=(0, None))
    assert float((found * cost).sum()) == pytest.approx(best.fun, rel=0.02)


def test_targets_that_are_only_leaned_on_take_what_is_near() -> None:
    cost = np.array([[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    found = plan(cost, np.array([1.0, 2.0]), np.ones(3))
    assert found[:, 0].sum() > 2.99


def test_modules_are_merged_too() -> None:
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = nn.Sequential(*pooled, nn.Linear(8, 4)).eval()
    with torch.no_grad():
        net[0].weight[5], net[0].bias[5] = 2 * net[0].weight[2], 2 * net[0].bias[2]
    x = torch.randn(4, 3, 8, 8)
    deps = gp.analyze(gp.trace(net, x))
    units: Any = deps.types["0.weight"][0].units
    made = module_without(deps.cut(units[5].astype(np.int32)))
    small = gp.trace(made, x)
    with torch.no_grad():
        plainly = (made(x) - net(x)).abs().max()
        assert len(merge(Job(deps.cut(units[5].astype(np.int32)), small, []))) == 1
        assert (made(x) - net(x)).abs().max() < 0.03 * plainly
