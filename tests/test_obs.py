"""Optimal brain surgeon against direct least squares, trial cuts, walks, and the recipe that joins them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphprune as gp
from graphprune.calibration import Calibration
from graphprune.calibration.grams import Gram
from graphprune.calibration.store import Store
from graphprune.calibration.walk import Walk
from graphprune.errors import InputError
from graphprune.graph.run import Runner
from graphprune.importance.curve import Curve
from graphprune.importance.obs import covariance, obs_curves, read_grams
from graphprune.recover.evidence import Evidence, Point, bent, through
from graphprune.recover.judge import judged
from tests.graphs import Builder
from tests.recovery import changed_weight, feeds, run_all, stored

DATA = feeds(12, 4, 4, 6, 6)


def net(*, twins: bool = False) -> Any:
    """A stem of 8 channels, an inner layer of 8 and a head of 5 outputs."""
    b = Builder("net")
    x = b.source("x", [4, 4, 6, 6])
    x = b.conv_relu(x, 4, 8, name="first")
    x = b.conv_relu(x, 8, 8, name="second")
    out = b.conv(x, 8, 5, name="third")
    if twins:
        for part in ("weight", "bias"):
            if f"first.{part}" in b.initializers:
                array = stored(b, f"first.{part}")
                array[5] = array[2]
                changed_weight(b, f"first.{part}", array)
    return b.build(out)


def sampled(model: Any) -> tuple[Any, Any]:
    deps = gp.analyze(model)
    return deps, read_grams(deps, Calibration(deps, DATA))


def exact(grams: Any) -> Any:
    """As of so many samples that nothing is in common by chance."""
    return {key: replace(gram, independent=10**9) for key, gram in grams.items()}


def of_stem(deps: Any) -> int:
    return next(i for i, g in enumerate(deps.groups) if any(m.tensor == "first.weight" for m in g.members))


def best_error(model: Any, kept: list[int]) -> float:
    """Share of the second layer's energy that no affine map of some stem channels can give, by torch-free lstsq."""
    graph = gp.load(model)
    second = next(n for n in graph.nodes if "second.weight" in n.inputs)
    with Store(1 << 30) as store:
        walk = Walk(graph.source, DATA, store, wanted=[second.outputs[0]])
        walk.run_to(second.outputs[0])
        read = np.concatenate(list(walk.value(second.inputs[0])))
        walk.run_past(second.outputs[0])
        made = np.concatenate(list(walk.value(second.outputs[0])))
    padded = np.pad(read[:, kept], ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    x = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, len(kept) * 9).astype(np.float64)
    y = made.transpose(0, 2, 3, 1).reshape(len(x), -1).astype(np.float64)
    x, y = x - x.mean(0), y - y.mean(0)
    rest = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return float((rest**2).sum() / (y**2).sum())


def test_the_first_loss_is_that_of_the_best_fit_without_the_channel() -> None:
    model = net()
    deps, grams = sampled(model)
    place = of_stem(deps)
    curve = obs_curves(deps, exact(grams))[place]
    assert curve is not None
    order = [int(np.flatnonzero(deps.types["first.weight"][0].units[:, 0] == u)[0]) for u in curve.order]
    alone = [best_error(model, [k for k in range(8) if k != c]) for c in range(8)]
    assert int(np.argmin(alone)) == order[0]
    assert curve.loss[1] == pytest.approx(min(alone), rel=0.1)
    for gone in (2, 4):
        assert curve.loss[gone] == pytest.approx(best_error(model, sorted(set(range(8)) - set(order[:gone]))), rel=0.15)


def test_what_few_samples_have_in_common_by_chance_is_not_believed() -> None:
    rng = np.random.default_rng(0)
    for samples, wide in ((10, 40), (4000, 4)):
        rows = rng.standard_normal((samples, wide))
        gram = Gram((rows.T @ rows)[None], rows.sum(0)[None], samples, samples)
        found = covariance(gram, centred=True)[0]
        own = np.diag(found)
        np.testing.assert_allclose(own, rows.var(0), rtol=1e-9)
        plain = gram.covariance()[0]
        truth = np.eye(wide)
        assert np.abs(found - np.diag(own)).sum() <= np.abs(plain - np.diag(own)).sum()
        assert ((found - truth) ** 2).sum() < ((plain - truth) ** 2).sum() * (0.5 if samples == 10 else 1.01)


def test_of_two_channels_that_say_the_same_one_is_free_and_the_other_is_not() -> None:
    deps, grams = sampled(net(twins=True))
    curve = obs_curves(deps, exact(grams))[of_stem(deps)]
    assert curve is not None
    units = deps.types["first.weight"][0].units[:, 0]
    assert curve.order[0] in {units[2], units[5]}
    assert curve.loss[1] < 1e-3
    twin = ({units[2], units[5]} - {curve.order[0]}).pop()
    position = int(np.flatnonzero(curve.order == twin)[0])
    assert curve.loss[position + 1] - curve.loss[position] > 20 * curve.loss[1]


def test_inputs_that_are_all_zero_are_no_error() -> None:
    deps = gp.analyze(net())
    calibration = Calibration(deps, [{"x": np.zeros((4, 4, 6, 6), np.float32)}] * 2)
    for curve in obs_curves(deps, read_grams(deps, calibration)):
        assert curve is None or np.isfinite(curve.loss).all()


