"""Graphs on which something was wrong once, reduced by hand; found by the stress run unless told."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, parser

from graphprune import api
from graphprune.errors import InputError
from graphprune.folding.analysis import Folding
from tests.cuts import assert_random_removals_verify, pruned_and_checked, random_cut, random_fibres
from tests.graphs import Builder

GRAPHS: dict[str, tuple[Callable[[], ModelProto], list[int]]] = {}


def graph(*sizes: int) -> Callable[[Callable[[], ModelProto]], Callable[[], ModelProto]]:
    """Register a graph with the sizes of its groups."""

    def decorate(make: Callable[[], ModelProto]) -> Callable[[], ModelProto]:
        GRAPHS[make.__name__] = (make, sorted(sizes))
        return make

    return decorate


@graph(3, 5)
def indices_that_are_computed_from_channels() -> ModelProto:
    """A Gather's output has the axes of its indices: what is cut there is cut in the output, too."""
    b = Builder("g")
    x = b.source("x", [2, 4])
    data = b.linear(x, 4, 3, "data")
    index = b.op("ArgMax", b.reshape(b.linear(x, 4, 20, "index"), 2, 5, 4), axis=2, keepdims=0)
    index = b.op("Min", index, b.const(np.int64(1)))
    out = b.op("Gather", data, index, axis=0)  # [2, 5, 3]
    out = b.op("MatMul", b.transpose(out, 0, 2, 1), b.weight(5, 2, name="over_indices"))
    return b.build(b.op("MatMul", b.transpose(out, 0, 2, 1), b.weight(3, 2, name="over_data")))


def _read_from_the_front(width: int, *, summed: bool) -> ModelProto:
    """Elements of four rows of five, at computed indices that are ``width`` wide."""
    b = Builder("g")
    data = b.linear(b.source("x", [4, 3]), 3, 5, "data")
    floats = b.const(np.full((4, width), 2.5, np.float32), "float_index")
    index = b.op("Cast", b.op("Floor", floats), to=TensorProto.INT64)
    out = b.op("MatMul", b.weight(2, 4, name="last"), b.op("GatherElements", data, index, axis=0))
    return b.build(b.linear(out, width, 2, "sum") if summed else out)


@graph(2, 4)
def gather_elements_reads_from_the_front() -> ModelProto:
    """Indices narrower than the data leave its last columns unread: those may leave, the others go with the indices'
    (found by the black-box oracle)."""
    return _read_from_the_front(3, summed=False)


@graph(2, 3, 4)
def gather_elements_reads_a_free_front() -> ModelProto:
    """The same with a consumer over the columns that are read."""
    return _read_from_the_front(3, summed=True)


@graph(6)
def an_operator_of_onnxruntime_alone() -> ModelProto:
    """onnx's checker knows no SimplifiedLayerNormalization; the original file has the same fault."""
    b = Builder("g")
    x = b.linear(b.source("x", [2, 4]), 4, 6, "first")
    x = b.hint(b.op("SimplifiedLayerNormalization", x, b.weight(6, offset=1, name="scale"), axis=-1), 2, 6)
    out = b.linear(x, 6, 3, "last")
    value = helper.make_tensor_value_info(out, TensorProto.FLOAT, [2, 3])
    weights = list(b.initializers.values())
    made = helper.make_graph(b.nodes, "g", b.inputs, [value], weights, value_info=b.hints)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@graph(5)
def attention_with_one_head_of_one_dim() -> ModelProto:
    """A single position split into (1, 1) has no factor to hold its unit: it may not leave unseen (found by the
    black-box oracle)."""
    b = Builder("g")
    x = b.linear(b.source("x", [2, 4, 3]), 3, 5, "first")
    packed = b.weight(5, 3, name="packed"), b.weight(3, name="bias")
    x = b.op("Attention", x, *packed, domain="com.microsoft", num_heads=1, qkv_hidden_sizes=[1, 1, 1])
    b.hint(x, 2, 4, 1)
    return b.build(b.hint(b.linear(x, 1, 2, "last"), 2, 4, 2))


@graph(2, 6)
def copies_of_a_tile() -> ModelProto:
    """Whole copies may leave, or columns of all of them: another copy for every column is nothing a Tile makes."""
    b = Builder("g")
    x = b.op("Tile", b.linear(b.source("x", [2, 3]), 3, 6, "first"), b.ints(1, 2))
    return b.build(b.linear(b.op("Tanh", x), 12, 2, "last"))


@graph(3, 3, 5)
def padding_in_front_and_behind() -> ModelProto:
    """Padded positions may leave, the same ones in all rows: a Pad has as many in front of one row as of another."""
    b = Builder("g")
    x = b.reshape(b.linear(b.source("x", [1, 4]), 4, 15, "first"), 3, 5)
    x = b.op("Pad", x, b.ints(0, 1, 0, 2), b.scalar(0.5))
    return b.build(b.linear(b.op("Tanh", b.reshape(x, 1, 24)), 24, 2, "last"))


@graph(4)
def an_integer_product_before_where() -> ModelProto:
    """Opset 7 knows no Where, and Gemm has a bias there, which onnxruntime's own integer product need not have."""
    b = Builder("g", opset=7)
    x = b.linear(b.source("x", [2, 3]), 3, 4, "first")
    x = b.op("Cast", b.op("Abs", b.op("Mul", x, b.scalar(10.0))), to=TensorProto.UINT8)
    weight = b.const(np.arange(8, dtype=np.uint8).reshape(4, 2), "second")
    scales, zeros = (b.scalar(0.1), b.scalar(0.2)), (b.const(np.uint8(3)), b.const(np.uint8(2)))
    x = b.op("QGemm", x, scales[0], zeros[0], weight, scales[1], zeros[1], domain="com.microsoft")
    return b.build(b.hint(x, 2, 2))


