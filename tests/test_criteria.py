"""Criteria against slow computations by hand, with dead and doubled channels planted, and on all small graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

import graphprune as gp
from graphprune.calibration import Calibration
from graphprune.errors import InputError
from graphprune.importance.base import CRITERIA, MEASURED, NORMALISATIONS, raw_scores, score, wants_data
from graphprune.importance.contractions import roles
from graphprune.importance.fibres import ranked
from graphprune.importance.gradient_criteria import GRADIENTS
from tests.graphs import GRAPHS, Builder, random_feeds

WIDTH, NEXT = 12, 6
DEAD, TWIN, OF = 3, 7, 5  # a dead channel, and one that doubles another
EVERY = [*CRITERIA, *MEASURED]
Arrays = dict[str, np.ndarray]


def planted(*, norm: bool = False) -> ModelProto:
    """Two convolutions and a classifier; the channels between them are what is looked at."""
    b = Builder("planted", seed=4)
    x = b.source("x", (4, 3, 8, 8))
    x = b.op("Relu", b.conv_bn(x, 3, WIDTH, 3, "first") if norm else b.conv(x, 3, WIDTH, 3, "first"))
    return b.build(b.classifier(b.op("Relu", b.conv(x, WIDTH, NEXT, 3, "second")), NEXT))


def weights(model: ModelProto) -> Arrays:
    return {t.name: numpy_helper.to_array(t).copy() for t in model.graph.initializer}


def stored(model: ModelProto, arrays: Arrays) -> ModelProto:
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name].astype(np.float32), tensor.name))
    return model


def measured(deps: Any, model: ModelProto, count: int = 3) -> Calibration:
    return Calibration(deps, [random_feeds(model, s) for s in range(count)], threads=1)


def of_group(deps: Any, scores: np.ndarray) -> np.ndarray:
    """Scores of the channels between the convolutions."""
    return scores[next(g.units for g in deps.groups if any(m.tensor == "first.weight" for m in g.members))]


def raw(model: ModelProto, criterion: str, **options: Any) -> np.ndarray:
    deps = gp.analyze(model)
    return of_group(deps, raw_scores(deps, criterion, 0, calibration=measured(deps, model), **options))


def activations(model: ModelProto, count: int = 3) -> np.ndarray:
    """What the second convolution reads, by a plain forward pass: (channels, elements), float64."""
    import torch
    from torch.nn.functional import conv2d

    w = weights(model)
    made = []
    for seed in range(count):
        x = torch.from_numpy(random_feeds(model, seed)["x"]).double()
        y = conv2d(
            x, torch.from_numpy(w["first.weight"]).double(), torch.from_numpy(w["first.bias"]).double(), padding=1
        )
        made.append(torch.relu(y).numpy())
    return np.moveaxis(np.concatenate(made), 1, 0).reshape(WIDTH, -1)


def slices(model: ModelProto) -> list[np.ndarray]:
    """The three coupled slices of every channel between the convolutions."""
    w = {n: a.astype(np.float64) for n, a in weights(model).items()}
    second = np.moveaxis(w["second.weight"], 1, 0)
    return [w["first.weight"].reshape(WIDTH, -1), w["first.bias"][:, None], second.reshape(WIDTH, -1)]


# -- by hand -----------------------------------------------------------------------------------------------
def by_hand(name: str, model: ModelProto) -> np.ndarray:
    parts = slices(model)
    return by_weights(name, parts) if name in CRITERIA else by_data(name, parts, activations(model))


def by_weights(name: str, parts: list[np.ndarray]) -> np.ndarray:
    squares = sum((p**2).sum(axis=1) for p in parts)
    match name:
        case "l1":
            return sum(np.abs(p).sum(axis=1) for p in parts)
        case "l2":
            return np.sqrt(squares)
        case "lamp":
            return np.array([s / squares[squares >= s].sum() for s in squares])
        case "fpgm":
            rows = parts[0]
            return np.array([sum(np.sqrt(((a - b) ** 2).sum()) for b in rows) for a in rows])
        case "spectral":
            return np.sqrt(sum(_leading(p) for p in (parts[0], parts[2])))
    assert name == "similarity"
    rows = np.column_stack(parts[:2])
    norms = np.sqrt((rows**2).sum(axis=1))
    out = []
    for a, n in zip(rows, norms, strict=True):
        cosines = [a @ b / n / m for b, m in zip(rows, norms, strict=True) if m > n]
        out.append(n * (1 - max([0.0, *cosines])))
    return np.array(out)


def by_data(name: str, parts: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    p = (x > 0).mean(axis=1)
    match name:
        case "wanda":
            return np.sqrt((x**2).mean(axis=1)) * np.abs(parts[2]).sum(axis=1)
        case "activation-mean":
            return np.abs(x).mean(axis=1)
        case "activation-variance":
            return x.std(axis=1)
        case "activation-attention":
            return (x**2).mean(axis=1)
        case "apoz":
            return (x != 0).mean(axis=1)
        case "entropy":
            return -p * np.log2(p) - (1 - p) * np.log2(1 - p)
    assert name == "correlation"
    covariance = np.cov(x, bias=True)
    variance = np.diag(covariance)
    out = []
    for i in range(WIDTH):
        stronger = [j for j in range(WIDTH) if variance[j] > variance[i]]
        shares = [covariance[i, j] ** 2 / variance[i] / variance[j] for j in stronger]
        out.append(np.sqrt(variance[i] * (1 - max([0.0, *shares]))))
    return np.array(out)


def _leading(matrix: np.ndarray) -> np.ndarray:
    u, s, _ = np.linalg.svd(matrix, full_matrices=False)
    rank = int(np.searchsorted(np.cumsum(s**2), 0.5 * (s**2).sum())) + 1
    return ((u[:, :rank] * s[:rank]) ** 2).sum(axis=1)


HAND = [n for n in EVERY if n not in ("random", "bn-scale", "dimap", "obs", *GRADIENTS)]  # those have their own tests


@pytest.mark.parametrize("name", HAND)
def test_scores_are_those_by_hand(name: str) -> None:
    model = planted()
    np.testing.assert_allclose(raw(model, name), by_hand(name, model), rtol=2e-4)


def test_scales_of_norms_by_hand() -> None:
    model = planted(norm=True)
    np.testing.assert_allclose(raw(model, "bn-scale"), np.abs(weights(model)["first.bn.gamma"]), rtol=1e-6)


def test_modules_are_kinds_of_groups() -> None:
    model = GRAPHS["vit_fused_qkv"]()
    deps = gp.analyze(model)
    norms, scores = raw_scores(deps, "l2", 0) ** 2, raw_scores(deps, "dimap", 0)
    kinds = {g.kind for g in deps.groups}
    assert len(kinds) > 2
    for kind in kinds:
        units = np.concatenate([g.units for g in deps.groups if g.kind == kind])
        wanted = [norms[u] / norms[units][norms[units] >= norms[u]].sum() for u in units]
        np.testing.assert_allclose(scores[units], wanted, rtol=1e-9)


# -- what has to come last ---------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [n for n in EVERY if n not in ("random", "fpgm")])
def test_a_dead_channel_ranks_last(name: str) -> None:
    """No weights make it, so it is zero, and little reads it; only its distance from others is not small."""
    model = planted(norm=name == "bn-scale")
    w = weights(model)
    w["first.weight"][DEAD] = 0
    for tensor in ("first.bias", "first.bn.gamma", "first.bn.beta"):
        if tensor in w:
            w[tensor][DEAD] = 0
    w["second.weight"][:, DEAD] *= 0.1
    assert raw(stored(model, w), name).argmin() == DEAD


def test_a_channel_at_the_median_ranks_last() -> None:
    model = planted()
    w = weights(model)
    w["first.weight"][DEAD] = np.delete(w["first.weight"], DEAD, axis=0).mean(axis=0)
    assert raw(stored(model, w), "fpgm").argmin() == DEAD


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", ["similarity", "correlation"])
def test_of_doubled_channels_one_ranks_last(name: str, norm: bool) -> None:
    model = planted(norm=norm)
    w = weights(model)
    for tensor in ("first.weight", "first.bias", *(f"first.bn.{k}" for k in ("gamma", "beta", "mean", "var"))):
        if tensor in w:
            w[tensor][TWIN] = w[tensor][OF]
    if norm:  # the same channel through other numbers
        w["first.weight"][TWIN] *= 2
        w["first.bn.mean"][TWIN] *= 2
        w["first.bn.var"][TWIN] = 4 * w["first.bn.var"][OF] + 3e-5
    scores = raw(stored(model, w), name)
    low, other = np.argsort(scores)[:2]
    assert low in (TWIN, OF)
    assert scores[low] < 1e-2 * scores[other]


def test_nothing_is_alike_where_only_the_shift_differs() -> None:
    model = planted()
    w = weights(model)
    w["first.weight"][TWIN], w["first.bias"][OF], w["first.bias"][TWIN] = w["first.weight"][OF], 1.0, -1.0
    scores = raw(stored(model, w), "similarity")
    assert min(scores[TWIN], scores[OF]) > 1e-2 * np.median(scores)


# -- aggregates, normalisations, own functions -------------------------------------------------------------
def test_slices_are_aggregated_as_asked() -> None:
    model = planted()
    parts = [np.abs(p).sum(axis=1) for p in slices(model)]
    for how, wanted in (("sum", sum(parts)), ("mean", sum(parts) / 3), ("max", np.max(parts, axis=0))):
        np.testing.assert_allclose(raw(model, "l1", aggregate=how), wanted, rtol=1e-5)


def test_groups_are_normalised_as_asked() -> None:
    deps = gp.analyze(planted())
    plain = raw_scores(deps, "l2", 0)
    for name, divisor in (("mean", np.mean), ("max", np.max), ("sum", np.sum), ("none", lambda s: 1.0)):
        scores = score(deps, "l2", 0, normalise=name)
        for group in deps.groups:
            np.testing.assert_allclose(scores[group.units], plain[group.units] / divisor(plain[group.units]))
    assert np.array_equal(score(deps, "lamp", 0), raw_scores(deps, "lamp", 0))
    assert set(NORMALISATIONS) == {"mean", "max", "sum", "none"}


def test_a_criterion_of_ones_own_sees_data() -> None:
    model = planted()
    deps = gp.analyze(model)

    def largest(deps: gp.DependencyGraph, calibration: Calibration) -> Any:
        from graphprune.importance.activations import measured

        return measured(deps, calibration, lambda m: m.max_abs)

    assert wants_data(largest)
    scores = of_group(deps, raw_scores(deps, largest, 0, calibration=measured(deps, model)))
    np.testing.assert_allclose(scores, activations(model).max(axis=1), rtol=1e-5)
    plan = gp.plan(model, ratio=0.25, align=1, criterion=largest, data=[random_feeds(model, s) for s in range(3)])
    assert plan.recipe["criterion"] == "largest"
    with pytest.raises(InputError, match="criterion largest looks at activations: give samples with --data"):
        gp.plan(model, ratio=0.25, align=1, criterion=largest)


def test_where_nothing_is_said_of_a_group_l2_ranks_it() -> None:
    deps = gp.analyze(planted())
    first, second = deps.groups[:2]
    notes: list[str] = []

    def half(deps: Any, seed: int) -> np.ndarray:
        out = np.full(deps.state.store.count, np.nan)
        out[first.units] = np.arange(first.size)
        return out

    scores, norms = raw_scores(deps, half, 0, notes=notes), raw_scores(deps, "l2", 0)
    assert scores[first.units].tolist() == list(range(first.size))
    np.testing.assert_allclose(
        scores[second.units] / norms[second.units], scores[second.units][0] / norms[second.units][0]
    )
    assert scores[second.units].mean() == pytest.approx(scores[first.units].mean())
    assert notes == [
        f"half has nothing to say about 1 of {len(deps.groups)} groups, ranked by l2 instead: {second.name}"
    ]


def test_without_norms_the_report_says_so() -> None:
    result = gp.prune(planted(), ratio=0.25, align=1, criterion="bn-scale")
    assert result.notes == ("bn-scale has nothing to say about any group: all are ranked by l2",)
    assert gp.prune(planted(norm=True), ratio=0.25, align=1, criterion="l2").notes == ()


def test_only_what_produces_a_channel_makes_it() -> None:
    deps = gp.analyze(GRAPHS["lstm"]())
    found = roles(deps).consumed
    lstm = next(n for n in deps.source.nodes if n.op == "LSTM")
    assert {(lstm.inputs[1], 2), (lstm.inputs[2], 2)} <= found
    assert not {(lstm.inputs[1], 1), (lstm.inputs[2], 1)} & found
    deps = gp.analyze(GRAPHS["grouped_conv"]())
    assert {("grouped.weight", 1), ("stem.weight", 1)} <= roles(deps).consumed
    assert ("grouped.weight", 0) not in roles(deps).consumed


# -- everywhere --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("graph", GRAPHS)
def test_every_criterion_ranks_every_graph(graph: str) -> None:
    model = GRAPHS[graph]()
    deps = gp.analyze(model)
    calibration = measured(deps, model, 2)
    for name in EVERY:
        if graph == "loop_that_grows" and name in GRADIENTS and name != "perturbation":
            with pytest.raises(InputError, match="Concat"):
                score(deps, name, 0, calibration=calibration)
            continue
        notes: list[str] = []
        chosen = ranked(deps, name, 0, calibration=calibration)
        for view in (deps, chosen):
            scores = score(view, name, 0, calibration=calibration, notes=notes)
            assert np.isfinite(scores).all()
            assert (scores >= 0).all()
        assert name not in ("l1", "l2", "lamp", "dimap", "random", "spectral") or not notes


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("graph", ["resnet_stage", "grouped_conv", "vit_split_qkv", "lstm"])
def test_every_criterion_prunes(name: str, graph: str) -> None:
    model = GRAPHS[graph]()
    data = [random_feeds(model, s) for s in range(2)]
    result = gp.prune(model, params="70%", align=1, criterion=name, data=data)
    assert result.verdict is not None
    assert result.verdict.passed
    assert result.after.params <= 0.7 * result.before.params


def test_blocks_are_ranked_by_their_own_activations() -> None:
    """Of every group of a grouped convolution the offsets with the smallest mean activation leave."""
    model = GRAPHS["grouped_conv"]()
    deps = gp.analyze(model)
    feeds = [random_feeds(model, s) for s in range(2)]
    name = next(n.inputs[0] for n in deps.source.nodes if n.name == "Conv_3")
    mean = Calibration(deps, feeds).moments([(name, 1)])[name, 1].mean_abs.reshape(6, 4)
    plan = gp.plan(model, ratio=0.5, align=1, criterion="activation-mean", data=feeds)
    fibre = next(f for g in plan.groups for f in g.fibres if len(f.blocks) == 6 and g.size == 4)
    assert [sorted(b) for b in fibre.blocks] == np.sort(np.argsort(mean, axis=1)[:, :2], axis=1).tolist()


# -- what is refused ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", MEASURED)
def test_criteria_on_data_want_data(name: str) -> None:
    assert wants_data(name)
    with pytest.raises(InputError, match=f"criterion {name} looks at activations: give samples with --data"):
        gp.plan(planted(), ratio=0.25, align=1, criterion=name)


def test_options_are_checked() -> None:
    with pytest.raises(InputError, match="--aggregate median: there are sum, mean, max"):
        gp.plan(planted(), ratio=0.25, aggregate="median")
    with pytest.raises(InputError, match="--normalise median: there are auto, mean, max, sum, none"):
        gp.plan(planted(), ratio=0.25, normalise="median")
    with pytest.raises(InputError, match="there are no samples"):
        gp.plan(planted(), ratio=0.25, criterion="wanda", data=[])
    assert gp.plan(planted(), ratio=0.25, align=1, criterion="bn_scale").recipe["criterion"] == "bn_scale"


@pytest.mark.parametrize("name", [n for n in CRITERIA if n != "random"])
def test_weights_that_are_not_numbers_are_refused(name: str) -> None:
    model = planted(norm=True)
    w = weights(model)
    w["first.bn.gamma" if name == "bn-scale" else "first.weight"].flat[0] = np.nan
    deps = gp.analyze(stored(model, w))
    with pytest.raises(InputError, match="holds NaN or infinite values"):
        raw_scores(deps, name, 0)
