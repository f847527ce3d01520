"""Branches that are left out: found, taken out of the file, and equal to the original with them times zero."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper, numpy_helper

import graphprune as gp
from graphprune.coupling.branches import find_branches
from graphprune.errors import InputError
from graphprune.graph.bypass import bypassed, stand_ins
from graphprune.graph.model import Array, Bypass
from graphprune.rewrite.onnx import rewrite
from graphprune.verify.compare import verify_cut
from tests.graphs import Builder


def times_zero(model: ModelProto, chosen: Iterable[Bypass]) -> ModelProto:
    """The model with the operands multiplied by zero in front of their sums; knows nothing of graphs or regions."""
    out = ModelProto()
    out.CopyFrom(model)
    out.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "nothing"))
    for k, bypass in enumerate(chosen):
        place, node = next((i, n) for i, n in enumerate(out.graph.node) if bypass.value in n.output)
        made = helper.make_node("Mul", [node.input[bypass.slot], "nothing"], [f"silent_{k}"])
        node.input[bypass.slot] = f"silent_{k}"
        out.graph.node.insert(place, made)
    return out


def outputs(model: ModelProto, feed: Mapping[str, Array]) -> list[Array]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(a) for a in session.run(None, dict(feed))]


def proto(graph: Any) -> ModelProto:
    import onnx_ir as ir

    return ir.to_proto(graph.source)


def blocks(b: Builder, x: str, n: int, count: int) -> list[str]:
    """Residual blocks with two convolutions each."""
    made = []
    for k in range(count):
        f = b.conv_bn(b.op("Relu", b.conv_bn(x, n, n, name=f"block{k}.a")), n, n, name=f"block{k}.b")
        x = b.op("Relu", b.op("Add", x, f))
        made.append(x)
    return made


def resnet(count: int = 3, n: int = 8, *, batch: int | str = 1) -> ModelProto:
    b = Builder("resnet", seed=3)
    x = b.conv_relu(b.source("x", [batch, 3, 12, 12]), 3, n, name="stem")
    return b.build(b.classifier(blocks(b, x, n, count)[-1], n))


def transformer(n: int = 16) -> ModelProto:
    """Two pre-norm layers: an attention branch and an MLP branch in each, at a dynamic length."""
    b = Builder("transformer", seed=5)
    x = b.linear(b.source("x", [1, "length", 8]), 8, n, "embed")
    for k in range(2):
        h = b.layernorm(x, n, f"l{k}.ln1")
        q, key, v = (b.linear(h, n, n, f"l{k}.{name}") for name in "qkv")
        weights = b.op("Softmax", b.op("MatMul", q, b.transpose(key, 0, 2, 1)), axis=-1)
        x = b.op("Add", x, b.linear(b.op("MatMul", weights, v), n, n, f"l{k}.out"))
        h = b.op("Relu", b.linear(b.layernorm(x, n, f"l{k}.ln2"), n, 4 * n, f"l{k}.up"))
        x = b.op("Add", b.linear(h, 4 * n, n, f"l{k}.down"), x)
    return b.build(b.linear(x, n, 5, "head"))


def nested() -> ModelProto:
    """A skip over two residual blocks, and a gate on the outer branch."""
    b = Builder("nested", seed=7)
    x = b.conv_relu(b.source("x", [1, 3, 8, 8]), 3, 6, name="stem")
    inner = blocks(b, b.conv_relu(x, 6, 6, name="into"), 6, 2)[-1]
    gate = b.op("Sigmoid", b.conv(b.op("GlobalAveragePool", inner), 6, 6, 1, name="gate"))
    y = b.op("Add", x, b.op("Mul", gate, b.conv(inner, 6, 6, name="back")))
    return b.build(b.classifier(y, 6))


def same(a: list[Array], b: list[Array]) -> bool:
    return all(x.shape == y.shape and np.allclose(x, y, rtol=1e-4, atol=1e-5) for x, y in zip(a, b, strict=True))


def feed(model: ModelProto, seed: int = 0, free: int = 5) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    shapes = {v.name: [d.dim_value or free for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


def test_the_branches_of_a_residual_net() -> None:
    found = find_branches(gp.load(resnet(3)))
    assert [len(b.nodes) for b in found] == [5, 5, 5]
    assert all(b.bypass.slot == 1 for b in found)


def test_a_transformer_has_a_branch_for_attention_and_one_for_the_mlp_in_every_layer() -> None:
    model = transformer()
    found = find_branches(gp.load(model))
    assert [b.bypass.slot for b in found] == [1, 0, 1, 0]
    assert all(len(b.reads) == 1 and b.reads[0] in b.skip for b in found)


def test_branches_lie_inside_branches() -> None:
    found = find_branches(gp.load(nested()))
    inner, outer = found[:2], found[-1]
    assert all(set(b.nodes) < set(outer.nodes) for b in inner)


@pytest.mark.parametrize("make", [resnet, transformer, nested])
def test_each_bypass_equals_the_branch_times_zero(make: Any) -> None:
    model = make()
    graph, given_feed = gp.load(model), feed(model)
    for branch in find_branches(graph):
        less = bypassed(graph, [branch.bypass])
        assert len(less.nodes) <= len(graph.nodes) - len(branch.nodes)
        onnx.checker.check_model(proto(less), full_check=True)
        wanted = outputs(times_zero(model, [branch.bypass]), given_feed)
        assert same(wanted, outputs(proto(less), given_feed))
        assert not same(wanted, outputs(model, given_feed))


def test_what_is_needed_elsewhere_stays() -> None:
    """A branch whose middle is a graph output loses only what comes behind it."""
    b = Builder("tapped")
    x = b.conv_relu(b.source("x", [1, 3, 8, 8]), 3, 6, name="stem")
    middle = b.conv_relu(x, 6, 6, name="middle")
    y = b.op("Add", x, b.conv(middle, 6, 6, name="last"))
    model = b.build(y, middle)
    (branch,) = find_branches(gp.load(model))
    assert len(branch.nodes) == 1
    less = bypassed(gp.load(model), [branch.bypass])
    names = {t.name for t in proto(less).graph.initializer}
    assert "middle.weight" in names
    assert "last.weight" not in names
    assert same(outputs(times_zero(model, [branch.bypass]), feed(model)), outputs(proto(less), feed(model)))


def test_a_sum_that_is_a_graph_output_keeps_its_name() -> None:
    b = Builder("ends")
    x = b.conv_relu(b.source("x", [1, 3, 8, 8]), 3, 6, name="stem")
    model = b.build(b.op("Add", x, b.conv(x, 6, 6, name="f")))
    (branch,) = find_branches(gp.load(model))
    less = proto(bypassed(gp.load(model), [branch.bypass]))
    assert [o.name for o in less.graph.output] == [o.name for o in model.graph.output]
    assert same(outputs(times_zero(model, [branch.bypass]), feed(model)), outputs(less, feed(model)))


def test_sums_of_three_and_differences() -> None:
    b = Builder("three")
    x = b.conv_relu(b.source("x", [1, 3, 8, 8]), 3, 6, name="stem")
    y = b.op("Sum", x, b.conv(x, 6, 6, name="f"), b.conv(x, 6, 6, name="g"))
    z = b.op("Sub", y, b.conv(y, 6, 6, name="h"))
    model = b.build(b.classifier(b.op("Sub", b.conv(z, 6, 6, name="i"), z), 6))
    graph = gp.load(model)
    found = {(b.bypass.value, b.bypass.slot) for b in find_branches(graph)}
    assert found == {(y, 1), (y, 2), (z, 1)}
    chosen = [b.bypass for b in find_branches(graph)]
    for some in ([chosen[0]], chosen[:2], chosen):
        less = proto(bypassed(graph, some))
        assert same(outputs(times_zero(model, some), feed(model)), outputs(less, feed(model)))


def test_what_is_no_branch() -> None:
    """Biases, operands that are spread out, sums of two embeddings, and sums that would lose their last operand."""
    b = Builder("none")
    x = b.source("x", [1, 4, 8])
    wide = b.op("Add", b.linear(x, 8, 6, "a"), b.linear(x, 8, 6, "b"))  # both read the input, neither is a skip
    small = b.op("ReduceMean", wide, b.ints(1), keepdims=1)
    spread = b.op("Add", wide, b.linear(small, 6, 6, "c"))
    model = b.build(b.op("Add", spread, b.weight(1, 4, 6)))
    assert find_branches(gp.load(model)) == []


def test_what_stands_in_for_what() -> None:
    graph = gp.load(resnet(3))
    found = find_branches(graph)
    one, both = bypassed(graph, [found[0].bypass]), bypassed(graph, [b.bypass for b in found])
    assert stand_ins(graph) == {}
    assert stand_ins(one) == {found[0].skip[0]: found[0].bypass.value}
    assert set(stand_ins(both)) <= {v for b in found for v in b.skip}


def test_two_steps_are_as_one() -> None:
    graph = gp.load(resnet(3))
    a, b = (x.bypass for x in find_branches(graph)[:2])
    assert proto(bypassed(bypassed(graph, [a]), [b])) == proto(bypassed(graph, [a, b]))


def test_a_sum_that_is_not_there() -> None:
    graph = gp.load(resnet(1))
    with pytest.raises(InputError, match="no such sum"):
        bypassed(graph, [Bypass("nowhere", 1, "a", "b")])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_random_residual_graphs(data: st.DataObject) -> None:
    """Random blocks, some nested, gated, shared or tapped: any choice of branches equals them times zero."""
    b = Builder("random", seed=data.draw(st.integers(0, 99)))
    n, stream, inside = 4, [], []
    x = b.conv_relu(b.source("x", [1, 3, 6, 6]), 3, n, name="stem")
    for k in range(data.draw(st.integers(1, 5))):
        stream.append(x)
        f = b.conv_relu(x, n, n, data.draw(st.sampled_from([1, 3])), name=f"f{k}")
        inside.append(f)
        kind = data.draw(st.sampled_from(["plain", "gated", "sub", "sum", "project", "inside", "far"]))
        if kind == "gated":
            f = b.op("Mul", f, b.op("Sigmoid", b.conv(x, n, n, 1, name=f"gate{k}")))
        if kind == "inside":
            f = b.op("Add", f, b.conv(f, n, n, name=f"inner{k}"))
        skip = b.conv(x, n, n, 1, name=f"skip{k}") if kind == "project" else x
        skip = data.draw(st.sampled_from(stream)) if kind == "far" else skip
        pair = (skip, f) if data.draw(st.booleans()) or kind == "sub" else (f, skip)
        x = b.op({"sub": "Sub", "sum": "Sum"}.get(kind, "Add"), *pair)
    taps = data.draw(st.lists(st.sampled_from(stream + inside), max_size=1))
    model = b.build(b.classifier(x, n), *(b.conv(t, n, 2, name="tap") for t in taps))
    graph = gp.load(model)
    found = find_branches(graph)
    chosen, sums = [], set()
    for branch in found:
        if branch.bypass.node not in sums and data.draw(st.booleans()):
            chosen.append(branch.bypass)
            sums.add(branch.bypass.node)
    less = bypassed(graph, chosen)
    onnx.checker.check_model(proto(less), full_check=True)
    assert same(outputs(times_zero(model, chosen), feed(model)), outputs(proto(less), feed(model)))
    deps = gp.analyze(less)
    units = np.concatenate([g.units[: g.size // 2] for g in deps.groups])
    cut = deps.cut(units)
    assert verify_cut(cut, rewrite(cut)).passed
