"""Families: nested plans from one analysis, a verified file, plan and report for each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import graphprune as gp
from graphprune.cli import main
from graphprune.errors import InputError
from graphprune.family import members, outputs
from graphprune.plan import Plan
from tests.test_budget import FASHION


def removed(plan: Plan) -> set[tuple[str, int]]:
    return {(g.name, n) for g in plan.groups for n in g.removed}


@pytest.mark.parametrize("allocation", ["solver", "global", "uniform"])
@pytest.mark.parametrize("align", [1, 8])
def test_each_plan_is_a_subset_of_the_next(allocation: str, align: int) -> None:
    shares = ["75%", "50%", "25%"]
    results = gp.family(FASHION, macs=shares, align=align, allocation=allocation, check=False)
    for share, result in zip(shares, results, strict=True):
        assert result.after.macs <= float(share[:-1]) / 100 * result.before.macs
        assert result.plan.recipe["macs"] == share
    large, middle, small = (removed(r.plan) for r in results)
    assert large < middle < small


def test_nested_in_weights_too_where_blocks_choose_for_themselves() -> None:
    results = gp.family(FASHION, macs=["80%", "40%"], align=1)
    for name, axes in results[0].plan.weights.items():
        for axis, listed in axes.items():
            other = results[1].plan.weights[name][axis]
            pairs = zip(listed, other, strict=True) if isinstance(listed[0], list) else [(listed, other)]
            assert all(set(a) <= set(b) for a, b in pairs)
    assert all(r.verdict is not None and r.verdict.passed for r in results)


def test_the_order_given_is_the_order_of_the_results() -> None:
    small, large = gp.family(FASHION, macs=["40%", "80%"], params=["50%", "90%"], check=False)
    assert small.after.macs < large.after.macs
    assert removed(large.plan) < removed(small.plan)


def test_the_command_writes_every_member(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(FASHION), str(tmp_path / "out.onnx"), "--macs", "75%,50%", "--params", "90%", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [m["check"]["status"] for m in report["members"]] == ["verified", "verified"]
    for mark, share in (("75", 0.75), ("50", 0.5)):
        plan = Plan.read(tmp_path / f"out-{mark}.plan.json")
        assert plan.after["macs"] <= share * plan.before["macs"]
        assert gp.verify(FASHION, tmp_path / f"out-{mark}.onnx", plan).passed
        assert json.loads((tmp_path / f"out-{mark}.report.json").read_text())["recipe"]["macs"] == f"{mark}%"
        assert f"macs: {mark}%" in (tmp_path / f"out-{mark}.recipe.yaml").read_text()
    assert removed(Plan.read(tmp_path / "out-75.plan.json")) < removed(Plan.read(tmp_path / "out-50.plan.json"))


def test_a_pattern_and_a_recipe_file(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("macs: [70%, 40%]\n")
    assert main([str(FASHION), str(tmp_path / "m{}pc.onnx"), "--recipe", str(recipe), "-q"]) == 0
    assert {p.name for p in tmp_path.glob("*.onnx")} == {"m70pc.onnx", "m40pc.onnx"}


def test_names_of_members() -> None:
    targets = members({"macs": "1.2G,600M", "size": "5MB", "seed": 0})
    assert targets == [{"size": "5MB", "macs": "1.2G"}, {"size": "5MB", "macs": "600M"}]
    assert [p.name for p in outputs("a/b.onnx", targets)] == ["b-1.2G.onnx", "b-600M.onnx"]
    assert members({"macs": "50%", "seed": 0}) == [{"macs": "50%"}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"macs": ["75%", "50%"], "params": ["50%"]}, "one length"),
        ({"macs": "75%,"}, "entry of the list is empty"),
        ({"macs": ["75%", "50%"], "params": ["50%", "75%"]}, "cannot be nested"),
        ({"macs": ["50%", "x"]}, "cannot be read"),
    ],
)
def test_families_that_are_none(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        gp.family(FASHION, **options)


def test_equal_members_have_no_names(tmp_path: Path) -> None:
    assert main([str(FASHION), str(tmp_path / "o.onnx"), "--macs", "50%,50%"]) == 2
    assert main(["plan", str(FASHION), str(tmp_path / "o.json"), "--macs", "75%,50%"]) == 2
    assert not list(tmp_path.iterdir())
