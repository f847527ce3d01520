"""Scores from gradients and perturbations: finite differences, the masked reference, autograd, planted units."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic
from torch import nn

import graphprune.importance.losses as losses_module
import graphprune.importance.perturbation as perturbation_module
from graphprune.api import analyze, load, plan
from graphprune.calibration.gradients import Masks, gradients_of, single
from graphprune.calibration.heads import heads
from graphprune.calibration.masks import MASKS
from graphprune.coupling.fibres import fine
from graphprune.coupling.groups import DependencyGraph
from graphprune.errors import InputError
from graphprune.graph.run import Runner, random_feeds
from graphprune.graph.torch import trace
from graphprune.importance.fisher import empirical_fisher, fisher, gauss_newton
from graphprune.importance.gradient_criteria import GRADIENTS
from graphprune.importance.hessian import hessian
from graphprune.importance.losses import Look, divergence, entropy, prediction
from graphprune.importance.perturbation import perturbation, ridge
from graphprune.importance.taylor import taylor, taylor_ema
from graphprune.importance.unit_gradients import masked, unit_gradients
from graphprune.verify.oracle import masked_reference
from tests.graphs import GRAPHS, quantised
from tests.graphs.builder import Builder

STEPS = (1e-2, 3e-3, 1e-3, 3e-4)  # a kink of a ReLU may lie within one of them
REFUSED = {"loop_that_grows": "Concat"}


@dataclass
class Calibrated:
    samples: list[dict[str, np.ndarray]]
    seed: int = 0
    labels: Any = None
    threads: int = 1


@pytest.mark.parametrize("name", [n for n in GRAPHS if n not in (*REFUSED, "weight_conflicting_heads")])
def test_gradients_by_masks_are_finite_differences_of_the_masked_reference(name: str) -> None:
    deps = analyze(load(GRAPHS[name]()))
    places = masked(deps)
    runs = gradients_of(deps.source, places.wanted, threads=1, masks=Masks(places.wanted, places.labels, places.count))
    plain = gradients_of(deps.source, places.wanted, threads=1)
    feed, rng = random_feeds(deps.source, 1, 0)[0], np.random.default_rng(0)
    ones = np.ones(places.count, np.float32)
    seeds = [rng.standard_normal(a.shape).astype(np.float32) for a in runs.outputs({**feed, MASKS: ones})]
    grad = places.units(plain(feed, seeds))
    direction = np.where(places.whole, rng.standard_normal(places.count), 0)

    def value(step: float) -> float:
        masks = (ones + step * direction).astype(np.float32)
        outputs = runs.outputs({**feed, MASKS: masks})
        return sum(float((a.astype(np.float64) * s).sum()) for a, s in zip(outputs, seeds, strict=True))

    slopes = [(8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h) for h in STEPS]
    assert min(abs(s - grad @ direction) for s in slopes) <= 3e-3 * np.linalg.norm(grad) * np.linalg.norm(direction)
    if all(site.mode == "zero" for site in deps.sites):
        units = np.array([rng.choice(g.units) for g in deps.groups if places.whole[g.units].all()], np.int64)
        masks = ones.copy()
        masks[units] = 0
        expected = dict(zip(deps.source.outputs, Runner(masked_reference(deps.cut(units)))(feed), strict=True))
        for head, found in zip(runs.heads, runs.outputs({**feed, MASKS: masks}), strict=True):
            if head.name == head.output:
                np.testing.assert_allclose(found, expected[head.name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_gradient_is_refused_in_words(name: str) -> None:
    deps = analyze(load(GRAPHS[name]()))
    with pytest.raises(InputError, match=REFUSED[name]):
        gauss_newton(deps, Calibrated(random_feeds(deps.source, 1, 0)))


class Net(nn.Module):
    """A convolution network with a residual, a grouped layer, a norm and an attention over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.down = nn.Conv2d(8, 8, 1, stride=2)
        self.wide = nn.Linear(8, 12)
        self.narrow = nn.Linear(12, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.sigmoid(self.depth(x)) + self.down(x)
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.narrow(torch.tanh(self.wide(tokens)))
        out: torch.Tensor = self.head(tokens.mean(1))
        return out


def net(batch: int = 4) -> tuple[Net, torch.Tensor]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return Net().eval(), torch.randn(batch, 3, 8, 8)


def exported(module: nn.Module, x: torch.Tensor) -> DependencyGraph:
    file = io.BytesIO()
    torch.onnx.export(module, (x,), file, dynamo=False, input_names=["x"], do_constant_folding=False)
    return analyze(load(onnx.load_from_string(file.getvalue())))


def by_group(deps: DependencyGraph, scores: np.ndarray) -> dict[str, np.ndarray]:
    return {g.name: scores[g.units] for g in deps.groups}


SAME = {k: v for k, v in GRADIENTS.items() if k not in ("hessian", "perturbation")}


@pytest.mark.parametrize("criterion", SAME.values(), ids=SAME)
@pytest.mark.parametrize("labelled", [False, True])
def test_a_file_and_a_module_have_the_same_scores(criterion: Callable[..., np.ndarray], labelled: bool) -> None:
    module, x = net()
    file, traced = exported(module, x), analyze(trace(module, (x,)))
    labels = np.arange(4) % 5 if labelled else None
    first = criterion(file, Calibrated([{"x": x.numpy()}], labels=labels))
    second = criterion(traced, Calibrated([{traced.source.inputs[0]: x.numpy()}], labels=labels))
    found, expected = by_group(file, first), by_group(traced, second)
    assert sorted(map(len, found.values())) == sorted(map(len, expected.values())) == [8, 12]
    for a, b in zip(sorted(found.values(), key=np.sum), sorted(expected.values(), key=np.sum), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-7 * np.abs(b).max())


def test_hessian_and_perturbation_agree_between_a_file_and_a_module() -> None:
    """They draw units by number, and numbers differ: the sums of groups agree but for the draws."""
    module, x = net()
    file, traced = exported(module, x), analyze(trace(module, (x,)))
    batches = np.random.default_rng(1).standard_normal((24, 4, 3, 8, 8)).astype(np.float32)
    for criterion in (hessian, perturbation):
        sums = []
        for deps in (file, traced):
            scores = criterion(deps, Calibrated([{deps.source.inputs[0]: b} for b in batches]))
            sums.append(sorted(float(v.sum()) for v in by_group(deps, scores).values()))
        np.testing.assert_allclose(sums[0], sums[1], rtol=0.25)


def test_gradients_by_masks_are_those_of_autograd_sample_by_sample() -> None:
    """A multiplier on the 12 channels between two Linear layers, written by hand."""
    module, x = net()
    deps = exported(module, x)
    found = np.stack(list(unit_gradients(deps, Calibrated([{"x": x.numpy()}]), "prediction")))
    assert len(found) == 4
    group = next(g for g in deps.groups if g.size == 12)
    mask = torch.ones(4, 1, 12, requires_grad=True)
    module.narrow.register_forward_pre_hook(lambda _, args: (args[0] * mask,))
    y = module(x)
    (expected,) = torch.autograd.grad(nn.functional.cross_entropy(y, y.argmax(1), reduction="sum"), mask)
    np.testing.assert_allclose(found[:, group.units], expected[:, 0].numpy(), rtol=1e-3, atol=1e-6)


def test_samples_of_a_fixed_batch_are_told_apart_as_those_of_a_free_one() -> None:
    b, fixed = Builder(seed=5), Builder(seed=5)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 7)).astype(np.float32)
    scores = []
    for builder, size in ((b, "n"), (fixed, 3)):
        y = builder.gemm(builder.op("Tanh", builder.gemm(builder.source("x", [size, 7]), 7, 9)), 9, 4)
        deps = analyze(load(builder.build(y)))
        data = Calibrated([{"x": x[:3]}, {"x": x[3:]}], labels=np.array([0, 1, 2, 3, 0, 1]))
        scores.append(empirical_fisher(deps, data)[deps.groups[0].units])
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4)


