"""The solver's allocation against the same share of every group, once both are recovered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import graphprune as gp
from graphprune.budget.planner import Planner
from graphprune.calibration import Calibration
from graphprune.importance.curve import Curve
from graphprune.recover.contest import lost, settle
from graphprune.recover.rivals import Rival, rivals
from graphprune.search import prepared
from tests.graphs import Builder
from tests.recovery import feeds

DATA = feeds(12, 4, 4, 6, 6)  # few enough for the contest to see all of them


def net(*widths: int) -> Any:
    b, before = Builder(seed=3), 4
    x = b.source("x", [4, 4, 6, 6])
    for k, after in enumerate(widths or (16, 16, 16)):
        x = b.conv_relu(x, before, after, name=f"conv{k}")
        before = after
    return b.build(b.conv(x, before, 5, name="last"))


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


TIMED: dict[str, Any] = {"latency": "60%", "latency_table": slow_at_the_start, "align": 1}
WIDTHS = (24, 32, 24, 32, 16)


def by_table(**more: Any) -> Planner:
    deps = gp.analyze(net(*WIDTHS))
    return prepared(deps, {**TIMED, "data": Calibration(deps, DATA), **more})


def test_rivals_take_about_the_same_time_and_lose_less_the_best_first() -> None:
    planner = by_table()
    assert planner.pace is not None
    units, found = planner.units(), rivals(planner, Rival(planner.units()), ["refit"])
    limits, curves = dict(planner.limits), planner.curves
    own = lost(planner, units, DATA, ["refit"])
    losses = [lost(planner, other.units, DATA, ["refit"]) for other in found]
    assert losses
    assert losses == sorted(losses) == [other.loss for other in found]
    assert losses[-1] < own
    took = planner.pace.predicted(planner.deps.cut(units).removed)
    for other in found:
        now = planner.pace.predicted(planner.deps.cut(other.units).removed)
        assert now == pytest.approx(took, rel=0.07)
        assert 0.97 * took <= now <= 1.02 * planner.pace.limit
    assert (planner.limits, planner.curves) == (limits, curves)


def test_a_rival_that_keeps_to_the_target_takes_over() -> None:
    """Times come from a table here, so what is predicted is what holds."""
    plain = by_table()
    assert plain.pace is not None
    result = gp.prune(net(*WIDTHS), recover="refit", data=DATA, **TIMED)
    taken = plain.removed(result.plan)
    assert plain.pace.predicted(plain.deps.cut(taken).removed) <= plain.pace.limit
    assert lost(plain, taken, DATA, ["refit"]) < lost(plain, plain.units(), DATA, ["refit"])
    assert any("lose less" in note for note in result.notes)


def test_there_are_no_rivals_without_data() -> None:
    planner = by_table(data=None)
    assert rivals(planner, Rival(planner.units()), ["refit"]) == []
