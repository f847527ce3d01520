"""Control flow: branches, loops, scans and local functions, with weights inside and outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper, parser

from tests.graphs.builder import Builder
from tests.graphs.registry import golden

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto


def body(text: str, outer: str = "", **weights: np.ndarray) -> GraphProto:
    """A graph in onnx's text form, %s standing for a value of the outer scope, with initializers of its own."""
    graph = parser.parse_graph(text.replace("%s", outer))
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.SetInParent()  # the text form has no word for a scalar
    graph.initializer.extend(numpy_helper.from_array(w, name) for name, w in weights.items())
    return graph


@golden(6, 7, 12)
def if_own_weights() -> ModelProto:
    """Both branches keep their weights inside, under the same names: 6 units go in, 12 come out, 7 are inside."""
    b = Builder("if_own_weights")
    x = b.op("Relu", b.linear(b.source("x", ["n", 10]), 10, 6, "first", bias=False))
    then = body(
        "then () => (float[n, 12] then_out) { h = MatMul(%s, w) r = Relu(h) then_out = MatMul(r, v) }",
        x,
        w=b.sample(6, 7, fan_in=6),
        v=b.sample(7, 12, fan_in=7),
    )
    other = body("other () => (float[n, 12] else_out) { else_out = MatMul(%s, w) }", x, w=b.sample(6, 12, fan_in=6))
    x = b.op("If", b.source("flag", [], TensorProto.BOOL), then_branch=then, else_branch=other)
    return b.build(b.linear(b.op("Relu", x), 12, 5, "classifier"))


@golden(6, 8, 9)
def if_nested() -> ModelProto:
    """An If inside an If: what any of three ways makes is the same 8 units; 6 in front; 9 inside the inner branch."""
    b = Builder("if_nested")
    x = b.op("Relu", b.linear(b.source("x", ["n", 10]), 10, 6, "first"))
    flag, deep = b.source("flag", [], TensorProto.BOOL), b.source("deep", [], TensorProto.BOOL)
    left = body(
        "left () => (float[n, 8] left_out) { h = MatMul(%s, lw) r = Tanh(h) left_out = MatMul(r, lv) }",
        x,
        lw=b.sample(6, 9, fan_in=6),
        lv=b.sample(9, 8, fan_in=9),
    )
    right = body("right () => (float[n, 8] right_out) { right_out = MatMul(%s, rw) }", x, rw=b.sample(6, 8, fan_in=6))
    inner = helper.make_node("If", [deep], ["inner_out"], name="inner_if", then_branch=left, else_branch=right)
    out = helper.make_tensor_value_info("inner_out", TensorProto.FLOAT, ["n", 8])
    then = helper.make_graph([inner], "then", [], [out])
    b.weight(6, 8, fan_in=6, name="outer_weight")
    other = body("other () => (float[n, 8] else_out) { m = MatMul(%s, outer_weight) else_out = Sigmoid(m) }", x)
    x = b.op("If", flag, then_branch=then, else_branch=other)
    return b.build(b.linear(b.op("Relu", x), 8, 5, "classifier"))


@golden(6)
def if_pass_through() -> ModelProto:
    """One branch hands an outer value on, the other makes one: all of it is tied to the 6 outer units."""
    b = Builder("if_pass_through")
    x = b.op("Relu", b.linear(b.source("x", ["n", 10]), 10, 6, "first"))
    then = body("then () => (float[n, 6] then_out) { then_out = Identity(%s) }", x)
    other = body("other () => (float[n, 6] else_out) { else_out = MatMul(%s, w) }", x, w=b.sample(6, 6, fan_in=6))
    x = b.op("If", b.source("flag", [], TensorProto.BOOL), then_branch=then, else_branch=other)
    return b.build(b.linear(x, 6, 5, "classifier"))


