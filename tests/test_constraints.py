"""Constraints on whole groups, several targets at once, allocations, and what contradicts itself."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune import api
from graphprune.budget.curves import Curve
from graphprune.budget.planner import Planner
from graphprune.errors import InfeasibleError, InputError, NothingToPruneError
from graphprune.plan import Plan
from tests.graphs import GRAPHS
from tests.test_budget import FASHION
from tests.test_solver import LIMITS

FIVE = ("resnet_downsample", "inverted_residual", "unet", "mlp_layernorm", "squeeze_excite")


def widths(deps: api.DependencyGraph, plan: Plan) -> dict[str, int]:
    lost = {g.name: len(g.removed) for g in plan.groups}
    return {g.name: g.size - lost.get(g.name, 0) for g in deps.groups}


@pytest.mark.parametrize("allocation", ["solver", "global", "uniform"])
@pytest.mark.parametrize("name", FIVE)
def test_four_targets_hold_at_once(name: str, allocation: str) -> None:
    deps = api.analyze(GRAPHS[name]())
    floor = api.plan(deps, ratio=0.9, align=8)
    limits = {k: int(0.6 * floor.before[k] + 0.4 * floor.after[k]) for k in LIMITS}
    size = limits.pop("bytes") + deps.source.file_bytes() - floor.before["bytes"]
    result = api.prune(deps.source, align=8, allocation=allocation, size=size, **limits)
    assert all(getattr(result.after, k) <= limit for k, limit in limits.items())
    assert result.verdict is not None
    assert result.verdict.passed


def test_floors_and_ceilings_of_single_groups() -> None:
    deps = api.analyze(FASHION)
    plan = api.plan(
        deps, macs="50%", width=[r"body\.3\.second=96:", r"body\.3\.first=24:40", "body.0.second.0.weight.0.=16"]
    )
    kept = widths(deps, plan)
    assert kept["body.3.second.0.weight[0]"] >= 96
    assert 24 <= kept["body.3.first.0.weight[0]"] <= 40
    assert kept["body.0.second.0.weight[0]"] == 16


def test_classes_keep_one_width() -> None:
    deps = api.analyze(FASHION)
    for allocation in ("solver", "global", "uniform"):
        plan = api.plan(deps, macs="60%", align=4, equal=[r"body\.3\."], allocation=allocation)
        kept = widths(deps, plan)
        assert len({kept[n] for n in kept if n.startswith("body.3.")}) == 1


def test_brackets_make_a_class_of_each_text() -> None:
    deps = api.analyze(FASHION)
    plan = api.plan(deps, macs="60%", align=4, equal=[r"^body\.([02])\."])
    kept = widths(deps, plan)
    for block in "02":
        assert len({n for name, n in kept.items() if name.startswith(f"body.{block}.")}) == 1


def test_uniform_takes_the_same_share_everywhere() -> None:
    deps = api.analyze(FASHION)
    plan = api.plan(deps, macs="60%", align=1, allocation="uniform")
    shares = [len(g.removed) / g.size for g in plan.groups]
    assert max(shares) - min(shares) < 0.05
    assert plan.after["macs"] <= 0.6 * plan.before["macs"]


@pytest.mark.parametrize(
    "options",
    [
        {"width": ["body=48:16"]},
        {"width": ["body"]},
        {"width": ["nowhere=8:"]},
        {"width": ["body.0.first=64:"]},
        {"width": ["body.3.first=24:", "body.3.first=:16"]},
        {"width": ["body.3.first=9:15"]},
        {"width": ["body.3.first=8:"], "ignore": ["body.3.first"], "equal": ["("]},
        {"equal": ["body.3.first"]},
        {"equal": ["body.3", "body.3.first|body.3.second"]},
        {"equal": ["first"], "width": ["body.3.first=64", "body.0.first=8"]},
        {"allocation": "best"},
    ],
)
def test_contradictions_are_named(options: dict[str, object]) -> None:
    with pytest.raises(InputError) as caught:
        api.plan(FASHION, macs="50%", **options)
    assert "\n" not in str(caught.value)


def test_everything_frozen() -> None:
    with pytest.raises(NothingToPruneError, match="--ignore and --only leave no group"):
        api.plan(FASHION, macs="50%", ignore=["."])


def test_what_binds_is_named() -> None:
    with pytest.raises(InfeasibleError, match=r"what binds: .*--max-ratio 0\.2 \([\d,]+ without it\)"):
        api.plan(FASHION, macs="30%", params="99%", max_ratio=0.2)
    with pytest.raises(InfeasibleError, match=r"what binds: .*--ignore \("):
        api.plan(FASHION, macs="10%", ignore=[r"body\.3"])


def test_a_curve_that_was_measured_decides() -> None:
    """A group whose removal costs nothing gives first; the solver takes over where curves are given."""
    deps = api.analyze(FASHION)
    planner = Planner.from_options(deps, {"macs": "80%", "align": 1})
    free = planner.deps.groups[-1]
    planner.curves = [
        Curve(g.units, np.arange(g.size + 1) * (1e-6 if g.name == free.name else 1.0)) for g in planner.deps.groups
    ]
    gone = planner.deps.cut(planner.units()).removed
    assert gone[free.units].any()
    assert not any(gone[g.units].any() for g in planner.deps.groups if g.name != free.name)
    assert planner.cost.costs(gone).macs <= planner.limits["macs"]


def test_curves_that_are_none() -> None:
    units = np.arange(1, 4, dtype=np.int32)
    for loss in ([0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 1.0, 3.0], [0.0, np.inf, np.inf, np.inf]):
        with pytest.raises(ValueError, match="curve"):
            Curve(units, np.array(loss))
    assert Curve(units, np.array([0.0, 3.0, 3.0, 4.0])).slopes.tolist() == pytest.approx([4 / 3] * 3)


def test_the_same_problem_has_the_same_solution() -> None:
    plans = [api.plan(FASHION, macs="50%", params="70%", memory="80%", allocation="solver").to_json() for _ in range(2)]
    assert plans[0] == plans[1]
