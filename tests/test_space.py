"""Searches of one's own: widths in, plan, costs and a measure out."""

from __future__ import annotations

import random
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import graphprune as gp
from graphprune.cost import CostModel
from graphprune.errors import InfeasibleError, InputError
from tests.test_budget import FASHION

EXAMPLE = Path(__file__).parents[1] / "examples" / "optuna_search.py"


def test_widths_give_the_plan_the_costs_and_the_model() -> None:
    space = gp.Space(FASHION, macs="60%", align=4)
    rng = random.Random(0)
    widths = space.clipped({name: rng.choice(kept) for name, kept in space.choices.items()})
    assert space.fits(widths)
    costs, plan = space.costs(widths), space.plan(widths)
    assert costs.macs <= space.limits["macs"]
    assert plan.after["macs"] == costs.macs
    small = gp.analyze(space.model(widths))
    assert CostModel(small).costs(np.zeros(small.state.store.count, bool)).macs == costs.macs
    lost = {g.name: len(g.removed) for g in plan.groups}
    sizes = {g.name: g.size for g in space.deps.groups}
    assert all(sizes[name] - lost.get(name, 0) == kept for name, kept in widths.items())
    assert gp.prune(FASHION, from_plan=plan).verdict.passed


def test_nothing_removed_is_no_error() -> None:
    space = gp.Space(FASHION)
    whole = {name: kept[-1] for name, kept in space.choices.items()}
    assert space.error(whole) == 0.0
    assert space.loss(whole) == 0.0
    assert space.costs(whole) == space.dense
    less = {**whole, "body.3.second.0.weight[0]": 64}
    assert 0 < space.error(less) < 2


def test_asking_and_telling_finds_better_widths_than_the_first() -> None:
    space = gp.Space(FASHION, macs="70%", align=8, seed=1)
    first = None
    for _ in range(25):
        widths = space.ask()
        assert space.fits(widths)
        value = space.error(widths)
        first = value if first is None else first
        space.tell(widths, value)
    assert min(value for _, value in space.told) < first
    assert space.error(space.best) == min(value for _, value in space.told)


def test_the_data_is_what_the_error_is_measured_on() -> None:
    space = gp.Space(FASHION, data=EXAMPLE.parent / "calibration.npz", samples=32, criterion="l2")
    widths = {name: kept[0] for name, kept in space.choices.items()}
    assert space.error(widths) != gp.Space(FASHION).error(widths)


def test_bad_widths_and_targets() -> None:
    space = gp.Space(FASHION, macs="60%")
    with pytest.raises(InputError, match="cannot keep 7; it may keep 8, 16"):
        space.costs({"body.0.first.0.weight[1]": 7})
    with pytest.raises(InputError, match="no group to choose for is called nowhere"):
        space.plan({"nowhere": 8})
    with pytest.raises(InputError, match="nothing that meets the targets"):
        _ = space.best
    with pytest.raises(InfeasibleError, match="what binds"):
        gp.Space(FASHION, macs="1%")


def test_the_example_searches_with_optuna(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--trials", "6"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "best" in capsys.readouterr().out
