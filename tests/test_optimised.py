"""Files that onnxruntime's own optimisers wrote: fused operators of its domain, and no recorded shapes."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
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

FOLDED = {"if_branches", "tied_autoencoder", "disentangled_positions"}  # weights become constants of another shape


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
@pytest.mark.parametrize("name", sorted(GOLDEN.keys() - FOLDED))
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


def grouped_query_decoder() -> ModelProto:
    """GroupQueryAttention with rotary tables and caches: 2 key/value heads, 2 queries each, 32 dims."""
    b = Builder("grouped_query_decoder", opset=17)
    x = b.layernorm(b.linear(b.source("hidden", [1, 1, 16]), 16, 24, "embed"), 24, "ln")
    q, k, v = (b.linear(x, 24, 32 * n, p, bias=False) for p, n in (("q", 4), ("k", 2), ("v", 2)))
    past = [b.source(name, [1, 2, 5, 32]) for name in ("past_key", "past_value")]
    angle = np.outer(np.arange(8), 10.0 ** -np.arange(16)).astype(np.float32)
    tables = b.const(np.cos(angle), "cos"), b.const(np.sin(angle), "sin")
    lengths = b.const(np.array([5], np.int32)), b.const(np.array(6, np.int32))
    y, key, value = b.ops(
        "GroupQueryAttention", q, k, v, *past, *lengths, *tables, outputs=3,
        num_heads=4, kv_num_heads=2, do_rotary=1, domain="com.microsoft",
    )  # fmt: skip
    b.hint(y, 1, 1, 128)
    for name in (key, value):
        b.hint(name, 1, 2, 6, 32)
    return b.build(b.linear(y, 128, 7, "o"), key, value)


@pytest.mark.parametrize(
    ("patterns", "kinds"),
    [
        ((), {24: "channels", 2: "heads"}),
        (("past", "GroupQuery"), {24: "channels", 2: "KV groups", 16: "head dims"}),
    ],
)
def test_grouped_query_attention_with_caches(patterns: tuple[str, ...], kinds: dict[int, str]) -> None:
    """Caches hold their key/value heads and rotary pairs, unless the user lets them go."""
    result = api.prune(grouped_query_decoder(), ratio=0.5, allow_io=patterns)
    groups = {g.size: g for g in reversed(result.deps.groups)}
    assert {size: g.kind for size, g in groups.items()} == kinds
    assert result.verdict is not None and result.verdict.passed and not result.frozen
    node = next(n for n in result.model.graph if n.op_type == "GroupQueryAttention")
    heads, keys = (node.attributes[a].as_int() for a in ("num_heads", "kv_num_heads"))
    assert (heads, keys) == ((1, 1) if patterns else (2, 2))
    assert node.attributes.get_float("scale", 0.0) == pytest.approx(32**-0.5)
    caches = {"past_key", "past_value", node.outputs[1].name, node.outputs[2].name}
    assert set(result.plan.io) == (caches if patterns else set())


# -- exports of Hugging Face models ----------------------------------------------------------------------


def exported(name: str, path: Path) -> None:
    """A small model with random weights, exported at fixed sizes."""
    torch, hub = pytest.importorskip("torch"), pytest.importorskip("transformers")
    small = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "intermediate_size": 128}
    tokens = torch.randint(0, 99, (1, 16))
    torch.manual_seed(0)
    if name == "bert":
        model = hub.BertForSequenceClassification(hub.BertConfig(vocab_size=99, max_position_embeddings=16, **small))
    elif name == "gpt2":
        config = hub.GPT2Config(vocab_size=99, n_embd=64, n_layer=2, n_head=4, n_positions=16, use_cache=False)
        model = hub.GPT2LMHeadModel(config)
    elif name == "llama":
        config = hub.LlamaConfig(vocab_size=99, num_key_value_heads=2, use_cache=False, **small)
        model = hub.LlamaForCausalLM(config)
    elif name == "vit":
        model = hub.ViTForImageClassification(hub.ViTConfig(image_size=32, patch_size=8, **small))
        tokens = torch.randn(1, 3, 32, 32)

    class Logits(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = model.eval()

        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.inner(x).logits

    torch.onnx.export(Logits(), (tokens,), str(path), opset_version=18, dynamo=True, verbose=False)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "ops"),
    [
        ("bert", {"SkipLayerNormalization", "FusedMatMul", "FusedGemm"}),
        ("gpt2", {"SkipLayerNormalization", "FusedMatMul", "FastGelu"}),
        ("llama", {"FusedMatMul", "QuickGelu"}),
        ("vit", {"SkipLayerNormalization", "FusedMatMul"}),
    ],
)
def test_exports(name: str, ops: set[str], tmp_path: Path) -> None:
    """Exported and then optimised: the same groups, and half of the MACs leave."""
    exported(name, tmp_path / "plain.onnx")
    plain = api.analyze(tmp_path / "plain.onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    ort.InferenceSession(tmp_path / "plain.onnx", options, providers=["CPUExecutionProvider"])
    assert ops <= fused(onnx.load(tmp_path / "fused.onnx"))
    result = api.prune(tmp_path / "fused.onnx", macs="50%", align=4)
    assert sorted(g.size for g in result.deps.groups) == sorted(g.size for g in plain.groups)
    assert result.verdict is not None and result.verdict.passed and not result.frozen
    assert result.after.macs <= result.before.macs // 2
