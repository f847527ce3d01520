"""What is dead leaves, and the output stays what it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import graphprune as gp
from graphprune import api
from graphprune.errors import InputError, NothingToPruneError
from graphprune.folding.analysis import Folding
from tests.commandline import call, done, refused
from tests.graphs import Builder
from tests.graphs.dead import DEAD, columns, planted

SIZES = ({"n": 1, "h": 19, "w": 21, "t": 5}, {"n": 3, "h": 26, "w": 17, "t": 8})


def outputs(model: onnx.ModelProto, seed: int) -> list[list[np.ndarray]]:
    """Outputs at both input sizes, on standard normal inputs."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(seed)
    found = []
    for sizes in SIZES:
        shape = [sizes.get(d, d) for d in session.get_inputs()[0].shape]
        found.append(session.run(None, {"x": 3 * rng.standard_normal(shape).astype(np.float32)}))
    return found


def assert_equal_to_the_original(model: onnx.ModelProto, small: ir.Model) -> None:
    for seed in range(3):
        for wanted, got in zip(outputs(model, seed), outputs(ir.to_proto(small), seed), strict=True):
            for a, b in zip(wanted, got, strict=True):
                assert a.shape == b.shape
                assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Small input sizes for the analysis: a mean over a large image costs the runtime digits."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    return {"x": tuple(d.dim_value or SIZES[0][d.dim_param] for d in dims)}


@pytest.mark.parametrize("name", [n for n, (_, units) in DEAD.items() if units])
def test_all_dead_units_leave_and_nothing_changes(name: str) -> None:
    model, units = DEAD[name][0](), DEAD[name][1]
    result = gp.prune(model, lossless=True, input_shapes=shapes(model))
    assert result.verdict is not None
    assert "equals the original" in result.verdict.text
    assert sum(len(g.removed) for g in result.plan.groups) == units
    assert not result.frozen
    assert result.after.params < result.before.params
    assert_equal_to_the_original(model, result.model)


@pytest.mark.parametrize("name", [n for n, (_, units) in DEAD.items() if units])
def test_a_target_takes_the_dead_units_first(name: str) -> None:
    """A little more than what is dead: all that is dead is among it, whatever the criterion."""
    model, units = DEAD[name][0](), DEAD[name][1]
    dead = gp.prune(model, lossless=True, check=False).plan
    goal = dead.after["params"] / dead.before["params"]
    more = gp.plan(model, params=f"{100 * goal + 0.01:.2f}%", align=1, max_ratio=1.0, criterion="l1")
    taken = {g.name: set(g.removed) for g in more.groups}
    lost = sum(len(set(g.removed) - taken.get(g.name, set())) for g in dead.groups)
    assert lost <= units // 2  # the last units may come from elsewhere to meet the target closely


@pytest.mark.parametrize("name", DEAD)
def test_other_removals_fold_what_they_can(name: str) -> None:
    model = DEAD[name][0]()
    result = gp.prune(model, ratio=0.5, align=1, input_shapes=shapes(model))
    assert result.verdict is not None
    assert result.verdict.passed
    assert not result.frozen


def test_nothing_dead_says_what_comes_close() -> None:
    model = planted(DEAD["norms_count_their_channels"][0](), two__weight=[(3, 1e-12)])
    with pytest.raises(NothingToPruneError, match=r"no dead channels.* 2 of \d+ units in 1 groups come close"):
        gp.prune(model, lossless=True)


def test_alignment_keeps_dead_channels() -> None:
    model = DEAD["transformer_ffn"][0]()  # 12 hidden units, 4 of them dead
    for align, left in ((1, 8), (4, 8), (6, 12), (3, 9)):
        if left == 12:
            with pytest.raises(NothingToPruneError, match="lower --align"):
                gp.prune(model, lossless=True, align=align)
            continue
        result = gp.prune(model, lossless=True, align=align)
        assert 12 - sum(len(g.removed) for g in result.plan.groups) == left
        assert_equal_to_the_original(model, result.model)


def test_constants_of_any_removal_are_folded_exactly() -> None:
    """Removing only channels that are constant through --ratio gives the original as well."""
    b = Builder()
    h = b.op("Sigmoid", b.linear(b.source("x", ["n", "t", 6]), 6, 8, "one"))
    model = planted(b.build(b.linear(h, 8, 3, "two")), one__weight=columns(0, 1, 2, 3))
    result = gp.prune(model, ratio=0.5, align=1)
    assert result.folded == 4
    assert_equal_to_the_original(model, result.model)


def test_without_a_carrier_a_padded_constant_counts_as_zero() -> None:
    """Only some of the constants leave in front of a padded convolution, or none stays to carry them."""
    model = DEAD["padded_conv_keeps_a_carrier"][0]()
    deps = api.analyze(model)
    group = next(g for g in deps.groups if g.size == 8)
    folding = Folding(deps)
    carried = folding.folded(deps.cut(group.units[[0, 3]]))
    assert carried.folded == 2
    assert carried.folds[0].carriers is not None
    assert carried.folds[0].carriers.tolist() == [5]
    assert folding.folded(deps.cut(group.units[[0, 3, 5]])).folded == 0


def test_a_plan_replays_and_verifies_against_the_original(tmp_path: Path) -> None:
    model = DEAD["residual_stream"][0]()
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    out = done(path, tmp_path / "s.onnx", "--lossless", "--input-shape", "x:1,3,19,21")
    assert "equals the original" in out
    assert "dead channels" in out
    assert "lossless: true" in (tmp_path / "s.recipe.yaml").read_text()
    done("apply", tmp_path / "s.plan.json", path, tmp_path / "t.onnx", "--input-shape", "x:1,3,19,21")
    assert (tmp_path / "s.onnx").read_bytes() == (tmp_path / "t.onnx").read_bytes()
    shape = ("--input-shape", "x:1,3,19,21")
    assert "equals the original" in done("verify", path, tmp_path / "s.onnx", tmp_path / "s.plan.json", *shape)
    done(path, tmp_path / "u.onnx", "--recipe", tmp_path / "s.recipe.yaml")
    assert (tmp_path / "s.onnx").read_bytes() == (tmp_path / "u.onnx").read_bytes()


def test_a_lossless_plan_does_not_pass_on_weights_that_are_alive(tmp_path: Path) -> None:
    model = DEAD["transformer_ffn"][0]()
    plan = gp.plan(model, lossless=True)
    alive = planted(model, up__weight=[((0, 5), 1.0)])
    assert gp.verify(model, gp.apply(model, plan), plan).passed is False  # the planted model is the same object
    assert not gp.verify(alive, gp.apply(alive, plan), plan).passed


def test_lossless_takes_no_target(tmp_path: Path) -> None:
    model = DEAD["transformer_ffn"][0]()
    with pytest.raises(InputError, match="leave out --ratio"):
        gp.prune(model, lossless=True, ratio=0.5)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    refused(2, "leave out --macs", path, tmp_path / "s.onnx", "--lossless", "--macs", "50%")
    onnx.save(DEAD["norms_count_their_channels"][0](), path)
    assert call(path, tmp_path / "s.onnx", "--lossless").code == 5
