"""Quantised networks: pruned to half their MACs and equal to the masked original, whatever the quantiser wrote."""

from __future__ import annotations

import io
from collections import Counter
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnxruntime.quantization import QuantFormat, QuantType

from graphprune import api
from graphprune.api import load
from graphprune.graph.dequantise import RealValues
from graphprune.graph.run import Runner, random_feeds
from graphprune.plan import planned_cut
from graphprune.rewrite.onnx import rewrite
from graphprune.verify.compare import verify_cut
from graphprune.verify.exact import exact_scales, powers
from graphprune.verify.oracle import masked_reference
from tests.commandline import refused
from tests.cuts import assert_random_removals_verify, random_cut
from tests.graphs import Builder
from tests.graphs.quantised import convnet, decoder, dynamic, mlp, nbits, optimised, static

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

S8, U8 = QuantType.QInt8, QuantType.QUInt8
_STATIC = [
    (how, per_channel, activation, weight, symmetric)
    for how, per_channel, (activation, weight), symmetric in product(
        (QuantFormat.QDQ, QuantFormat.QOperator), (False, True), ((U8, S8), (U8, U8), (S8, S8)), (False, True)
    )
    if not (per_channel and weight == U8)
]


def halved(model: ModelProto, align: int, share: float = 0.5) -> api.Result:
    """Pruned to half the MACs, verified, nothing given up."""
    result = api.prune(model, macs=f"{100 * share}%", align=align)
    assert result.verdict is not None
    assert result.verdict.passed
    assert not result.frozen
    assert 0.8 * share * result.before.macs < result.after.macs <= share * result.before.macs
    return result


