"""Every operator with a rule: op(what is kept of the inputs) = what is kept of op(inputs).

The judges are onnxruntime and onnx's reference evaluator, which know no rule: the only thing taken from the
analysis is which positions it claims to be removed together, and the rewritten node.
"""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from graphprune import api
from graphprune.coupling.cut import Cut
from graphprune.rewrite.onnx import rewrite
from graphprune.rules import all_rules
from tests.cuts import random_cut
from tests.graphs import GRAPHS, Builder
from tests.operators import CASES, Case
from tests.operators.case import Array, Built
from tests.operators.legacy import upgraded
from tests.operators.reference import REFERENCES

SEEDS = 4
NOT_NODES = {"graphprune.AxisPermute"}  # made by the loader out of three nodes, see test_channel_shuffle


def evaluate(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """Outputs in onnxruntime without optimisation, or in the reference where onnxruntime has no kernel."""
    model = upgraded(model)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:
        return [np.asarray(a) for a in ReferenceEvaluator(model, new_ops=REFERENCES).run(None, feeds)]
    return list(session.run(None, feeds))


def with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """The model with other outputs."""
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names)
    del model.graph.value_info[:]
    return model


def positions(cut: Cut, name: str, shape: tuple[int, ...]) -> list[Array]:
    """Kept positions of every axis, as the analysis claims."""
    kept = [cut.kept(name, a) for a in range(len(shape))]
    return [np.arange(n) if k is None else k for n, k in zip(shape, kept, strict=True)]


def box(array: Array, kept: list[Array]) -> Array:
    """The kept box of an array."""
    return array[np.ix_(*kept)] if kept else array


def wanted(built: Built, cut: Cut, full: dict[str, Array]) -> list[Array]:
    """What the operator must give at the kept positions, in the terms of the case."""
    one = built.case
    if one.judge is not None:
        names = [n for n in built.arguments if n]
        inputs = [full[_stored(full, n)] for n in names]
        return one.judge(inputs, [positions(cut, n, a.shape) for n, a in zip(names, inputs, strict=True)], built.sizes)
    if one.restricted:
        cuts = {n: box(a, positions(cut, n, a.shape)) if n in built.sources else a for n, a in full.items()}
        return evaluate(built.subject(cuts), built.feeds)
    zeroed = {n: a.copy() for n, a in full.items()}
    for name, words in built.sources.items():
        for a, token in enumerate(words):
            kept = cut.kept(name, a)
            if kept is not None and token in one.zero.split():
                gone = np.setdiff1d(np.arange(full[name].shape[a]), kept)
                zeroed[name][(slice(None),) * a + (gone,)] = one.nothing
    outs = evaluate(built.subject(zeroed), built.feeds)
    return [box(o, positions(cut, n, o.shape)) for n, o in zip(built.outs, outs, strict=True)]


def _stored(full: dict[str, Array], name: str) -> str:
    return f"{name}_stored" if f"{name}_stored" in full else name


def expected_units(built: Built) -> int:
    return sum(built.case.counts(built.sizes).values()) + built.case.extra


