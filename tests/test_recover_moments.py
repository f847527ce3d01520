"""Means, variances and BatchNormalization statistics after the cut, against numpy on what onnxruntime gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from graphprune.recover.batchnorm import reestimate
from graphprune.recover.moments import correct_means, correct_moments
from graphprune.recover.paired import Job
from tests.graphs import Builder
from tests.recovery import feeds, run_all, without

DATA = feeds(12, 3, 4, 7, 7)


def plain() -> Any:
    """Two convolutions."""
    b = Builder("plain")
    x = b.conv_relu(b.source("x", [3, 4, 7, 7]), 4, 8, name="first")
    return b.build(b.conv(x, 8, 5, name="second"))


def residual() -> Any:
    """A block whose last convolution is added to its input, with a BatchNormalization in front of the Add."""
    b = Builder("residual")
    x = b.conv(b.source("x", [3, 4, 7, 7]), 4, 6, name="stem")
    inner = b.op("Relu", b.conv_bn(x, 6, 8, name="first"))
    return b.build(b.op("Add", b.conv_bn(inner, 8, 6, name="second"), x))


def grouped() -> Any:
    """A depthwise convolution behind one that loses channels, then a product."""
    b = Builder("grouped")
    x = b.conv_relu(b.source("x", [3, 4, 7, 7]), 4, 8, name="first")
    x = b.op("Relu", b.conv(x, 8, 8, name="second", group=8))
    return b.build(b.linear(b.transpose(b.conv(x, 8, 6, 1, name="third"), 0, 2, 3, 1), 6, 5, "last"))


NETS = {"plain": plain, "residual": residual, "grouped": grouped}


def spread(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    return rows.mean(axis=1), rows.std(axis=1)


@pytest.mark.parametrize("name", NETS)
def test_outputs_get_their_means_back(name: str) -> None:
    model = NETS[name]()
    axis = -1 if name == "grouped" else 1
    cut, small = without(model, "first.weight", [1, 4, 6])
    wanted, plainly = run_all(cut.deps.source.source, DATA), run_all(small.source, DATA)
    report = correct_means(Job(cut, small, DATA))
    found = run_all(small.source, DATA)
    assert np.abs(spread(plainly, axis)[0] - spread(wanted, axis)[0]).max() > 0.01
    np.testing.assert_allclose(spread(found, axis)[0], spread(wanted, axis)[0], atol=1e-5)
    assert ((found - wanted) ** 2).sum() < ((plainly - wanted) ** 2).sum()
    assert all(line.after <= line.before for line in report)
    assert "stem" not in "".join(line.layer for line in report)


@pytest.mark.parametrize("name", ["plain", "grouped"])
def test_outputs_get_their_variances_back(name: str) -> None:
    cut, small = without(NETS[name](), "first.weight", [1, 4, 6])
    axis = -1 if name == "grouped" else 1
    wanted = run_all(cut.deps.source.source, DATA)
    correct_moments(Job(cut, small, DATA))
    for got, aim in zip(spread(run_all(small.source, DATA), axis), spread(wanted, axis), strict=True):
        np.testing.assert_allclose(got, aim, rtol=1e-4, atol=1e-5)


def test_a_branch_gets_its_variance_and_the_sum_its_mean() -> None:
    cut, small = without(residual(), "first.weight", [1, 4, 6])
    correct_moments(Job(cut, small, DATA))
    branch = next(n.outputs[0] for n in small.nodes if "second.bn.gamma" in n.inputs)
    for model in (cut.deps.source.source, small.source):
        model.graph.outputs.append(next(v for n in model.graph for v in n.outputs if v.name == branch))
    from graphprune.graph.run import Runner

    def made(model: ir.Model, place: int) -> np.ndarray:
        runner = Runner(model, threads=1)
        return np.concatenate([np.asarray(runner(f)[place], np.float64) for f in DATA])

    dense, pruned = cut.deps.source.source, small.source
    np.testing.assert_allclose(spread(made(pruned, 1), 1)[1], spread(made(dense, 1), 1)[1], rtol=1e-4)
    np.testing.assert_allclose(spread(made(pruned, 0), 1)[0], spread(made(dense, 0), 1)[0], atol=1e-5)


def test_batchnorm_statistics_are_those_of_what_it_reads() -> None:
    cut, small = without(residual(), "first.weight", [1, 4, 6])
    before = small.weights["first.bn.mean"].read().copy()
    report = reestimate(Job(cut, small, DATA))
    assert len(report) == 2
    model = small.source
    held = model.graph.initializers["second.bn.mean"], model.graph.initializers["second.bn.var"]
    read = next(n.inputs[0] for n in model.graph if any(v is held[0] for v in n.inputs))
    model.graph.outputs[:] = [read]
    values = run_all(model, DATA)
    mean, deviation = spread(values, 1)
    np.testing.assert_allclose(held[0].const_value.numpy(), mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(held[1].const_value.numpy(), deviation**2, rtol=1e-4, atol=1e-6)
    assert not np.array_equal(before, model.graph.initializers["first.bn.mean"].const_value.numpy())


def test_without_batchnorm_nothing_is_done_and_said() -> None:
    cut, small = without(plain(), "first.weight", [0])
    said: list[str] = []
    before = run_all(small.source, DATA)
    assert reestimate(Job(cut, small, DATA, progress=said.append)) == []
    assert said == ["no BatchNormalization reads anything that changed"]
    np.testing.assert_array_equal(run_all(small.source, DATA), before)
