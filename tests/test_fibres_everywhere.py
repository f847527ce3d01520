"""Choices per block in every graph and operator at hand: random orders and random cuts, equal to the masked original.

Which factors are free is not looked at here: whatever the analysis calls free is taken at its word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto
from onnxruntime.quantization import QuantFormat, QuantType

from graphprune import api
from graphprune.coupling.fibres import fibred
from graphprune.importance.fibres import ranked
from graphprune.rewrite.onnx import rewrite
from graphprune.verify.compare import verify_cut
from tests.cuts import pruned_and_checked, random_cut, random_fibres, summary
from tests.graphs import GRAPHS, Builder
from tests.graphs.control import body
from tests.graphs.quantised import convnet, decoder, dynamic, nbits, optimised, static
from tests.operators import CASES, Case
from tests.operators.case import Built
from tests.test_fibres import turned
from tests.test_operators import evaluate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from onnx import ModelProto

S8, U8 = QuantType.QInt8, QuantType.QUInt8


def proved(deps: api.DependencyGraph, seeds: Iterable[int]) -> int:
    """How many random cuts with random orders were shown to be right; none may be wrong."""
    count = 0
    for seed in seeds:
        cut = random_cut(random_fibres(deps, seed), seed)
        if cut is None:
            continue
        _, verdict = pruned_and_checked(cut, seed)
        silent = "only equal values" in verdict.text  # what is left of a norm over one position
        assert verdict.passed or silent, f"seed {seed}, {summary(cut)}: {verdict.text}"
        count += verdict.passed
    return count


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(name: str) -> None:
    assert proved(api.analyze(GRAPHS[name]()), (100, 101)) or not api.analyze(GRAPHS[name]()).units


@pytest.mark.long
@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_often(name: str) -> None:
    deps = api.analyze(GRAPHS[name]())
    assert proved(deps, range(200, 230)) or not deps.units


# -- single operators ---------------------------------------------------------------------------------------
def alone(one: Case, seed: int) -> api.DependencyGraph:
    """An operator of the table between tensors in which every axis is free, so that blocks are everywhere."""
    built = Built(one, seed)
    plain = evaluate(built.subject(), built.feeds)
    model = built.whole(dict(zip(built.outs, plain, strict=True)))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        pytest.skip(f"onnxruntime has no kernel: {error}"[:80])
    return api.analyze(model)


@pytest.mark.parametrize("one", CASES, ids=lambda c: c.label)
def test_operators(one: Case) -> None:
    deps = alone(one, 0)
    assert not deps.fibres.factors or proved(deps, range(3))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 9))
@pytest.mark.parametrize("one", CASES, ids=lambda c: c.label)
def test_operators_often(one: Case, seed: int) -> None:
    deps = alone(one, seed)
    assert not deps.fibres.factors or proved(deps, range(8))


# -- integers, fused operators and bodies -------------------------------------------------------------------
def resnext() -> ModelProto:
    """A grouped bottleneck and a block with two outputs per group and channel."""
    b = Builder("resnext")
    x = b.conv_relu(b.source("image", ["n", 3, 12, 12]), 3, 24, 1, "stem")
    y = b.op("Relu", b.conv(b.conv_relu(x, 24, 24, 1, "reduce"), 24, 36, 3, "grouped", group=6))
    x = b.op("Relu", b.op("Add", b.conv(y, 36, 24, 1, "expand"), x))
    x = b.op("Relu", b.conv(x, 24, 48, 3, "doubled", group=24))
    return b.build(b.classifier(x, 48))


def quantised(how: QuantFormat, *, per_channel: bool) -> ModelProto:
    return static(resnext(), how, per_channel=per_channel, activation=U8, weight=S8, symmetric=False)


def conditional() -> ModelProto:
    """One branch convolves in 3 groups, the other in 1."""
    b = Builder("conditional")
    x = b.conv_relu(b.source("image", ["n", 3, 6, 6]), 3, 12, name="stem")
    conv = "Conv<pads = [1, 1, 1, 1], group = {}>(%s, {}) {} = Relu(c) }}"
    shape = "(float[n, 18, 6, 6] {})"
    then = body(
        f"then () => {shape.format('then_out')} {{ c = " + conv.format(3, "w", "then_out"),
        x,
        w=b.sample(18, 4, 3, 3, fan_in=36),
    )
    other = body(
        f"other () => {shape.format('else_out')} {{ c = " + conv.format(1, "v", "else_out"),
        x,
        v=b.sample(18, 12, 3, 3, fan_in=108),
    )
    x = b.op("If", b.source("flag", [], TensorProto.BOOL), then_branch=then, else_branch=other)
    return b.build(b.classifier(b.op("Relu", b.conv(x, 18, 9, 3, "grouped", group=3)), 9))


def repeated() -> ModelProto:
    """A loop whose body has a grouped bottleneck inside, around a state that is grouped as well."""
    b = Builder("repeated")
    x = b.conv_relu(b.source("image", [2, 3, 6, 6]), 3, 12, name="stem")
    for name, shape in (("A", (24, 6, 1, 1)), ("B", (12, 12, 3, 3))):
        b.weight(*shape, fan_in=shape[1] * shape[2] ** 2, name=name)
    turn = body(
        "turn (int64[] i, bool[] go, float[2, 12, 6, 6] h) => (bool[] again, float[2, 12, 6, 6] next) {"
        " again = Identity(go) a = Conv<group = 2>(h, A) r = Relu(a)"
        " c = Conv<group = 2, pads = [1, 1, 1, 1]>(r, B) next = Add(h, c) }"
    )
    x = b.op("Loop", b.const(np.int64(2)), "", x, body=turn)
    return b.build(b.classifier(b.op("Relu", b.hint(x, 2, 12, 6, 6)), 12))


def one_operator(op: str, *, four: bool) -> ModelProto:
    """6 query heads of 4 dims on 3 key heads (where the operator has groups) in one operator, 5 dims of v."""
    b = Builder("one_operator", opset=23 if op == "Attention" else 20)
    heads, groups = (6, 3) if op == "Attention" else (6, 6)
    x = b.op("Relu", b.linear(b.source("x", [2, 7, 10]), 10, 9, "embed"))
    q, k, v = (b.linear(x, 9, n * d, s) for s, n, d in (("q", heads, 4), ("k", groups, 4), ("v", groups, 5)))
    if four:
        q, k, v = (
            b.transpose(b.reshape(t, 2, 7, n, -1), 0, 2, 1, 3) for t, n in ((q, heads), (k, groups), (v, groups))
        )
    if op == "Attention":
        y = b.op(op, q, k, v, **({} if four else {"q_num_heads": heads, "kv_num_heads": groups}))
        if four:
            y = b.reshape(b.transpose(y, 0, 2, 1, 3), 2, 7, heads * 5)
    else:
        y = b.hint(b.op(op, q, k, v, num_heads=heads, domain="com.microsoft"), 2, 7, heads * 5)
    return b.build(b.linear(y, heads * 5, 3, "out"))


NETWORKS: dict[str, Callable[[], ModelProto]] = {
    "qdq": lambda: quantised(QuantFormat.QDQ, per_channel=True),
    "qdq_per_tensor": lambda: quantised(QuantFormat.QDQ, per_channel=False),
    "qlinear": lambda: quantised(QuantFormat.QOperator, per_channel=True),
    "conv_integer": lambda: dynamic(resnext(), per_channel=False, weight=U8),
    "depthwise_qdq": lambda: static(
        convnet(), QuantFormat.QDQ, per_channel=True, activation=U8, weight=S8, symmetric=False
    ),
    "nbits": lambda: nbits(decoder(width=128, inner=256), QuantFormat.QOperator, 4, symmetric=True),
    "nbits_blocks": lambda: nbits(decoder(width=128, inner=256), QuantFormat.QDQ, 4, symmetric=False),
    "matmul_integer": lambda: dynamic(decoder(), per_channel=True, weight=S8),
    "fused_decoder": lambda: optimised(decoder()),
    "fused_convnet": lambda: optimised(resnext()),
    "conditional": conditional,
    "repeated": repeated,
    "attention_operator": lambda: one_operator("Attention", four=False),
    "attention_operator_four": lambda: one_operator("Attention", four=True),
    "multi_head_operator": lambda: one_operator("MultiHeadAttention", four=False),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str) -> None:
    assert proved(api.analyze(NETWORKS[name]()), range(4)) == 4


# (blocks, units of each), by hand
FREE = {
    **dict.fromkeys(("qdq", "qdq_per_tensor", "qlinear", "conv_integer", "fused_convnet"), ((6, 4), (6, 6), (24, 2))),
    **dict.fromkeys(("nbits", "nbits_blocks"), ((4, 2), (4, 2), (4, 32), (4, 32))),  # dims of v in blocks of 16
    **dict.fromkeys(("matmul_integer", "fused_decoder"), ((4, 16),) * 4),
    "depthwise_qdq": (),
    "conditional": ((3, 3),),
    "repeated": ((2, 12),),
    "attention_operator": ((3, 2), (3, 4), (3, 5)),
    "attention_operator_four": ((3, 2), (3, 4), (3, 5)),
    "multi_head_operator": ((6, 4), (6, 5)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_pruned(name: str) -> None:
    """By their norms, with nothing given up."""
    model = NETWORKS[name]()
    deps = api.analyze(model)
    assert sorted((f.number, f.size) for f in deps.fibres.factors) == list(FREE[name])
    result = api.prune(model, ratio=0.5, align=1)
    assert result.verdict is not None
    assert result.verdict.passed
    assert not result.frozen
    assert any(g.fibres for g in result.plan.groups) == bool(FREE[name])


@pytest.mark.parametrize("name", [n for n, found in FREE.items() if found])
def test_wrong_orders_are_caught(name: str) -> None:
    """One block of the first factor keeps other offsets than the plan says."""
    shared = api.analyze(NETWORKS[name]())
    deps = ranked(shared, "l2", 0)
    first, *rest = deps.chosen
    units = first.factor.units[: first.factor.size // 2]
    wrong = fibred(shared, [turned(first), *rest])
    assert verify_cut(deps.cut(units), rewrite(deps.cut(units))).passed
    assert not verify_cut(deps.cut(units), rewrite(wrong.cut(units))).passed
