"""Networks in half, double and mixed precision: the types stay, the proof is made in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, numpy_helper

from graphprune import api
from graphprune.api import load
from graphprune.importance.base import score
from graphprune.plan import planned_cut
from graphprune.rewrite.onnx import rewrite
from graphprune.verify.compare import verify_cut
from tests.graphs import Builder
from tests.graphs.quantised import convnet, decoder, mlp

if TYPE_CHECKING:
    from onnx import ModelProto

TYPES = {
    "float16": (TensorProto.FLOAT16, np.float16, 20),
    "bfloat16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16, 23),
    "float64": (TensorProto.DOUBLE, np.float64, 20),
}


def in_type(model: ModelProto, name: str) -> ModelProto:
    """The model with every float in another type."""
    code, numpy_type, opset = TYPES[name]
    model.opset_import[0].version = opset
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(numpy_type), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = code
    return model


def types(model: ir.Model) -> dict[str, Any]:
    return {n: v.const_value.dtype for n, v in model.graph.initializers.items() if v.const_value is not None}


@pytest.mark.parametrize("align", [1, 8])
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("make", [convnet, decoder, mlp])
def test_one_type(make: Any, name: str, align: int) -> None:
    model = in_type(make(), name)
    result = api.prune(model, macs="50%", align=align)
    assert result.verdict is not None
    assert result.verdict.error < 1e-6
    assert not result.frozen
    assert 0.4 * result.before.macs < result.after.macs <= 0.5 * result.before.macs
    before, after = types(ir.from_proto(model)), types(result.model)
    assert {n: before[n] for n in after} == after
    code = ir.DataType(TYPES[name][0])
    assert sum(d == code for d in after.values()) >= 6


@pytest.mark.parametrize("make", [convnet, decoder, mlp])
def test_mixed(make: Any) -> None:
    """As onnxruntime's converter writes it: float32 at the ends and in some operators, nodes out of order."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    blocked = ["LayerNormalization", "Softmax", "Relu"]
    model = convert_float_to_float16(make(), keep_io_types=True, op_block_list=blocked)
    assert {n.op_type for n in model.graph.node} >= {"Cast"}
    result = api.prune(model, macs="50%")
    assert result.verdict is not None
    assert result.verdict.error < 1e-6
    before, after = types(ir.from_proto(model)), types(result.model)
    assert {n: before[n] for n in after} == after
    assert ir.DataType.FLOAT16 in after.values()


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_one_wrong_channel_is_seen(name: str) -> None:
    """One output channel is 2 % too large, which the rounding of sums in half precision would hide."""
    model = in_type(convnet(), name)
    deps = api.analyze(model)
    cut = planned_cut(deps, api.plan(model, macs="50%"))
    pruned = rewrite(cut)
    assert verify_cut(cut, pruned).passed
    value = pruned.graph.initializers["outer.weight"]
    assert value.const_value is not None
    array = value.const_value.numpy().copy()
    array[0] *= np.asarray(1.02, array.dtype)
    value.const_value = ir.Tensor(array, dtype=value.const_value.dtype)
    assert not verify_cut(cut, pruned).passed


@pytest.mark.parametrize("criterion", ["l1", "l2"])
@pytest.mark.parametrize(("name", "size"), [("float16", 4e4), ("bfloat16", 1e30), ("float32", 1e30)])
def test_large_weights_are_scored_without_overflow(name: str, size: float, criterion: str) -> None:
    """The squares of these weights fit neither half type, nor float32."""
    model = mlp()
    if name != "float32":
        model = in_type(model, name)
    for tensor in model.graph.initializer:
        if tensor.name == "first.weight":
            array = numpy_helper.to_array(tensor)
            rows = np.linspace(0.5, 1, len(array))[:, None]
            tensor.CopyFrom(
                numpy_helper.from_array((np.ones(array.shape) * rows * size).astype(array.dtype), tensor.name)
            )
    deps = api.analyze(model)
    group = next(g for g in deps.groups if g.size == 48)
    scores = score(deps, criterion, 0)[group.units]
    assert np.isfinite(scores).all()
    assert (np.diff(scores) >= 0).all()
    assert scores[-1] > 1.5 * scores[0]


def test_nodes_out_of_order_are_sorted() -> None:
    b = Builder("sorted")
    x = b.op("Relu", b.gemm(b.source("x", [2, 6]), 6, 8, "first"))
    model = b.build(b.gemm(x, 8, 4, "last"))
    straight = [n.name for n in load(model).nodes]
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(model)
    assert [n.name for n in load(model).nodes] == straight
    assert [n.name for n in model.graph.node] == straight[::-1], "the source was changed"
