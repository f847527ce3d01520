"""What groups are called, and that users can address them by it."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from graphprune import api
from graphprune.coupling.names import KINDS
from graphprune.errors import InputError
from tests.commandline import done, refused
from tests.graphs import GRAPHS

_QUERIES = "query heads per KV group"
EXPECTED = {
    "vit_fused_qkv": {20: "residual width", 4: "heads", 8: "head dims", 24: "FFN width"},
    "gqa_block": {
        14: "residual width", 2: "KV groups", 4: _QUERIES, 3: "head dims", 6: "head dims", 20: "FFN width",
    },
    "gqa_tiled_blocks": {2: "KV groups", 4: _QUERIES, 3: "head dims", 6: "head dims"},
    "mqa_expand": {8: "heads", 3: "head dims", 6: "head dims"},
    "attention_einsum": {2: "heads", 3: "head dims", 5: "head dims"},
    "attention_operator": {2: "KV groups", 4: _QUERIES, 6: "head dims", 5: "head dims", 8: "FFN width"},
    "heads_folded_into_batch": {9: "channels", 2: "heads", 5: "head dims", 3: "head dims"},
    "cross_covariance": {4: "heads", 6: "head dims"},
    "resnet_stage": {16: "residual width", 10: "channels", 12: "channels"},
    "grouped_conv": {6: None, 4: "channels per group"},
    "depthwise_separable": {8: "channels", 12: "channels", 6: "channels"},
    "lstm": {10: "channels", 9: "hidden"},
    "rmsnorm_swiglu": {12: "residual width", 20: "FFN width"},
    "encoder_states": {20: "FFN width"},
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_kinds(name: str) -> None:
    groups = api.analyze(GRAPHS[name]()).groups
    assert {g.size for g in groups} == EXPECTED[name].keys()
    for group in groups:
        wanted = EXPECTED[name][group.size]
        assert wanted is None or group.kind == wanted, group.name


@pytest.mark.parametrize("name", GRAPHS)
def test_every_group_has_one(name: str) -> None:
    assert {g.kind for g in api.analyze(GRAPHS[name]()).groups} <= set(KINDS)


def test_grouped_convolutions_have_both_factors() -> None:
    kinds = sorted(g.kind for g in api.analyze(GRAPHS["grouped_conv"]()).groups)
    assert kinds == ["channel groups", "channels per group", "channels per group"]


def test_only_and_ignore_a_kind() -> None:
    deps = api.analyze(GRAPHS["vit_fused_qkv"]())
    kind = {g.name: g.kind for g in deps.groups}
    only = api.plan(deps, ratio=0.5, align=1, only=["kind:heads", "kind:FFN width"])
    assert {kind[g.name] for g in only.groups} == {g.kind for g in only.groups} == {"heads", "FFN width"}
    rest = api.plan(deps, ratio=0.5, align=1, ignore=["kind:heads"])
    assert {g.kind for g in rest.groups} == {"residual width", "head dims", "FFN width"}
    with pytest.raises(InputError, match=r"no group is of this kind \(there are FFN width, head dims, heads"):
        api.plan(deps, ratio=0.5, only=["kind:head"])


def test_command_line(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    onnx.save(GRAPHS["vit_fused_qkv"](), model)
    assert "FFN width" in done("analyze", model)
    report = json.loads(done("analyze", model, "--json", "-q"))
    assert {g["kind"] for g in report["groups"]} == {"residual width", "heads", "head dims", "FFN width"}
    name = next(g["name"] for g in report["groups"] if g["kind"] == "heads")
    assert "4 units (heads)" in done("analyze", model, "--explain", name)
    done(model, tmp_path / "o.onnx", "--ratio", "0.5", "--align", 1, "--only", "kind:heads", "-q")
    plan = json.loads((tmp_path / "o.plan.json").read_text())
    assert [(g["kind"], g["size"], len(g["removed"])) for g in plan["groups"]] == [("heads", 4, 2)]
    refused(2, "no group is of this kind", model, tmp_path / "p.onnx", "--ratio", "0.5", "--only", "kind:channel")