@pytest.mark.parametrize("name", ["grouped_conv", "gqa_block", "heads_folded_into_batch", "lstm_bidirectional"])
def test_offsets_of_blocks_add_up_to_the_unit_they_share(name: str) -> None:
    """Every block's own choice: the gradient by an offset of all blocks is the sum of those by it in each block."""
    deps = analyze(load(GRAPHS[name]()))
    view, factors = fine(deps)
    data = Calibrated(random_feeds(deps.source, 2, 0))
    whole = list(unit_gradients(deps, data, "prediction"))
    parts = list(unit_gradients(view, data, "prediction"))
    assert len(whole) == len(parts) >= 2
    for factor, units in factors:
        for a, b in zip(whole, parts, strict=True):
            np.testing.assert_allclose(b[units].sum(axis=0), a[factor.units], rtol=1e-3, atol=1e-5 * np.abs(a).max())


@pytest.mark.parametrize("name", ["grouped_conv", "heads_folded_into_batch"])
def test_masks_of_blocks_are_those_of_samples_one_by_one(name: str) -> None:
    """Where heads are folded into the batch, the masks of blocks repeat for every sample."""
    deps = analyze(load(GRAPHS[name]()))
    view, _ = fine(deps)
    places = masked(view)
    runs = gradients_of(view.source, (), threads=1, masks=Masks(places.wanted, places.labels, places.count))
    masks = np.random.default_rng(0).uniform(0.5, 1.5, places.count).astype(np.float32)
    masks[0] = 1
    feed = next(f for f in random_feeds(deps.source, 1, 0)[::-1])
    both = runs.outputs({**feed, MASKS: masks})
    alone = [runs.outputs({**f, MASKS: masks}) for f in single(deps.source, [feed])]
    for k, found in enumerate(both):
        np.testing.assert_allclose(found, np.concatenate([a[k] for a in alone]), rtol=1e-4, atol=1e-5)
    assert name != "heads_folded_into_batch" or len(alone) == 2


