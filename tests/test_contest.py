"""The solver's allocation against the same share of every group, once both are recovered."""

from __future__ import annotations

from typing import Any

import graphprune as gp
from graphprune.calibration import Calibration
from graphprune.importance.curve import Curve
from graphprune.recover.contest import lost, settle
from graphprune.search import prepared
from tests.graphs import Builder
from tests.recovery import feeds

DATA = feeds(12, 4, 4, 6, 6)  # few enough for the contest to see all of them


def net() -> Any:
    b = Builder(seed=3)
    x = b.source("x", [4, 4, 6, 6])
    for name, (before, after) in {"first": (4, 16), "second": (16, 16), "third": (16, 16)}.items():
        x = b.conv_relu(x, before, after, name=name)
    return b.build(b.conv(x, 16, 5, name="last"))


OPTIONS = {"macs": "50%", "align": 1, "data": DATA}


def test_never_worse_than_uniform() -> None:
    errors = {}
    for allocation in ("auto", "solver", "uniform"):
        result = gp.prune(net(), recover="refit", allocation=allocation, **OPTIONS)
        assert result.recovery is not None
        errors[allocation] = result.recovery.error
    assert errors["auto"] == min(errors["solver"], errors["uniform"])


def test_a_solver_that_was_told_wrong_is_overruled() -> None:
    deps = gp.analyze(net())
    planner = prepared(deps, {**OPTIONS, "data": Calibration(deps, DATA)})
    assert planner.curves is not None
    middle = max(range(len(deps.groups)), key=lambda k: float(planner.curves[k].loss[-1]))
    planner.curves = [
        Curve(c.order, c.loss * (1e-6 if k == middle else 1e3)) for k, c in enumerate(planner.curves)
    ]  # what matters most seems to cost nothing
    planner.allocation = "solver"
    misled = lost(planner, planner.units(), DATA, ["refit"])
    planner.allocation = "auto"
    settle(planner, ["refit"])
    assert planner.allocation == "uniform"
    assert lost(planner, planner.units(), DATA, ["refit"]) < misled
    assert any("same share" in note for note in planner.notes)
    assert planner.plan().recipe["allocation"] == "uniform"


def test_an_allocation_that_was_asked_for_stays() -> None:
    planner = prepared(gp.analyze(net()), {**OPTIONS, "data": None, "allocation": "global", "criterion": "l2"})
    settle(planner, ["refit"])
    assert planner.allocation == "global"