def check_axes(built: Built, deps: api.DependencyGraph) -> None:
    """Every axis of every source is held by exactly the units that the case states: no more, no fewer."""
    free = built.case.counts(built.sizes)
    for name, words in built.sources.items():
        for a, word in enumerate(words):
            if word.startswith("?"):
                continue
            factors = {word} if word.isdigit() else {f for f in re.split(r"[*+]", word) if not f.isdigit()}
            axis = deps.types[name][a] if name in deps.types else None
            held = 0 if axis is None or axis.units is None else len(np.setdiff1d(axis.units, [0]))
            assert held == sum(free[f] for f in factors & set(free)), f"{name}[{a}] = {word}"


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("one", CASES, ids=lambda c: c.label)
def test_operator(one: Case, seed: int) -> None:
    built = Built(one, seed)
    plain = evaluate(built.subject(), built.feeds)
    model = built.whole(dict(zip(built.outs, plain, strict=True)))
    deps = api.analyze(model)
    assert deps.units == expected_units(built), {g.name: g.size for g in deps.groups}
    check_axes(built, deps)
    for attempt in range(3):
        cut = random_cut(deps, 10 * seed + attempt)
        if cut is None:
            assert not deps.units
            return
        pruned = with_outputs(ir.to_proto(rewrite(cut)), built.outs)
        for tensor in pruned.graph.initializer:
            if tensor.name in built.sources:
                source = built.stored[tensor.name]
                expected = box(source, positions(cut, tensor.name, source.shape))
                np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), expected)
        got = evaluate(pruned, built.feeds)
        for a, b in zip(wanted(built, cut, built.stored), got, strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(b, a, rtol=2e-5, atol=2e-5)


def test_every_rule_has_a_case() -> None:
    """Control flow has graphs of its own (tests/graphs/control.py): a case has no body. PyTorch's are in tests/aten."""
    control = {r.op for r in all_rules() if r.kind == "CONTROL"}
    built = {n.op_type for make in GRAPHS.values() for n in make().graph.node}
    assert {op for op in control if "." not in op} <= built
    ruled = {r.op for r in all_rules() if not r.op.startswith(("aten.", "graphprune.opaque"))}
    assert ruled - NOT_NODES - control <= {c.op for c in CASES}


def test_labels_are_unique() -> None:
    labels = [c.label for c in CASES]
    assert sorted(set(labels)) == sorted(labels)


def _source(size: tuple[int, ...], op: str, *operands: Array, outs: int = 1, **more: object) -> onnx.ModelProto:
    """``op`` on a stored tensor in which every axis is free; its first output is weighted and summed."""
    opset = int(more.pop("opset", 20))  # type: ignore[call-overload]
    rng = np.random.default_rng(0)
    stored = {"x": rng.standard_normal(size).astype(np.float32), "zero": np.float32(0)}
    names = [f"operand{i}" for i in range(len(operands))]
    stored |= dict(zip(names, operands, strict=True))
    outputs = ["out0"] if outs == 1 else ["", "out0"]
    nodes = [
        onnx.helper.make_node("Add", ["x", "zero"], ["data"]),
        onnx.helper.make_node(op, ["data", *names], outputs, name="subject", **more),
        onnx.helper.make_node("ReduceSum", ["out0"], ["sum"], keepdims=0),
    ]
    weights = [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in stored.items()]
    total = onnx.helper.make_tensor_value_info("sum", onnx.TensorProto.FLOAT, [])
    graph = onnx.helper.make_graph(nodes, "case", [], [total], weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)


def test_reshape_attribute() -> None:
    """Opset 1 has the target in an attribute; nothing at hand runs it."""
    model = _source((2, 12), "Reshape", opset=1, shape=[2, 3, -1])
    for name, shape in {"data": [2, 12], "out0": [2, 3, 4]}.items():  # schemas that old infer nothing
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    deps = api.analyze(model)
    assert sorted(g.size for g in deps.groups) == [2, 3, 4]
    for seed in range(5):
        cut = random_cut(deps, seed)
        assert cut is not None
        node = next(n for n in ir.to_proto(rewrite(cut)).graph.node if n.op_type == "Reshape")
        assert len(node.input) == 1
        assert list(node.attribute[0].ints) == [len(k) for k in positions(cut, "out0", (2, 3, 4))]


def test_group_normalization_18() -> None:
    """One scale per group; the operator is deprecated and nothing at hand runs it."""
    scale, bias = np.ones(3, np.float32), np.arange(3, dtype=np.float32)
    deps = api.analyze(_source((2, 12, 5), "GroupNormalization", scale, bias, opset=18, num_groups=3))
    assert sorted(g.size for g in deps.groups) == [2, 3, 4, 5]
    for seed in range(5):
        cut = random_cut(deps, seed)
        assert cut is not None
        kept = positions(cut, "x", (2, 12, 5))[1]
        groups = sorted({int(c) // 4 for c in kept})
        graph = ir.to_proto(rewrite(cut)).graph
        node = next(n for n in graph.node if n.op_type == "GroupNormalization")
        assert node.attribute[0].i == len(groups)
        tensors = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
        assert tensors["operand1"].tolist() == groups


def test_split_with_an_output_left_out() -> None:
    """Where the second part begins cannot be told: nothing may leave."""
    model = _source((2, 6), "Split", np.array([2, 4]), outs=2, axis=1)
    assert not api.analyze(model).units


def test_channel_shuffle() -> None:
    """Three nodes that permute an axis: every position is free, and the permutation is kept."""
    rng = np.random.default_rng(0)
    x, last = rng.standard_normal((2, 6)).astype(np.float32), rng.standard_normal((6, 1)).astype(np.float32)
    b = Builder("shuffle")
    data = b.op("Add", b.const(x, "x"), b.scalar(0))
    out = b.reshape(b.transpose(b.reshape(data, 2, 2, 3), 0, 2, 1), 2, 6)
    deps = api.analyze(b.build(b.op("ReduceSum", b.op("MatMul", out, b.const(last, "last")), keepdims=0)))
    assert sorted(g.size for g in deps.groups) == [2, 6]
    perm = np.arange(6).reshape(2, 3).T.ravel()
    for seed in range(5):
        cut = random_cut(deps, seed)
        assert cut is not None
        rows, columns = positions(cut, "x", x.shape)
        wanted_columns = [np.flatnonzero(columns == p)[0] for p in perm if p in columns]
        got = evaluate(with_outputs(ir.to_proto(rewrite(cut)), [out]), {})[0]
        np.testing.assert_array_equal(got, x[np.ix_(rows, columns)][:, wanted_columns])