def operators(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("align", [1, 8])
@pytest.mark.parametrize("how", _STATIC, ids=lambda h: "-".join(str(getattr(x, "name", x)) for x in h))
def test_static(how: tuple[Any, ...], align: int) -> None:
    """Integer sums are exact, so the outputs are the same to the last bit."""
    form, per_channel, activation, weight, symmetric = how
    model = static(convnet(), form, per_channel=per_channel, activation=activation, weight=weight, symmetric=symmetric)
    assert operators(model)["QLinearConv" if form == QuantFormat.QOperator else "Conv"] == 9
    result = halved(model, align)
    assert result.verdict is not None
    assert result.verdict.error == 0
    assert {g.size for g in result.deps.groups} >= {16, 24, 32, 48}


@pytest.mark.parametrize("align", [1, 8])
@pytest.mark.parametrize("weight", [S8, U8])
@pytest.mark.parametrize("make", [decoder, mlp])
def test_dynamic(make: Any, weight: QuantType, align: int) -> None:
    model = dynamic(make(), per_channel=weight == S8, weight=weight)
    assert operators(model)["MatMulInteger"] == operators(make())["MatMul"] - (4 if make is decoder else 0) + (
        make is mlp
    )
    halved(model, align)


def test_dynamic_fused() -> None:
    model = optimised(dynamic(mlp(), per_channel=True, weight=S8))
    assert operators(model)["DynamicQuantizeMatMul"] == 3
    halved(model, 8)


@pytest.mark.parametrize("align", [1, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("how", "bits"), [(QuantFormat.QOperator, 4), (QuantFormat.QOperator, 8), (QuantFormat.QDQ, 4)]
)
def test_blocks(how: QuantFormat, bits: int, symmetric: bool, align: int) -> None:
    """The summed axes lose whole blocks of 16, with two zero points to a byte blocks of 32."""
    model = nbits(decoder(width=128, inner=512), how, bits, symmetric=symmetric)
    op = "MatMulNBits" if how == QuantFormat.QOperator else "DequantizeLinear"
    assert operators(model)[op] == 13
    result = halved(model, align)
    pruned = result.deps.source.nodes
    widths = {g.size for g in result.deps.groups}
    assert widths >= ({512 // 32} if not symmetric and bits == 4 and op == "MatMulNBits" else {512 // 16})
    assert pruned


@pytest.mark.parametrize("how", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_random_removals(how: QuantFormat) -> None:
    model = static(convnet(), how, per_channel=True, activation=U8, weight=S8, symmetric=False)
    assert assert_random_removals_verify(model, range(12)) == 12
    assert assert_random_removals_verify(nbits(decoder(), how, 4, symmetric=False), range(6)) == 6


def test_integer_input_and_output() -> None:
    """Quantised from end to end: pixels in, integers out."""
    model = static(convnet(), QuantFormat.QOperator, per_channel=True, activation=U8, weight=S8, symmetric=False)
    first, last = model.graph.node[0], model.graph.node[-1]
    assert (first.op_type, last.op_type) == ("QuantizeLinear", "DequantizeLinear")
    model.graph.input[0].name, model.graph.output[0].name = first.output[0], last.input[0]
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    model.graph.node.remove(first)
    model.graph.node.remove(last)
    result = halved(model, 1)
    assert result.deps.source.values[first.output[0]].dtype == "uint8"


@pytest.mark.long
@pytest.mark.parametrize("how", [h for h in _STATIC if h[4] == (h[2] == S8)], ids=str)
@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "shufflenet_v2_x0_5"])
def test_torchvision(name: str, how: tuple[Any, ...]) -> None:
    """Whole networks, with running means from noise instead of training."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("benchmarks.zoo.entries")
    from torchvision import models

    torch.manual_seed(0)
    net = getattr(models, name)()
    with torch.no_grad():
        for _ in range(6):
            net(torch.randn(8, 3, 64, 64))
    file = io.BytesIO()
    torch.onnx.export(
        net.eval(), (torch.randn(1, 3, 64, 64),), file, dynamo=False, input_names=["image"], opset_version=17,
        dynamic_axes={"image": {0: "n"}},
    )  # fmt: skip
    form, per_channel, activation, weight, symmetric = how
    model = onnx.load_from_string(file.getvalue())
    for align in (1, 8):
        halved(
            static(model, form, per_channel=per_channel, activation=activation, weight=weight, symmetric=symmetric),
            align,
        )


# -- what importance reads ------------------------------------------------------------------------------


def reference(model: ModelProto, name: str) -> Any:
    """A value as onnxruntime computes it."""
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {
        i.name: np.zeros([d if isinstance(d, int) else 1 for d in i.shape], np.float32) for i in session.get_inputs()
    }
    return session.run(None, feeds)[0]


@pytest.mark.parametrize("per_channel", [False, True])
def test_real_values_of_dequantised_weights(per_channel: bool) -> None:
    model = static(convnet(), QuantFormat.QDQ, per_channel=per_channel, activation=U8, weight=S8, symmetric=False)
    graph = load(model)
    real = RealValues(graph)
    found = 0
    for node in graph.nodes:
        if node.op == "DequantizeLinear" and node.inputs[0] in graph.weights:
            found += 1
            assert set(node.inputs[1:]) <= real.settings
            copy = onnx.ModelProto.FromString(model.SerializeToString())
            np.testing.assert_allclose(real.read(node.inputs[0]), reference(copy, node.outputs[0]), rtol=1e-6)
    assert found == 20


@pytest.mark.parametrize("form", ["QOperator", "dynamic", "nbits4", "nbits4_zeros", "nbits8", "blocks"])
def test_real_values_are_near_the_float_weights(form: str) -> None:
    """Whatever the storage, the values read are those of the float model to within a step."""
    if form == "QOperator":
        source = convnet()
        model = static(source, QuantFormat.QOperator, per_channel=True, activation=U8, weight=S8, symmetric=False)
    else:
        source = decoder()
        form, _, zeros = form.partition("_")
        how = QuantFormat.QDQ if form == "blocks" else QuantFormat.QOperator
        model = (
            dynamic(source, per_channel=True, weight=S8)
            if form == "dynamic"
            else nbits(source, how, 8 if form == "nbits8" else 4, symmetric=not zeros)
        )
    floats = {t.name: onnx.numpy_helper.to_array(t) for t in source.graph.initializer}
    graph = load(model)
    real = RealValues(graph)
    checked = 0
    for name, weight in graph.weights.items():
        origin = next((f for f in floats if f.endswith(".weight") and weight.source.startswith(f)), None)
        if origin is None or name in real.settings or weight.dtype not in ("int8", "uint8", "int4", "uint4"):
            continue
        values, wanted = np.asarray(real.read(name)), floats[origin]
        if values.size != wanted.size:
            continue
        values = values.reshape(wanted.T.shape).T if form.startswith("nbits") else values.reshape(wanted.shape)
        step = 8 if "4" in form or form == "blocks" else 128
        assert np.abs(values - wanted).max() <= 1.01 * np.abs(wanted).max() / step
        checked += 1
    assert checked >= 9


# -- what verification sees -----------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["scale", "zero_point", "weight", "bias"])
@pytest.mark.parametrize("how", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_a_wrong_slice_is_seen(how: QuantFormat, which: str) -> None:
    """Each kind of stored tensor, read one position off, must not pass as a tipped rounding."""
    source = static(convnet(), how, per_channel=True, activation=U8, weight=S8, symmetric=False)
    deps = api.analyze(source)
    cut = planned_cut(deps, api.plan(deps, macs="50%"))
    good = rewrite(cut)
    assert verify_cut(cut, good).passed
    stem = {"scale": "inner.weight_scale", "weight": "inner.weight_quantized", "bias": "inner.bias_quantized"}
    name = next(n for n in good.graph.initializers if n.startswith(stem.get(which, "inner.weight_zero_point")))
    value = good.graph.initializers[name]
    assert value.const_value is not None
    array = np.roll(value.const_value.numpy(), 1, axis=0)
    value.const_value = ir.Tensor(array + 3 if which == "zero_point" else array, dtype=value.const_value.dtype)
    assert not verify_cut(cut, good).passed


@pytest.mark.parametrize("form", ["float", "blocks", "fused"])
def test_tokens_differ(form: str) -> None:
    """Were all tokens the same, attention would be the same whatever is left of queries and keys."""
    source = decoder()
    if form == "blocks":
        source = nbits(source, QuantFormat.QOperator, 4, symmetric=True)
        assert operators(source)["GatherBlockQuantized"] == 1
    if form == "fused":
        source = embedding()
    drawn = random_feeds(load(source), 1, 0)[1]
    assert len(np.unique(drawn["ids"])) > 10
    assert int(drawn["ids"].max()) < 50
    if form == "fused":
        assert set(np.unique(drawn["segments"])) == {0, 1, 2}


def embedding() -> ModelProto:
    """50 words, 64 places and 3 segments looked up, added and normalised by one operator."""
    b = Builder("embedding")
    ids, segments = (b.source(n, ["b", "s"], onnx.TensorProto.INT32) for n in ("ids", "segments"))
    tables = [b.weight(n, 8) for n in (50, 64, 3)]
    out = b.ops(
        "EmbedLayerNormalization", ids, segments, *tables, b.weight(8), b.weight(8), outputs=2, domain="com.microsoft"
    )
    return b.build(b.linear(b.hint(out[0], "b", "s", 8), 8, 3, "head"))


def test_powers_of_two_depend_on_the_value_alone() -> None:
    scales = np.random.default_rng(0).uniform(1e-4, 1, 400).astype(np.float32)
    found = powers(scales)
    assert np.array_equal(np.log2(found), np.round(np.log2(found)))
    ratio = found / scales
    assert ratio.min() > 0.5
    assert ratio.max() <= 2
    np.testing.assert_array_equal(powers(scales[7:80]), found[7:80])
    np.testing.assert_array_equal(powers(scales[7]), found[7])
    near = powers(np.linspace(0.1, 0.101, 64).astype(np.float32))
    assert len(set(near.tolist())) == 2


def test_exact_twins_are_equal_to_the_last_bit() -> None:
    """Without fused integer kernels, sums of other lengths; every value is exact all the same."""
    source = static(convnet(), QuantFormat.QDQ, per_channel=True, activation=S8, weight=S8, symmetric=True)
    deps = api.analyze(source)
    for seed in range(5):
        cut = random_cut(deps, seed)
        assert cut is not None
        twins = [exact_scales(m) for m in (masked_reference(cut), rewrite(cut))]
        feed = random_feeds(deps.source, 1, seed)[0]
        a, b = (Runner(t, optimize=False)(feed)[0] for t in twins)
        np.testing.assert_array_equal(a, b)


def test_nothing_to_prune_in_weights_packed_across_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes, stored, x = [], [], "x"
    for i in range(2):
        stored += [
            onnx.numpy_helper.from_array(rng.integers(0, 255, 512).astype(np.uint8), f"w{i}"),
            onnx.numpy_helper.from_array(rng.random(32).astype(np.float32), f"scale{i}"),
        ]
        attrs = {"N": 32, "K": 32, "block_size": 32, "quant_type": 1, "transB": 1}
        nodes.append(
            onnx.helper.make_node("MatMulBnb4", [x, f"w{i}", f"scale{i}"], [f"y{i}"], domain="com.microsoft", **attrs)
        )
        x = f"y{i}"
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2, 32]) for n in ("x", x)]
    graph = onnx.helper.make_graph(nodes, "packed", ends[:1], ends[1:], stored)
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("com.microsoft", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "packed.onnx")
    refused(5, "packed in blocks that run across rows", tmp_path / "packed.onnx", tmp_path / "o.onnx", "--macs", "50%")
