"""The solver's allocation against the same share of every group, once both are recovered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import graphprune as gp
from graphprune.calibration import Calibration
from graphprune.cost.latency import NAME
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


def slow_at_the_start(op: str, shapes: Sequence[Sequence[int]], attributes: Mapping[str, Any]) -> float:
    """Milliseconds in proportion to the work, three times as many for the layers that see four channels."""
    return float(np.prod([np.prod(s) for s in shapes])) * (3 if shapes[0][1] == 4 else 1) if op == "Conv" else 0.0


@pytest.mark.parametrize("error", [0.5, 2.0])
def test_a_latency_is_met_by_the_widths_of_macs_where_these_lose_less(
    monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    def lost(planner: Any, *_: Any) -> float:
        if planner.allocation == "uniform":
            return 3.0
        return 1.0 if NAME in planner.limits else error

    monkeypatch.setattr("graphprune.recover.contest.lost", lost)
    deps = gp.analyze(net())
    options = {"latency": "60%", "latency_table": slow_at_the_start, "align": 1, "data": Calibration(deps, DATA)}
    planner = prepared(deps, options)
    assert planner.pace is not None
    assert planner.limits == planner.pace.limits
    units = planner.units()
    assert planner.pace.predicted(deps.cut(units).removed) <= planner.pace.limit
    assert any("MACs are limited" in note for note in planner.notes) == (error < 1)
    if error < 1:
        assert planner.pace.work is not None
        assert planner.cost.costs(deps.cut(units).removed).macs <= planner.pace.work
    else:
        assert planner.pace.work is None