@pytest.mark.parametrize("name", ["fisher", "hessian", "perturbation"])
def test_a_plan_takes_them_by_name(name: str) -> None:
    b = Builder(seed=3)
    x = b.conv_relu(b.source("x", ["n", 3, 8, 8]), 3, 16, name="first")
    deps = analyze(load(b.build(b.classifier(b.conv_relu(x, 16, 16, name="second"), 16))))
    feeds = random_feeds(deps.source, 4, 0)
    made = plan(deps, criterion=name, macs="60%", align=1, data=feeds, seed=1)
    again = plan(deps, criterion=name, macs="60%", align=1, data=feeds, seed=1)
    assert made.groups == again.groups
    with pytest.raises(InputError, match="--data"):
        plan(deps, criterion=name, macs="60%")


def planted() -> tuple[DependencyGraph, Calibrated, np.ndarray]:
    """Eight units of which each drives one output, some more than others and one not at all."""
    strength = np.array([0.0, 4.0, 0.5, 2.0, 1.0, 3.0, 0.1, 0.3], np.float32)
    b = Builder(seed=1)
    x = b.op("MatMul", b.source("x", ["n", 8]), b.const(np.eye(8, dtype=np.float32), "first"))
    y = b.op("MatMul", x, b.const(np.diag(strength), "second"))
    deps = analyze(load(b.build(y, b.op("Neg", y))))
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (500, 8)).astype(np.float32)
    return deps, Calibrated([{"x": signs}]), strength


@pytest.mark.parametrize("criterion", [gauss_newton, fisher, hessian, perturbation, taylor, taylor_ema])
def test_planted_units_get_what_they_are_worth(criterion: Callable[..., np.ndarray]) -> None:
    """The outputs lose strength² when a unit goes: half that, relative to each of two equal heads, is the score."""
    deps, data, strength = planted()
    (group,) = deps.groups
    scores = criterion(deps, data)[group.units]
    if criterion in (taylor, taylor_ema):
        assert np.argsort(scores).tolist() == np.argsort(strength).tolist()
        return
    expected = strength**2 / (strength**2).sum()
    np.testing.assert_allclose(scores, expected, rtol=0.1, atol=0.005)


def test_many_units_are_tried_in_random_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perturbation_module, "_ALONE", 0)
    monkeypatch.setattr(perturbation_module, "_ROUNDS", 100)
    deps, data, strength = planted()
    scores = perturbation(deps, data)[deps.groups[0].units]
    np.testing.assert_allclose(scores, strength**2 / (strength**2).sum(), rtol=0.1, atol=0.005)


def test_ridge_finds_what_every_column_costs() -> None:
    rng = np.random.default_rng(0)
    off = rng.random((200, 30)) < 0.1
    cost = rng.random(30)
    np.testing.assert_allclose(ridge(off, off @ cost), cost, atol=1e-3)
    noisy = ridge(off, off @ cost + 0.3 * rng.standard_normal(200))
    assert np.corrcoef(noisy, cost)[0, 1] > 0.8


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "plain"])
@pytest.mark.parametrize("loss", ["divergence", "prediction", "entropy"])
def test_seeds_of_losses_are_gradients_of_autograd(kind: str, loss: str) -> None:
    rng = np.random.default_rng(0)
    head = losses_module.Head("y", "y", kind, 2)
    y, was = (rng.standard_normal((2, 3, 4)).astype(np.float32) for _ in range(2))
    look = Look([head], [y], [0.5], rng)
    t, w = torch.from_numpy(y).double().requires_grad_(), torch.from_numpy(was).double()
    pick = t.argmax(2) if kind == "softmax" else (t > 0).double()
    value = expected_loss(kind, loss, t, w, pick)
    (expected,) = torch.autograd.grad(value, t)
    if loss == "divergence":
        number, seeds = divergence(look, [was])
        assert number == pytest.approx(float(value), rel=1e-4)
    else:
        seeds = (prediction if loss == "prediction" else entropy)(look)
    np.testing.assert_allclose(seeds[0], expected.numpy(), rtol=1e-3, atol=1e-6)