@golden(6)
def if_of_different_ranks() -> ModelProto:
    """A squeeze that the sizes decide, as tracing exporters write it: the branch not taken binds nothing."""
    b = Builder("if_of_different_ranks")
    x = b.op("Relu", b.linear(b.source("x", ["n", "t", 10]), 10, 6, "first"))
    condition = b.op("Equal", b.op("Gather", b.op("Shape", x), b.const(np.int64(1)), axis=0), b.const(np.int64(1)))
    then = body("then () => (float[a, c] then_out) { then_out = Squeeze(%s, axes) }", x, axes=np.array([1]))
    other = body("other () => (float[a, b, c] else_out) { else_out = Identity(%s) }", x)
    x = b.op("If", condition, then_branch=then, else_branch=other)
    return b.build(b.linear(b.reshape(x, -1, 6), 6, 5, "classifier"))


@golden(8, 11)
def loop_recurrence() -> ModelProto:
    """Three turns h := tanh(h U) + relu(h A) B with outer weights: 8 carried units, 11 inside."""
    b = Builder("loop_recurrence")
    h = b.op("Relu", b.linear(b.source("x", ["n", 10]), 10, 8, "first"))
    names = [b.weight(*s, fan_in=s[0], name=n) for n, s in (("U", (8, 8)), ("A", (8, 11)), ("B", (11, 8)))]
    turn = body(
        "turn (int64[] i, bool[] go, float[n, 8] h) => (bool[] again, float[n, 8] next) {"
        " again = Identity(go) u = MatMul(h, U) t = Tanh(u) a = MatMul(h, A) r = Relu(a) c = MatMul(r, B)"
        " next = Add(t, c) }"
    )
    assert names == ["U", "A", "B"]
    x = b.op("Loop", b.const(np.int64(3)), "", h, body=turn)
    return b.build(b.linear(b.reshape(x, -1, 8), 8, 5, "classifier"))


@golden(8)
def loop_with_slices() -> ModelProto:
    """A loop whose number of turns is an input: 8 carried units, stacked for every turn and read behind it."""
    b = Builder("loop_with_slices")
    h = b.op("Relu", b.linear(b.source("x", [2, 10]), 10, 8, "first"))
    b.weight(8, 8, fan_in=8, name="U")
    turn = body(
        "turn (int64[] i, bool[] go, float[2, 8] h) => (bool[] again, float[2, 8] next, float[2, 8] seen) {"
        " again = Identity(go) u = MatMul(h, U) next = Tanh(u) seen = Relu(next) }"
    )
    last, seen = b.ops(
        "Loop", b.source("turns", [], TensorProto.INT64), b.const(np.array(True)), h, outputs=2, body=turn
    )
    mean = b.op("ReduceMean", seen, b.ints(0), keepdims=0)
    return b.build(b.linear(b.reshape(b.op("Add", last, mean), -1, 8), 8, 5, "classifier"))


@golden(6, 8)
def loop_that_grows() -> ModelProto:
    """A carried tensor gets a row more every turn: that axis stays, its 8 columns are free, as are 6 in front."""
    b = Builder("loop_that_grows")
    h = b.op("Relu", b.linear(b.source("x", [2, 10]), 10, 6, "first"))
    rows = b.op("MatMul", h, b.weight(6, 8, fan_in=6, name="second.weight"))
    b.weight(6, 8, fan_in=6, name="V")
    turn = body(
        "turn (int64[] i, bool[] go, float[m, 8] rows) => (bool[] again, float[k, 8] more) {"
        " again = Identity(go) v = MatMul(%s, V) more = Concat<axis = 0>(rows, v) }",
        h,
    )
    x = b.op("Loop", b.const(np.int64(2)), "", rows, body=turn)
    x = b.op("ReduceMean", x, b.ints(0), keepdims=1)
    return b.build(b.linear(b.reshape(x, -1, 8), 8, 5, "classifier"))


