"""Files that onnxruntime's own optimisers wrote: fused operators of its domain, and no recorded shapes."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto

from graphprune import api
from graphprune.errors import NothingToPruneError
from tests.commandline import refused
from tests.cuts import pruned_and_checked, random_cut
from tests.graphs import GOLDEN, GRAPHS, Builder
from tests.graphs.attention import to_heads

FUSED = {
    "vit_fused_qkv": {"FusedMatMul", "SkipLayerNormalization"},
    "gqa_block": {"FusedMatMul", "QuickGelu"},
    "attention_shape_scale": {"FusedMatMul"},
    "resnet_stage": {"FusedConv"},
    "grouped_conv": {"FusedConv"},
    "depthwise_multiplier": {"FusedConv"},
    "mlp_layernorm": {"SkipLayerNormalization"},
    "rmsnorm_swiglu": {"QuickGelu"},
    "gemm_chain": {"FusedGemm"},
    "dynamic_batch_reshape": {"FusedMatMul"},
    "heads_folded_into_batch": {"FusedMatMul"},
    "swin_patch_merging": {"FusedMatMul"},
    "yolo_c2f_dfl": {"QuickGelu"},
}


def optimised(model: ModelProto, folder: Path, level: str = "EXTENDED") -> ModelProto:
    """The model as onnxruntime writes it at an optimisation level."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimised.onnx")


def fused(model: ModelProto) -> set[str]:
    """Operators of onnxruntime's domain."""
    return {n.op_type for n in model.graph.node if n.domain == "com.microsoft"}


def check(model: ModelProto, sizes: list[int], seeds: range = range(3)) -> None:
    """The expected groups, nothing opaque, and removals that equal the masked file."""
    deps = api.analyze(model)
    assert not deps.state.opaque
    assert sorted(g.size for g in deps.groups) == sizes
    for seed in seeds:
        cut = random_cut(deps, seed)
        assert cut is not None
        _, verdict = pruned_and_checked(cut, seed)
        assert verdict.passed, verdict.text


@pytest.mark.parametrize("name", FUSED)
def test_groups_survive_the_optimiser(name: str, tmp_path: Path) -> None:
    model = optimised(GRAPHS[name](), tmp_path)
    assert FUSED[name] <= fused(model)
    del model.graph.value_info[:]
    check(model, GOLDEN[name])


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(GOLDEN.keys() - {"if_branches", "tied_autoencoder"}))
def test_all_groups_survive_the_optimiser(name: str, tmp_path: Path) -> None:
    deps = api.analyze(optimised(GRAPHS[name](), tmp_path))
    assert sorted(g.size for g in deps.groups) == GOLDEN[name]


def test_blocked_weights_are_named(tmp_path: Path) -> None:
    """The highest level lays weights out for one processor: nothing can be cut, and the user hears why."""
    model = optimised(GRAPHS["resnet_stage"](), tmp_path, "ALL")
    if not any(n.domain == "com.microsoft.nchwc" for n in model.graph.node):
        pytest.skip("this processor has no blocked layout")
    with pytest.raises(NothingToPruneError, match="laid out in blocks for one processor"):
        api.plan(model, ratio=0.4)
    refused(5, "laid out in blocks", tmp_path / "optimised.onnx", tmp_path / "o.onnx", "--macs", "50%")


def test_what_follows_blocked_weights_is_cut(tmp_path: Path) -> None:
    """A patch convolution in blocks does not freeze the transformer behind it."""
    model = optimised(GRAPHS["vit_fused_qkv"](), tmp_path, "ALL")
    if not any(n.domain == "com.microsoft.nchwc" for n in model.graph.node):
        pytest.skip("this processor has no blocked layout")
    result = api.prune(model, ratio=0.4, align=1)
    assert sorted(g.size for g in result.deps.groups) == [4, 8, 24]
    assert result.verdict is not None and result.verdict.passed


def bert(opset: int = 17) -> ModelProto:
    """Token and position tables, attention and MLP with norms behind, in the spelling that the fusions look for."""
    b = Builder("bert", opset=opset)
    ids = b.source("input_ids", ["batch", 6], onnx.TensorProto.INT64)
    words = b.op("Gather", b.weight(30, 32, name="words"), ids)
    x = b.layernorm(b.op("Add", words, b.weight(1, 6, 32, name="positions")), 32, "ln0")
    for layer in range(2):
        q, k, v = (to_heads(b, b.linear(x, 32, 32, f"{p}{layer}"), 0, 0, 4, 8) for p in "qkv")
        scores = b.op("Div", b.op("MatMul", q, b.transpose(k, 0, 1, 3, 2)), b.scalar(8**0.5))
        y = b.transpose(b.op("MatMul", b.op("Softmax", scores, axis=-1), v), 0, 2, 1, 3)
        y = b.linear(b.reshape(y, 0, 0, 32), 32, 32, f"o{layer}")
        x = b.layernorm(b.op("Add", y, x), 32, f"ln{layer}a")
        y = b.linear(x, 32, 24, f"up{layer}")
        gate = b.op("Add", b.op("Erf", b.op("Div", y, b.scalar(2**0.5))), b.scalar(1))
        y = b.op("Mul", b.op("Mul", y, gate), b.scalar(0.5))
        x = b.layernorm(b.op("Add", b.linear(y, 24, 32, f"down{layer}"), x), 32, f"ln{layer}b")
    return b.build(b.linear(x, 32, 7, "head"))


def test_transformer_optimiser(tmp_path: Path) -> None:
    """Packed projections: 4 heads, 8 dims of q and k and 8 of v per layer."""
    optimizer = pytest.importorskip("onnxruntime.transformers.optimizer")
    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    onnx.save(bert(), tmp_path / "bert.onnx")
    optimizer.optimize_model(
        str(tmp_path / "bert.onnx"), model_type="bert", num_heads=4, hidden_size=32, opt_level=0
    ).save_model_to_file(str(tmp_path / "fused.onnx"))
    made = onnx.load(tmp_path / "fused.onnx")
    count = Counter(n.op_type for n in made.graph.node if n.domain == "com.microsoft")
    assert count["Attention"] == 2 and count["SkipLayerNormalization"] == 4 and count["BiasGelu"] == 2
    sizes = [4, 4, 8, 8, 8, 8, 24, 24, 32]
    assert sorted(g.size for g in api.analyze(bert()).groups) == sizes
    check(made, sizes)