@graph(4)
def random_numbers() -> ModelProto:
    """Numbers that are drawn anew in every run are the same ones in both models that are compared."""
    b = Builder("g")
    x = b.linear(b.source("x", [2, 3]), 3, 4, "first")
    x = b.linear(b.op("Tanh", x), 4, 2, "last")
    return b.build(b.op("Add", x, b.op("RandomNormalLike", x)))


@graph(7)
def a_batch_transposed_in_half_precision() -> ModelProto:
    """onnxruntime's fusion of the Transpose into the MatMul ends the process in float16: it has to be left out."""
    b = Builder("g")
    x = b.op("MatMul", b.source("x", [1, 2, 3], TensorProto.FLOAT16), b.const(b.sample(3, 4).astype(np.float16)))
    turned = b.transpose(x, 1, 2, 0)
    x = b.op("MatMul", turned, b.const(b.sample(1, 7).astype(np.float16)))
    last = b.op("MatMul", b.reshape(turned, 2, 4), b.const(b.sample(4, 2).astype(np.float16)))
    return b.build(b.op("MatMul", x, b.const(b.sample(7, 2).astype(np.float16))), last)


@graph(4)
def a_product_with_a_vector_of_data() -> ModelProto:
    """The bounds of a product's rows were laid along an axis that a vector operand does not leave."""
    b = Builder("g")
    x = b.source("x", [3, 5])
    vector = b.op("ReduceMean", b.linear(x, 5, 4, "vector"), b.ints(0), keepdims=0)
    return b.build(b.op("MatMul", b.linear(x, 5, 4, "rows"), vector))


@graph(5)
def a_sum_over_an_unknown_number_of_columns() -> ModelProto:
    """How many columns pass a test on data is not known when bounds are taken."""
    b = Builder("g")
    x = b.source("x", [2, 6])
    first = b.op("ReduceSum", b.op("Abs", x), b.ints(0), keepdims=0)
    chosen = b.op("Compress", x, b.op("GreaterOrEqual", first, b.scalar(0)), axis=1)
    x = b.op("MatMul", chosen, b.weight(6, 3, name="over_chosen"))
    return b.build(b.linear(b.op("Relu", b.linear(x, 3, 5, "inner")), 5, 2, "last"))


@graph(6)
def legacy_dropout_with_a_mask() -> ModelProto:
    """The mask of an old Dropout has no known rank; nothing reads it."""
    b = Builder("g", opset=9)
    x = b.linear(b.source("x", [2, 4]), 4, 6, "first")
    return b.build(b.linear(b.ops("Dropout", x, outputs=2)[0], 6, 3, "last"))


@graph(3, 4)
def depth_in_front_of_its_blocks() -> ModelProto:
    """SpaceToDepth in CRD mode, new in opset 28; from onnx's operator tests."""
    b = Builder("g", opset=28)
    x = b.conv_relu(b.source("x", [2, 3, 8, 8]), 3, 4, name="stem")
    x = b.op("SpaceToDepth", x, blocksize=2, mode="CRD")
    return b.build(b.conv(b.conv_relu(x, 16, 3, name="inner"), 3, 2, name="head"))


@pytest.mark.parametrize("name", GRAPHS)
def test_removals_verify(name: str) -> None:
    make, sizes = GRAPHS[name]
    model = make()
    assert sorted(g.size for g in api.analyze(model).groups) == sizes
    assert assert_random_removals_verify(model, range(8)) == 8
    for seed in range(4):
        cut = random_cut(random_fibres(api.analyze(model), seed), seed)
        assert cut is not None
        cut = Folding(cut.deps).folded(cut)
        verdict = pruned_and_checked(cut, seed)[1]
        assert verdict.passed, verdict.text
        assert verdict.tolerance <= 1e-3, verdict.text


def test_a_type_that_an_operator_does_not_take_is_refused() -> None:
    """onnx's shape functions raise a checker's error there, which was no deliberate one."""
    b = Builder("g")
    out = b.op("And", b.linear(b.source("x", [2, 4]), 4, 6), b.weight(6))
    value = helper.make_tensor_value_info(out, TensorProto.BOOL, [2, 6])
    made = helper.make_graph(b.nodes, "g", b.inputs, [value], list(b.initializers.values()))
    with pytest.raises(InputError, match="unsupported type"):
        api.analyze(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


@pytest.mark.parametrize(
    "text",
    [
        """<ir_version: 13, opset_import: ["": 26, "ai.onnx.preview": 1]>
        g (float[1, 2, 3, 4] q) => (float[1, 2, 3, 4] y) {
           y = ai.onnx.preview.FlexAttention (q, q, q) <score_mod: graph = body (float[b, h, l, s] scores)
              => (float[b, h, l, s] out) <float bias = {0.5}> { out = Add (scores, bias) }>
        }""",
        """<ir_version: 3, opset_import: ["": 8]>
        g (float[1, 2] first, float[1, 3, 2] x) => (float[1, 2] y, float[1, 3, 2] z) {
           y, z = Scan ("", first, x) <num_scan_inputs: int = 1, body: graph = body (float[2] sum, float[2] next)
              => (float[2] out, float[2] each) { out = Add (sum, next) each = Identity (out) }>
        }""",
    ],
    ids=["a body of an unknown operator with a constant of its own", "Scan with a batch axis"],
)
def test_bodies_that_nothing_looks_into_freeze_what_they_touch(text: str) -> None:
    """Both ended with a traceback; from onnx's operator tests."""
    deps = api.analyze(parser.parse_model(text), allow_io=["."])
    assert not deps.units
    assert len(deps.state.opaque) == 1
