"""Models that people ship: pruned, verified, written, and run again from the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from graphprune import api
from graphprune.cost.model import CostModel
from graphprune.coupling.branches import find_branches
from graphprune.graph.bypass import bypassed
from graphprune.graph.run import random_feeds
from graphprune.rewrite.onnx import rewrite
from graphprune.verify.compare import verify_cut
from tests.assets import LIGHT, ONNX_NAMES, asset_or_skip, light

pytestmark = pytest.mark.assets
LEFT_OUT = {"silero_vad"}  # control flow all over (an If at the root)


def prune_and_run(path: Path, folder: Path) -> api.Result:
    """Pruned by 30 % of the channels of every group; the written file must run alone and be smaller."""
    target = folder / "pruned.onnx"
    result = api.prune(path, target, ratio=0.3, align=1)
    assert result.verdict is not None
    assert result.verdict.passed
    assert result.after.macs < result.before.macs
    session = ort.InferenceSession(target, providers=["CPUExecutionProvider"])
    outputs = session.run(None, random_feeds(result.deps.source, 1, 7)[0])
    assert any(np.isfinite(o).any() for o in outputs)
    return result


@pytest.mark.parametrize("name", [n for n in ONNX_NAMES if n not in LEFT_OUT])
def test_shipped_model(name: str, tmp_path: Path) -> None:
    path = asset_or_skip(name)
    before = path.read_bytes()
    result = prune_and_run(path, tmp_path)
    assert not result.frozen, f"given up: {result.frozen}"
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", LIGHT)
def test_classic_graph(name: str, tmp_path: Path) -> None:
    """Graphs of the model zoo that the onnx package ships, with constant weights."""
    assert not prune_and_run(light(name), tmp_path).frozen


@pytest.mark.parametrize("name", ["minilm_l6_int8", "tashkeel_bilstm"])
def test_integer_weights_at_half_the_macs(name: str, tmp_path: Path) -> None:
    """Integers cast and scaled in a transformer, and LSTMs that quantise as they go."""
    result = api.prune(asset_or_skip(name), tmp_path / "pruned.onnx", macs="50%")
    assert result.verdict is not None
    assert result.verdict.passed
    assert not result.frozen
    assert result.after.macs <= 0.5 * result.before.macs
    stored = {t.dtype for t in result.model.graph.initializers.values()}
    assert ir.DataType.INT8 in stored or ir.DataType.UINT8 in stored


@pytest.mark.parametrize(("name", "branches"), [("minilm_l6_int8", 12), ("ppocr4_rec", 4)])
def test_branches_of_shipped_models(name: str, branches: int, tmp_path: Path) -> None:
    """Attention and MLP of every layer, with what they cost, and the file without one of them or more."""
    path, target = asset_or_skip(name), tmp_path / "pruned.onnx"
    assert len(find_branches(api.load(path))) == branches
    result = api.prune(path, target, params="97%", depth="only")
    assert result.verdict is not None
    assert result.verdict.passed
    assert result.plan.bypassed
    assert not result.plan.groups
    written = api.analyze(api.load(target))
    assert result.after == CostModel(written).costs(np.zeros(written.state.store.count, bool))


@pytest.mark.parametrize("name", [n for n in LIGHT if "resnet" in n])
def test_branches_of_classic_graphs(name: str) -> None:
    """Every third branch left out of a net with constant weights, and a quarter of all widths: random twins agree."""
    graph = api.load(light(name))
    found = find_branches(graph)
    deps = api.analyze(bypassed(graph, [b.bypass for b in found[::3]]))
    cut = deps.cut(np.concatenate([g.units[: g.size // 4] for g in deps.groups]))
    verdict = verify_cut(cut, rewrite(cut))
    assert len(found) >= 12
    assert verdict.passed, verdict.text