def expected_loss(kind: str, loss: str, t: torch.Tensor, w: torch.Tensor, pick: torch.Tensor) -> torch.Tensor:
    f = nn.functional
    if kind == "plain":
        return 0.5 * ((t - w) * 0.5).square().sum() if loss == "divergence" else 0.5 * (t * 0.5).square().sum()
    if kind == "softmax":
        if loss == "divergence":
            return f.kl_div(t.log_softmax(2), w.softmax(2), reduction="sum")
        if loss == "prediction":
            return f.cross_entropy(t.flatten(0, 1), pick.flatten(), reduction="sum")
        return -(t.softmax(2) * t.log_softmax(2)).sum()
    p = t.sigmoid()
    if loss == "divergence":
        q = w.sigmoid()
        return (q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()).sum()
    if loss == "prediction":
        return f.binary_cross_entropy(p, pick, reduction="sum")
    return -(p * p.log() + (1 - p) * (1 - p).log()).sum()


def test_a_final_softmax_is_not_differentiated_through() -> None:
    b = Builder()
    y = b.gemm(b.source("x", ["n", 4]), 4, 3)
    (head,) = heads(load(b.build(b.op("Softmax", y, axis=-1))))
    assert (head.name, head.kind, head.axis) == (y, "softmax", 1)


def test_labels_have_to_fit() -> None:
    b = Builder()
    deps = analyze(load(b.build(b.gemm(b.op("Tanh", b.gemm(b.source("x", ["n", 4]), 4, 6)), 6, 3))))
    feeds = [{"x": np.ones((2, 4), np.float32)}]
    with pytest.raises(InputError, match="classes"):
        taylor(deps, Calibrated(feeds, labels=np.array([0, 3])))
    with pytest.raises(InputError, match="1 labels for more samples"):
        taylor(deps, Calibrated(feeds, labels=np.array([0])))
    with pytest.raises(InputError, match="no samples"):
        taylor(deps, Calibrated([]))
    with pytest.raises(InputError, match="NaN"):
        taylor(deps, Calibrated([{"x": np.full((2, 4), np.inf, np.float32)}]))


def test_without_onnx_ad_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx_ad", None)
    deps = analyze(load(GRAPHS["gemm_chain"]()))
    data = Calibrated(random_feeds(deps.source, 1, 0))
    with pytest.raises(InputError, match=r"graphprune\[gradients\]"):
        fisher(deps, data)
    assert all(np.isfinite(v).all() for v in by_group(deps, perturbation(deps, data)).values())


def test_an_operator_without_a_gradient_is_named() -> None:
    b = Builder(opset=20)
    x = b.gemm(b.op("Relu", b.gemm(b.source("x", [4, 6]), 6, 8)), 8, 9)
    x = b.op("CumSum", b.op("Det", b.reshape(x, 4, 3, 3)), b.const(np.int64(0)))
    deps = analyze(load(b.build(x)))
    data = Calibrated(random_feeds(deps.source, 1, 0))
    with pytest.raises(InputError, match=r"Det \(node Det_\d+\).*--criterion l2"):
        gauss_newton(deps, data)


def test_gradients_look_through_fake_quantisation() -> None:
    model = quantised.convnet()
    options = {"per_channel": True, "activation": QuantType.QUInt8, "weight": QuantType.QInt8, "symmetric": False}
    plain, fake = analyze(load(model)), analyze(load(quantised.static(model, QuantFormat.QDQ, **options)))
    data = Calibrated(random_feeds(plain.source, 8, 0))
    first, second = (
        np.array(sorted(v.sum() for v in by_group(d, gauss_newton(d, data)).values())) for d in (plain, fake)
    )
    assert len(first) == len(second) > 3
    np.testing.assert_allclose(first, second, rtol=0.2)


def test_real_integers_are_refused(tmp_path: Path) -> None:
    """Units in front of a layer in floats, which a layer in integers reads."""
    b = Builder(seed=2)
    x = b.op("Relu", b.gemm(b.op("Relu", b.gemm(b.source("x", ["n", 8]), 8, 12, "first")), 12, 10, "second"))
    model = b.build(b.linear(x, 10, 4, "last"))
    last = [n.name for n in model.graph.node if n.op_type == "MatMul"]
    onnx.save(model, tmp_path / "float.onnx")
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "integer.onnx", nodes_to_quantize=last)
    deps = analyze(load(tmp_path / "integer.onnx"))
    data = Calibrated(random_feeds(deps.source, 1, 0))
    assert masked(deps).whole.any()
    with pytest.raises(InputError, match="rounds to integers"):
        gauss_newton(deps, data)
    scores = perturbation(deps, data)
    assert any(np.isfinite(scores[g.units]).all() and scores[g.units].max() > 0 for g in deps.groups)
