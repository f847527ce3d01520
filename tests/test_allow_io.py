"""Graph inputs and outputs that may shrink: caches and hidden states."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import yaml
from onnx import ModelProto, numpy_helper

from graphprune import api
from graphprune.errors import InputError
from tests.commandline import done, refused
from tests.cuts import pruned_and_checked, random_cut
from tests.graphs import GOLDEN, GRAPHS, run

CACHES = ("past|keys|values", "Identity")


def shapes(model: ModelProto) -> dict[str, list[int | str]]:
    """Sizes of inputs and outputs."""
    return {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*model.graph.input, *model.graph.output)
    }


@pytest.mark.parametrize(
    ("name", "patterns", "sizes"),
    [
        ("cached_decoder", CACHES, [2, 4, 5, 6, 9]),
        ("cached_decoder", ("past_value", "Identity_.*"), [4, 5, 9]),
        ("encoder_states", ("Layer",), [12, 20]),
        ("encoder_states", ("hidden",), [10, 20]),
        ("encoder_states", ("",), [10, 12, 20]),
        ("resnet_stage", ("image",), [3, *GOLDEN["resnet_stage"]]),
    ],
)
def test_groups(name: str, patterns: tuple[str, ...], sizes: list[int]) -> None:
    model = GRAPHS[name]()
    deps = api.analyze(model, allow_io=patterns)
    assert sorted(g.size for g in deps.groups) == sizes


@pytest.mark.parametrize(("name", "patterns"), [("cached_decoder", CACHES), ("encoder_states", ("",))])
@pytest.mark.parametrize("seed", range(6))
def test_random_removals(name: str, patterns: tuple[str, ...], seed: int) -> None:
    model = GRAPHS[name]()
    deps = api.analyze(model, allow_io=patterns)
    cut = random_cut(deps, seed)
    assert cut is not None
    pruned, verdict = pruned_and_checked(cut, seed)
    assert verdict.passed, verdict.text
    old, new = shapes(model), shapes(ir.to_proto(pruned))
    for tensor, axes in cut.io().items():
        for axis, gone in axes.items():
            assert new[tensor][axis] == int(old[tensor][axis]) - len(gone)
            old[tensor][axis] = new[tensor][axis]
    assert old == new


def test_a_cached_head_against_zeroed_rows() -> None:
    """What the removed head would add is missing, what the others cache is what it was."""
    model = GRAPHS["cached_decoder"]()
    deps = api.analyze(model, allow_io=CACHES)
    group = next(g for g in deps.groups if g.size == 2)
    cut = deps.cut(group.units[:1])
    pruned, _ = pruned_and_checked(cut)
    assert cut.io()["past_key"] == {1: [0]}
    zeroed = GRAPHS["cached_decoder"]()
    for tensor in zeroed.graph.initializer:
        if tensor.name == "o.weight":
            array = numpy_helper.to_array(tensor).copy()
            array[:20] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    rng = np.random.default_rng(0)
    feeds = {
        "hidden": rng.standard_normal((1, 3, 10)).astype(np.float32),
        "past_key": rng.standard_normal((1, 2, 4, 6)).astype(np.float32),
        "past_value": rng.standard_normal((1, 2, 4, 5)).astype(np.float32),
    }
    wanted = run(zeroed, feeds)
    small = {k: v if k == "hidden" else v[:, 1:] for k, v in feeds.items()}
    got = run(ir.to_proto(pruned), small)
    np.testing.assert_allclose(got[0], wanted[0], rtol=1e-4, atol=1e-5)
    for a, b in zip(wanted[1:], got[1:], strict=True):
        np.testing.assert_allclose(b, a[:, 1:], rtol=1e-4, atol=1e-5)


def test_bad_patterns() -> None:
    model = GRAPHS["cached_decoder"]()
    with pytest.raises(InputError, match="matches no input and no output; there are hidden, past_key"):
        api.analyze(model, allow_io=["cache"])
    with pytest.raises(InputError, match="not a regular expression"):
        api.analyze(model, allow_io=["("])


# -- command line ----------------------------------------------------------------------------------------


@pytest.fixture
def decoder(tmp_path: Path) -> Path:
    onnx.save(GRAPHS["cached_decoder"](), tmp_path / "decoder.onnx")
    return tmp_path / "decoder.onnx"


_FLAGS = ("--ratio", "0.5", "--align", 1, "--allow-io", "past", "--allow-io", "Identity")


def test_prune_apply_and_verify(decoder: Path) -> None:
    small, again = decoder.with_name("small.onnx"), decoder.with_name("again.onnx")
    out = done(decoder, small, *_FLAGS)
    assert "inputs and outputs that changed" in out and "past_key" in out
    old, new = shapes(onnx.load(decoder)), shapes(onnx.load(small))
    assert (old["past_key"], new["past_key"]) == ([1, 2, "past", 6], [1, 1, "past", 3])
    plan = json.loads(small.with_name("small.plan.json").read_text())
    assert plan["recipe"]["allow_io"] == ["past", "Identity"]
    assert len(plan["io"]["past_key"]["1"]) == 1 and len(plan["io"]["past_value"]["3"]) == 2
    report = json.loads(small.with_name("small.report.json").read_text())
    change = next(c for c in report["io"] if (c["name"], c["axis"]) == ("past_key", 3))
    assert (change["role"], change["size"], len(change["kept"])) == ("input", 6, 3)
    assert not set(change["kept"]) & set(plan["io"]["past_key"]["3"])
    done("verify", decoder, small, small.with_name("small.plan.json"))
    done("apply", small.with_name("small.plan.json"), decoder, again)
    assert again.read_bytes() == small.read_bytes()


def test_recipe_and_plan(decoder: Path) -> None:
    small = decoder.with_name("small.onnx")
    done(decoder, small, *_FLAGS, "-q")
    recipe = yaml.safe_load(small.with_name("small.recipe.yaml").read_text())
    assert recipe["allow-io"] == ["past", "Identity"]
    other = decoder.with_name("other.onnx")
    done(decoder, other, "--recipe", small.with_name("small.recipe.yaml"), "-q")
    assert other.read_bytes() == small.read_bytes()
    done("plan", decoder, decoder.with_name("p.json"), *_FLAGS, "-q")
    assert decoder.with_name("p.json").read_bytes() == small.with_name("small.plan.json").read_bytes()


def test_the_interface_is_a_blocker_with_a_way_out(decoder: Path) -> None:
    report = json.loads(done("analyze", decoder, "--json", "-q"))
    mends = {b["mend"] for b in report["blocked"]}
    assert any("--allow-io past_key" in m for m in mends)
    freed = json.loads(done("analyze", decoder, "--allow-io", "past", "--allow-io", "Identity", "--json", "-q"))
    assert len(freed["groups"]) == len(report["groups"]) + 3


def test_a_pattern_that_matches_nothing(decoder: Path) -> None:
    refused(
        2, "--allow-io cache: matches no input", decoder, decoder.with_name("o.onnx"), *_FLAGS, "--allow-io", "cache"
    )