def test_a_walk_gives_what_the_whole_model_gives_also_from_files() -> None:
    graph = gp.load(net())
    wanted = run_all(graph.source, DATA)
    for memory in (1 << 30, 0):
        with Store(memory) as store:
            walk = Walk(graph.source, DATA, store, wanted=graph.outputs)
            for node in graph.nodes:
                walk.run_to(node.outputs[0])
            walk.run_past(graph.outputs[0])
            np.testing.assert_allclose(np.concatenate(list(walk.value(graph.outputs[0]))), wanted, rtol=1e-5, atol=1e-5)


def test_curves_are_bent_through_what_trial_cuts_measure() -> None:
    deps, grams = sampled(net())
    evidence = Evidence(deps, grams, DATA[:4])
    curves = [
        c or Curve.of_scores(g.units, np.ones(99)) for c, g in zip(obs_curves(deps, grams), deps.groups, strict=True)
    ]
    made, points = bent(deps, curves, evidence)
    assert len(points) == 3 * len(deps.groups)
    for group, curve in zip(deps.groups, made, strict=True):
        for point in (p for p in points if p.group == group.name):
            assert curve.loss[point.removed] == pytest.approx(point.error, rel=1.0)
            assert point.error == pytest.approx(evidence.measure(curve.order[: point.removed]))


@pytest.mark.parametrize("deep", [0.09, 0.3, 2.0])
def test_beyond_the_second_point_a_curve_goes_through_the_next(deep: float) -> None:
    plain = Curve(np.arange(20, dtype=np.int32), np.linspace(0, 1, 21) ** 2)
    points = [Point("g", 5, 0.01), Point("g", 10, 0.08), Point("g", 16, deep)]
    two, three = through(plain, points[:2]), through(plain, points)
    assert three.loss[:11] == pytest.approx(two.loss[:11])
    assert three.loss[16] == pytest.approx(deep)
    assert three.loss[20] > deep
    assert (np.diff(three.loss) > 0).all()


def test_a_trial_cut_of_a_twin_costs_nothing() -> None:
    deps, grams = sampled(net(twins=True))
    units = deps.types["first.weight"][0].units[:, 0]
    assert Evidence(deps, grams, DATA[:4]).measure(units[[5]]) < 1e-4


def test_groups_whose_output_matters_less_lose_more() -> None:
    """Two branches of the same weights, of which one counts a hundredth."""
    b = Builder("branches")
    x = b.source("x", [4, 4, 6, 6])
    one, two = (b.conv(b.conv_relu(x, 4, 8, name=f"{n}.in"), 8, 5, name=f"{n}.out") for n in ("loud", "quiet"))
    out = b.op("Add", one, b.op("Mul", two, b.const(np.float32(0.01), "share")))
    deps = gp.analyze(b.build(out))
    curves = judged(deps, Calibration(deps, DATA), np.ones(deps.state.store.count))
    losses = {g.members[0].tensor.partition(".")[0]: c.loss[4] for g, c in zip(deps.groups, curves, strict=True)}
    assert losses["quiet"] < losses["loud"] / 100


def test_prune_with_data_ends_closer_than_without(tmp_path: Path) -> None:
    model = net()
    plain = gp.prune(model, macs="60%", align=1, criterion="l2", recover="none", data=DATA)
    small = gp.prune(model, tmp_path / "small.onnx", macs="60%", align=1, data=DATA)
    assert small.plan.recipe["criterion"] == "obs"
    assert small.recovery is not None
    assert small.recovery.error < small.recovery.cut
    fresh = feeds(4, 4, 4, 6, 6, seed=9)
    wanted = run_all(gp.load(model).source, fresh)
    errors = [float(((run_all(r.model, fresh) - wanted) ** 2).mean()) for r in (plain, small)]
    assert errors[1] < errors[0] / 2
    verdict = gp.verify(model, tmp_path / "small.onnx", small.plan)
    assert verdict.passed
    assert "fitted to data (refit)" in verdict.text
    again = Runner(gp.load(tmp_path / "small.onnx").source)
    np.testing.assert_allclose(again(fresh[0])[0], Runner(small.model)(fresh[0])[0], rtol=1e-5, atol=1e-6)


def test_a_fitted_file_that_is_another_cut_does_not_verify(tmp_path: Path) -> None:
    model = net()
    one, other = (gp.prune(model, tmp_path / f"{m}.onnx", macs=f"{m}%", align=1, data=DATA) for m in (60, 40))
    assert not gp.verify(model, tmp_path / "40.onnx", one.plan).passed
    assert gp.verify(model, tmp_path / "40.onnx", other.plan).passed


@pytest.mark.parametrize("recover", ["anneal", "refit,anneal"])
def test_an_unknown_step_is_refused_at_once(recover: str) -> None:
    with pytest.raises(InputError, match="anneal"):
        gp.prune(net(), macs="50%", recover=recover)


def test_steps_by_name_need_data() -> None:
    with pytest.raises(InputError, match="--data"):
        gp.prune(net(), macs="50%", align=1, recover="refit")


def test_obs_needs_data() -> None:
    with pytest.raises(InputError, match="--data"):
        gp.plan(net(), macs="50%", criterion="obs")
