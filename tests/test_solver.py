"""The solver: exact costs, least loss, all constraints at once."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphprune import api
from graphprune.budget.choices import choices
from graphprune.budget.curves import Curve, curves_of
from graphprune.budget.greedy import priced, ranked, uniform
from graphprune.budget.improve import best_of_all, improved
from graphprune.budget.landscape import Landscape
from graphprune.budget.solver import ALLOCATIONS, solve
from graphprune.budget.targets import Constraints
from graphprune.cost import CostModel
from graphprune.importance.base import score
from tests.graphs import GRAPHS

LIMITS = ("macs", "params", "bytes", "memory")


def landscape(deps: api.DependencyGraph, align: int = 1, seed: int = 0) -> tuple[Landscape, CostModel]:
    cost = CostModel(deps)
    found = choices(
        deps,
        curves_of(deps, score(deps, "random", seed)),
        Constraints(align=align),
        np.ones(deps.state.store.count, bool),
    )
    dense = cost.costs(np.zeros(deps.state.store.count, bool))
    limits = {name: max(getattr(dense, name) // 2, 1) for name in LIMITS}
    return Landscape(found, cost, limits, deps.state.store.count), cost


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_tables_give_the_costs_of_the_mask(name: str) -> None:
    deps = api.analyze(GRAPHS[name]())
    land, cost = landscape(deps)
    rng = np.random.default_rng(0)
    for _ in range(4):
        levels = np.array([rng.integers(n) for n in land.flat.sizes], np.int64)
        costs = cost.costs(land.mask(levels))
        for use, limit in zip(land.use(levels), land.limits, strict=True):
            assert use * land.limits[limit] == pytest.approx(getattr(costs, limit), abs=0.6)


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_single_changes_are_exact(name: str) -> None:
    deps = api.analyze(GRAPHS[name]())
    land, _ = landscape(deps)
    rng = np.random.default_rng(1)
    levels = np.array([rng.integers(n) for n in land.flat.sizes], np.int64)
    slopes = land.slopes(levels)
    assert slopes.now == pytest.approx(land.sums(levels))
    for entry in rng.permutation(len(land.flat.of))[:12]:
        moved = levels.copy()
        moved[land.flat.of[entry]] = entry - land.flat.start[land.flat.of[entry]]
        told = slopes.now + slopes.change[:, [entry]].toarray().ravel()
        assert told == pytest.approx(land.sums(moved), abs=1e-9)


SMALL = sorted(n for n in GRAPHS if 1 < len(api.analyze(GRAPHS[n]()).groups) <= 5)


def brute(land: Landscape) -> float:
    """Least loss over all combinations of widths."""
    grid = product(*(range(n) for n in land.flat.sizes))
    return min((land.loss(x) for row in grid if land.fits(x := np.array(row, np.int64))), default=np.inf)


@pytest.mark.parametrize("align", [2, 4])
@pytest.mark.parametrize("name", SMALL)
def test_the_solver_is_close_to_brute_force(name: str, align: int) -> None:
    """The search alone; ``solve`` tries all combinations where there are this few."""
    deps = api.analyze(GRAPHS[name]())
    cost, count = CostModel(deps), deps.state.store.count
    for seed, share in ((0, 0.7), (1, 0.5), (2, 0.35)):
        land, _ = landscape(deps, align, seed)
        if np.prod(land.flat.sizes, dtype=float) > 3000:
            pytest.skip("too many combinations")
        dense = cost.costs(np.zeros(count, bool))
        land = Landscape(land.choices, cost, {n: int(getattr(dense, n) * share) for n in ("macs", "params")}, count)
        best, base = brute(land), np.zeros(len(land.choices), np.int64)
        if not land.fits(land.floor):
            assert not np.isfinite(best)
            continue
        starts = [method(land, base) for method in (ranked, uniform, priced)]
        assert all(land.fits(s) for s in starts)
        found = improved(land, min(starts, key=land.loss), base, deadline=np.inf)
        assert land.fits(found)
        assert best - 1e-9 <= land.loss(found) <= min(land.loss(s) for s in starts) + 1e-9
        assert land.loss(found) <= best + 0.2 * max(best, 1.0)
        assert land.loss(best_of_all(land, base)) == pytest.approx(best)


@pytest.mark.parametrize("name", ["resnet_downsample", "unet", "inverted_residual", "squeeze_excite", "mlp_layernorm"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_limits_hold_and_nothing_simple_is_better(name: str, data: st.DataObject) -> None:
    """Random limits, losses that are not convex: all hold, the solver loses no more than ranking and equal shares."""
    deps = api.analyze(GRAPHS[name]())
    cost, count = CostModel(deps), deps.state.store.count
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    steps = [rng.gamma(0.5, 1.0, g.size) for g in deps.groups]
    curves = [Curve(g.units, np.append(0.0, np.cumsum(s))) for g, s in zip(deps.groups, steps, strict=True)]
    constraints = Constraints(align=data.draw(st.sampled_from([1, 2, 8])))
    floor = np.zeros(count, bool)
    for choice in choices(deps, curves, constraints, np.ones(count, bool)):
        floor[choice.units(-1)] = True
    dense, least = cost.costs(np.zeros(count, bool)), cost.costs(floor)
    names = data.draw(st.lists(st.sampled_from(LIMITS), min_size=1, unique=True))
    limits = {
        n: int(getattr(least, n) + data.draw(st.floats(0.02, 0.9)) * (getattr(dense, n) - getattr(least, n)))
        for n in names
    }
    lost = {}
    for allocation in ALLOCATIONS[1:]:
        units = solve(
            deps,
            np.zeros(count),
            cost,
            limits,
            constraints=constraints,
            allowed=np.ones(count, bool),
            curves=curves,
            allocation=allocation,
        )
        after = cost.costs(deps.cut(units).removed)
        assert all(getattr(after, n) <= limit for n, limit in limits.items())
        gone = np.isin(np.concatenate([c.order for c in curves]), units)
        lost[allocation] = float(np.concatenate(steps)[gone].sum())
    assert lost["solver"] <= min(lost.values()) + 1e-9
