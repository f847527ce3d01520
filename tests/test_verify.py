"""Verification catches what is wrong: bad rules, bad slices, changed interfaces, comparisons that prove nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import ModelProto

from graphprune import api
from graphprune.errors import VerificationError
from graphprune.rewrite.onnx import rewrite
from graphprune.rules import registry
from graphprune.rules.context import Relate
from graphprune.verify.compare import verify_cut
from graphprune.verify.inner import inner_values
from graphprune.verify.randomise import randomised
from tests.cuts import random_cut
from tests.graphs import GRAPHS, Builder


def two_branches() -> ModelProto:
    """Hidden layers of 12 and 16 units, one behind a Tanh, one behind a Softplus."""
    b = Builder("two_branches")
    x = b.source("x", ["batch", 8])
    left = b.op("MatMul", b.op("Tanh", b.op("MatMul", x, b.weight(8, 12, name="a"))), b.weight(12, 4, name="b"))
    right = b.op("MatMul", b.op("Softplus", b.op("MatMul", x, b.weight(8, 16, name="c"))), b.weight(16, 4, name="d"))
    return b.build(b.op("Add", left, right))


def uncoupled(r: Relate) -> None:
    """A wrong rule: it says that output channels have nothing to do with input channels."""
    r.out([r.axis(0, 0), r.fresh(r.shape(0)[1])])


def reversed_channels(r: Relate) -> None:
    """A wrong rule that keeps every shape right: it couples the channels back to front."""
    r.out([r.axis(0, 0), r.index(r.axis(0, 1), np.arange(r.shape(0)[1])[::-1])])


@pytest.mark.parametrize("wrong", [uncoupled, reversed_channels])
def test_a_wrong_rule_costs_its_groups_and_nothing_else(
    wrong: registry.Relation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(registry._RULES, "Softplus", registry.Rule("Softplus", "POINTWISE", wrong))
    result = api.prune(two_branches(), tmp_path / "s.onnx", macs="75%", align=1)
    assert result.verdict is not None
    assert result.verdict.passed
    assert any(name.startswith(("c[", "d[")) for name in result.frozen)
    assert {g.name for g in result.plan.groups} == {"a[1]"}
    assert (tmp_path / "s.onnx").exists()


def test_nothing_is_written_when_no_plan_verifies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for op in ("Softplus", "Tanh"):
        monkeypatch.setitem(registry._RULES, op, registry.Rule(op, "POINTWISE", uncoupled))
    with pytest.raises(VerificationError, match="nothing was written"):
        api.prune(two_branches(), tmp_path / "s.onnx", macs="75%", align=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["resnet_stage", "vit_fused_qkv", "lstm", "grouped_conv", "rmsnorm_swiglu"])
def test_one_wrong_slice_is_seen(name: str) -> None:
    """Exchanging two kept channels of one weight keeps every shape, and must not pass."""
    deps = api.analyze(GRAPHS[name]())
    cut = random_cut(deps, 1)
    assert cut is not None
    model = rewrite(cut)
    assert verify_cut(cut, model).passed
    group = max((g for g in deps.groups if (~cut.removed[g.units]).sum() > 1), key=lambda g: g.size)
    member = next(m for m in group.members if len(deps.source.weights[m.tensor].shape) > 1)
    value = model.graph.initializers[deps.source.weights[member.tensor].source]
    assert value.const_value is not None
    array = value.const_value.numpy()
    value.const_value = ir.Tensor(np.roll(array, 1, axis=member.axis), name=value.name)
    assert not verify_cut(cut, model).passed


def test_a_changed_interface_is_seen() -> None:
    deps = api.analyze(GRAPHS["resnet_stage"]())
    cut = random_cut(deps, 0)
    assert cut is not None
    model = rewrite(cut)
    model.graph.outputs[0].name = "renamed"
    verdict = verify_cut(cut, model)
    assert not verdict.passed
    assert "outputs changed" in verdict.text


def test_a_saturated_output_does_not_hide_a_wrong_model() -> None:
    """Behind a one-hot Softmax everything looks alike; the value in front of it is compared."""
    b = Builder("saturated")
    x = b.source("x", [2, 8])
    hidden = b.op("Relu", b.op("MatMul", x, b.weight(8, 16, name="a")))
    logits = b.op("MatMul", hidden, b.weight(16, 4, name="b"))
    offset = b.const(np.array([0, 0, 0, 1e4], np.float32))
    model = b.build(b.op("Softmax", b.op("Add", logits, offset)))
    deps = api.analyze(model)
    assert len(inner_values(deps.source)) == 1
    cut = deps.cut(deps.groups[0].units[:5])
    small = rewrite(cut)
    assert verify_cut(cut, small).passed
    value = small.graph.initializers["b"]
    assert value.const_value is not None
    value.const_value = ir.Tensor(value.const_value.numpy() + np.float32(50), name="b")
    assert not verify_cut(cut, small).passed


def test_constant_filled_weights_are_tried_with_random_ones() -> None:
    b = Builder("flat")
    x = b.source("x", [2, 8])
    hidden = b.op("Relu", b.op("MatMul", x, b.const(np.full((8, 6), 0.5, np.float32), "a")))
    model = b.build(b.op("MatMul", hidden, b.weight(6, 4, name="b")))
    deps = api.analyze(model)
    cut = deps.cut(deps.groups[0].units[:2])
    twin = randomised(cut, 0)
    assert twin is not None
    assert len(np.unique(twin.deps.source.weights["a"].read())) == 48
    assert verify_cut(cut, rewrite(cut)).passed
    assert np.array_equal(deps.source.weights["a"].read(), np.full((8, 6), 0.5))


def test_a_model_without_finite_outputs_proves_nothing() -> None:
    b = Builder("nan")
    x = b.source("x", [2, 8])
    hidden = b.op("MatMul", x, b.weight(8, 6, name="a"))
    out = b.op("MatMul", hidden, b.weight(6, 4, name="b"))
    model = b.build(b.op("Log", b.op("Neg", b.op("Exp", out))))
    deps = api.analyze(model)
    cut = deps.cut(deps.groups[0].units[:2])
    verdict = verify_cut(cut, rewrite(cut))
    assert not verdict.passed
    assert "--input-shape or --data" in verdict.text