@golden(5, 7, 9)
def scan_cell() -> ModelProto:
    """A recurrent cell as a Scan over time: 9 carried units, 7 embedded inputs, 5 outputs of every step."""
    b = Builder("scan_cell")
    x = b.op("Relu", b.linear(b.source("x", ["t", 3, 10]), 10, 7, "embed"))
    for name, shape in (("W", (7, 9)), ("R", (9, 9)), ("O", (9, 5))):
        b.weight(*shape, fan_in=shape[0], name=name)
    cell = body(
        "cell (float[3, 9] h, float[3, 7] x) => (float[3, 9] next, float[3, 5] y) {"
        " w = MatMul(x, W) r = MatMul(h, R) s = Add(w, r) next = Tanh(s) o = MatMul(next, O) y = Relu(o) }"
    )
    start = b.const(np.zeros((3, 9), np.float32), "start")
    last, steps = b.ops("Scan", start, x, outputs=2, body=cell, num_scan_inputs=1)
    y = b.op("ReduceSum", steps, b.ints(0), keepdims=0)
    return b.build(b.linear(y, 5, 4, "head"), b.linear(last, 9, 2, "other"))


@golden(5, 6)
def scan_other_axes() -> ModelProto:
    """Scanned and stacked along the second axis, backwards; the running sum carries the 6 inputs' labels."""
    b = Builder("scan_other_axes")
    x = b.op("Relu", b.linear(b.source("x", [3, 4, 10]), 10, 6, "embed"))
    b.weight(6, 5, fan_in=6, name="O")
    cell = body(
        "cell (float[3, 6] sum, float[3, 6] x) => (float[3, 6] total, float[3, 5] y) {"
        " total = Add(sum, x) o = MatMul(total, O) y = Relu(o) }"
    )
    scan = {"scan_input_axes": [1], "scan_output_axes": [-2], "scan_input_directions": [1]}
    start = b.const(np.zeros((3, 6), np.float32), "start")
    last, steps = b.ops("Scan", start, x, outputs=2, body=cell, num_scan_inputs=1, **scan)
    y = b.linear(steps, 5, 4, "head")
    return b.build(y, b.linear(last, 6, 2, "other"))


@golden(4, 8)
def conv_in_branches() -> ModelProto:
    """Convolutions with batch norm inside branches, one of them grouped by 2: 8 channels (whole groups: 4 offsets)."""
    b = Builder("conv_in_branches")
    x = b.conv_relu(b.source("x", ["n", 3, 8, 8]), 3, 8, name="stem")
    then = body(
        "then () => (float[n, 4, 8, 8] then_out) { c = Conv<pads = [1, 1, 1, 1]>(%s, w)"
        " then_out = BatchNormalization(c, scale, bias, mean, var) }",
        x,
        w=b.sample(4, 8, 3, 3, fan_in=72),
        scale=b.sample(4, offset=1, fan_in=9),
        bias=b.sample(4),
        mean=b.sample(4),
        var=b.rng.uniform(0.5, 1.5, 4).astype(np.float32),
    )
    other = body(
        "other () => (float[n, 4, 8, 8] else_out) { else_out = Conv(%s, w) }", x, w=b.sample(4, 8, 1, 1, fan_in=8)
    )
    x = b.op("If", b.source("flag", [], TensorProto.BOOL), then_branch=then, else_branch=other)
    return b.build(b.classifier(b.op("Relu", x), 4))


@golden(7, 9)
def local_function() -> ModelProto:
    """One function called with two sets of weights, of 7 and of 9 units: each call is cut on its own."""
    b = Builder("local_function")
    x = b.source("x", ["n", 10])
    for i, width in enumerate((7, 9)):
        weights = [b.weight(10, width, fan_in=10, name=f"w{i}"), b.weight(width, 10, fan_in=width, name=f"v{i}")]
        out = b.fresh("block")
        b.nodes.append(helper.make_node("Block", [x, *weights], [out], name=f"block{i}", domain="local"))
        x = b.hint(out, 2, 10)
    function = parser.parse_function(
        '<opset_import: ["" : 20], domain: "local"> Block (x, w, v) => (y)'
        " { h = MatMul(x, w) r = Gelu(h) m = MatMul(r, v) y = Add(x, m) }"
    )
    return b.build_with(function, x)
