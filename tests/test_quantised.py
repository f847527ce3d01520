"""Quantised networks: pruned to half their MACs and equal to the masked original, whatever the quantiser wrote."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnxruntime.quantization import QuantFormat, QuantType

from graphprune import api
from graphprune.graph.dequantise import RealValues
from graphprune.graph.onnx import load
from tests.graphs.quantised import convnet, decoder, dynamic, mlp, nbits, optimised, static

if TYPE_CHECKING:
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
