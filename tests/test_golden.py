"""The hand-built models: the groups are the expected ones, and whatever leaves them, the result is right."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir
import pytest
from _pytest.mark.structures import ParameterSet
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphprune import api
from graphprune.plan import planned_cut
from graphprune.rewrite.onnx import rewrite
from tests.cuts import assert_random_removals_verify, pruned_and_checked, random_cut, summary
from tests.graphs import AMBIGUOUS, GOLDEN, GRAPHS, Builder, random_feeds, run

SEEDS = range(4)
PENDING: dict[str, str] = {}


def graphs(names: Iterable[str]) -> list[ParameterSet | str]:
    """Names as test parameters; graphs that wait for a rule are expected to fail."""
    return [
        pytest.param(n, marks=pytest.mark.xfail(reason=PENDING[n], strict=True)) if n in PENDING else n for n in names
    ]


PRUNABLE = graphs(n for n in GRAPHS if GOLDEN.get(n, [1]))
WIDE = graphs(n for n in GRAPHS if max(GOLDEN.get(n, [4]), default=0) > 3)


@pytest.mark.parametrize("name", graphs(GOLDEN))
def test_group_sizes(name: str) -> None:
    assert sorted(g.size for g in api.analyze(GRAPHS[name]()).groups) == GOLDEN[name]


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_ambiguous_group_sizes(name: str) -> None:
    assert sorted(g.size for g in api.analyze(GRAPHS[name]()).groups) in AMBIGUOUS[name]


@pytest.mark.parametrize("name", GRAPHS)
def test_groups_are_sane(name: str) -> None:
    """Names are unique and name a weight axis that the group cuts; no unit is in two groups; reports agree."""
    model = GRAPHS[name]()
    deps = api.analyze(model)
    names = [g.name for g in deps.groups]
    assert len(set(names)) == len(names)
    units = np.concatenate([g.units for g in deps.groups]) if deps.groups else np.zeros(0, np.int32)
    assert len(set(units.tolist())) == len(units) == deps.units
    stored = {t.name: list(t.dims) for t in model.graph.initializer}
    for group in deps.groups:
        assert group.members
        assert any(group.name.split("/")[0] == f"{m.tensor}[{m.axis}]" for m in group.members)
        for member in group.members:
            weight = deps.source.weights[member.tensor]
            assert weight.source not in stored or stored[weight.source] == list(weight.shape)
            assert member.rows >= 1
            assert member.rows * group.size <= weight.shape[member.axis]
    assert 0 <= deps.granularity() <= 1
    for blocked in deps.blocked:
        assert 0 < blocked.positions <= blocked.size
        assert blocked.reason.text, f"{blocked.tensor}[{blocked.axis}] is frozen for no reason"


@pytest.mark.parametrize("name", PRUNABLE)
def test_random_removals(name: str) -> None:
    assert assert_random_removals_verify(GRAPHS[name](), SEEDS) == len(SEEDS)


@pytest.mark.parametrize("name", PRUNABLE)
def test_a_removal_changes_the_output(name: str) -> None:
    """Else the comparison with the masked original proves nothing."""
    model = GRAPHS[name]()
    deps = api.analyze(model)
    moved = 0
    for seed in SEEDS:
        cut = random_cut(deps, seed)
        assert cut is not None
        feeds = random_feeds(model)
        old, new = run(model, feeds), run(ir.to_proto(rewrite(cut)), feeds)
        moved += any(float(np.abs(a - b).max()) > 1e-3 * float(np.abs(a).max()) for a, b in zip(old, new, strict=True))
    assert moved >= len(SEEDS) // 2  # a dead unit may be all that leaves


@pytest.mark.parametrize("name", WIDE)
def test_plans(name: str) -> None:
    """The planner's choice: every group loses its share, and the result is verified."""
    deps = api.analyze(GRAPHS[name]())
    plan = api.plan(deps, ratio=0.4, align=1, criterion="random", seed=1)
    cut = planned_cut(deps, plan)
    assert cut.removed.any(), summary(cut)
    for group in deps.groups:
        assert cut.removed[group.units].sum() <= np.ceil(0.4 * group.size)
    _, verdict = pruned_and_checked(cut)
    assert verdict.passed, verdict.text


# -- checks that know nothing of rules, labels or masks -----------------------------------------
def _zeroed(model: ModelProto, cuts: dict[str, list[tuple[int, list[int]]]]) -> ModelProto:
    """The model with some positions of some weights set to zero by hand."""
    out = ModelProto()
    out.CopyFrom(model)
    for tensor in out.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        for axis, positions in cuts.get(tensor.name, []):
            array[(slice(None),) * axis + (positions,)] = 0
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return out


def _lost(model: ModelProto, pruned: ModelProto, weight: str, axis: int) -> list[int]:
    """Which positions of a weight are gone, told from its content alone."""
    arrays = [{t.name: numpy_helper.to_array(t) for t in m.graph.initializer}[weight] for m in (model, pruned)]
    whole, part = (np.moveaxis(a, axis, 0) for a in arrays)
    assert part.shape[1:] == whole.shape[1:], "the other axes must be whole"
    kept = [next(i for i in range(len(whole)) if np.array_equal(whole[i], row)) for row in part]
    return sorted(set(range(len(whole))) - set(kept))


def _cut_group(name: str, size: int, count: int) -> tuple[ModelProto, ModelProto]:
    """A hand-built model, and the same without ``count`` units of its group of ``size``."""
    model = GRAPHS[name]()
    deps = api.analyze(model)
    group = next(g for g in deps.groups if g.size == size)
    units = np.random.default_rng(0).choice(group.units, count, replace=False)
    pruned, verdict = pruned_and_checked(deps.cut(units))
    assert verdict.passed
    return model, ir.to_proto(pruned)


def _assert_equal(one: ModelProto, other: ModelProto, model: ModelProto) -> None:
    for seed in range(3):
        feeds = random_feeds(model, seed)
        for a, b in zip(run(one, feeds), run(other, feeds), strict=True):
            assert np.abs(a).max() > 0
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


def _channel_weights(model: ModelProto, size: int) -> dict[str, list[int]]:
    """Axes of ``size`` positions by weight, for models in which no other axis has that size."""
    return {t.name: [a for a, n in enumerate(t.dims) if n == size] for t in model.graph.initializer}


def test_resnet_stage_against_zeroed_weights() -> None:
    """Relu(0) = 0: zero rows of every producer and norm parameter make a channel vanish."""
    model, pruned = _cut_group("resnet_stage", 16, 5)
    gone = _lost(model, pruned, "stem.weight", 0)
    assert len(gone) == 5
    producers = {n: axes for n, axes in _channel_weights(model, 16).items() if axes}
    zeros = {n: [(0, gone)] for n, axes in producers.items() if 0 in axes and not n.endswith(".var")}
    _assert_equal(_zeroed(model, zeros), pruned, model)


def test_densenet_against_zeroed_readers() -> None:
    """Norms make something of zero channels, so it is every reader of the concatenation that must not look."""
    model, pruned = _cut_group("densenet_block", 8, 3)
    gone = _lost(model, pruned, "stem.weight", 0)
    assert len(gone) == 3
    readers = ["layer0.conv.weight", "layer1.conv.weight", "layer2.conv.weight", "classifier.weight"]
    _assert_equal(_zeroed(model, {name: [(1, gone)] for name in readers}), pruned, model)


def test_heads_against_zeroed_output_rows() -> None:
    """A head whose rows of the output projection are zero has no effect."""
    model, pruned = _cut_group("vit_fused_qkv", 4, 2)
    old, new = ({t.name: numpy_helper.to_array(t) for t in m.graph.initializer}["proj.weight"] for m in (model, pruned))
    assert new.shape == (16, 20)
    kept = [h for h in range(4) if any(np.array_equal(old[8 * h], row) for row in new[::8])]
    rows = [r for h in set(range(4)) - set(kept) for r in range(8 * h, 8 * h + 8)]
    assert len(rows) == 16
    _assert_equal(_zeroed(model, {"proj.weight": [(0, rows)]}), pruned, model)


def test_hidden_units_of_an_lstm_against_zeroed_readers() -> None:
    """A hidden unit that neither the recurrence nor the head reads has no effect."""
    model, pruned = _cut_group("lstm", 9, 4)
    gone = _lost(model, pruned, "head.weight", 0)
    assert len(gone) == 4
    _assert_equal(_zeroed(model, {"lstm.R": [(2, gone)], "head.weight": [(0, gone)]}), pruned, model)


def test_query_groups_against_zeroed_output_rows() -> None:
    """A key/value group takes four query heads with it."""
    model, pruned = _cut_group("gqa_rope", 2, 1)
    gone = _lost(model, pruned, "o.weight", 0)
    assert gone in (list(range(24)), list(range(24, 48)))
    _assert_equal(_zeroed(model, {"o.weight": [(0, gone)]}), pruned, model)


@pytest.mark.parametrize("mode", ["crd", "dcr", "reshape"])
def test_pixel_shuffle_against_zeroed_readers(mode: str) -> None:
    """The convolution behind the shuffle reads whole channels; each is four rows of the one before."""
    model, pruned = _cut_group(f"pixel_shuffle_{mode}", 5, 2)
    gone = _lost(model, pruned, "head.weight", 1)
    assert len(gone) == 2
    _assert_equal(_zeroed(model, {"head.weight": [(1, gone)]}), pruned, model)


# -- files of an unusual make -------------------------------------------------------------------
@pytest.mark.parametrize("name", ["resnet_stage", "gqa_rope", "lstm", "shared_zero_bias", "weights_behind_nodes"])
def test_initializers_listed_as_inputs(name: str) -> None:
    """Old exporters do so; the inputs' shapes follow the weights."""
    model = GRAPHS[name]()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    deps = api.analyze(model)
    assert sorted(g.size for g in deps.groups) == GOLDEN[name]
    for seed in SEEDS:
        cut = random_cut(deps, seed)
        assert cut is not None
        pruned, verdict = pruned_and_checked(cut, seed)
        assert verdict.passed, verdict.text
        inputs = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in ir.to_proto(pruned).graph.input}
        for tensor in ir.to_proto(pruned).graph.initializer:
            assert inputs.get(tensor.name, list(tensor.dims)) == list(tensor.dims)


@pytest.mark.parametrize("name", PRUNABLE)
def test_stored_in_constant_nodes(name: str) -> None:
    """The older exporter does so, and notes the shapes of all that the nodes give."""
    model = GRAPHS[name]()
    nodes = [
        helper.make_node("Constant", [], [tensor.name], name=f"{tensor.name}/stored", value=tensor)
        for tensor in model.graph.initializer
    ]
    notes = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in model.graph.initializer]
    nodes.extend(model.graph.node)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.value_info.extend(notes)
    assert_random_removals_verify(model, range(2))


def test_weights_that_branches_read() -> None:
    """A matrix read inside If and behind it: both uses fit, or nothing of it leaves."""
    b = Builder("if_shares_a_weight")
    flag, hidden = b.source("flag", [], TensorProto.BOOL), b.source("hidden", [2, 12])
    shared = b.weight(12, 12, fan_in=12, name="shared.weight")
    graphs = {}
    for name in ("then", "else"):
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [2, 12])
        node = helper.make_node("MatMul", [hidden, shared], [out.name], name=f"{name}_matmul")
        graphs[f"{name}_branch"] = helper.make_graph([node], name, [], [out])
    branch = b.linear(b.op("If", flag, **graphs), 12, 4, "head1")
    x = b.op("Relu", b.op("MatMul", b.linear(hidden, 12, 12, "embed"), shared))
    x = b.op("Relu", b.linear(x, 12, 8, "fc"))
    assert_random_removals_verify(b.build(branch, b.linear(x, 8, 5, "head2")), SEEDS)


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13, 17])
def test_old_operator_sets(opset: int) -> None:
    """A symbolic batch, sizes computed in the graph, means: with what the operator set has."""
    b = Builder("old", opset=opset)
    x = b.op("Relu", b.linear(b.source("hidden", ["batch", 10]), 10, 12, "fc1"))
    batch = b.op("Gather", b.op("Shape", x), b.ints(0), axis=0)
    x = b.op("Reshape", x, b.op("Concat", batch, b.ints(3, 4), axis=0))
    x = b.reshape(b.op("ReduceMean", x, axes=[1], keepdims=1), -1, 4)
    model = b.build(
        b.op("Div", b.linear(x, 4, 5, "fc2"), b.op("Cast", b.op("Gather", b.op("Shape", x), b.ints(1)), to=1))
    )
    assert assert_random_removals_verify(model, SEEDS) == len(SEEDS)


def test_sizes_as_outputs() -> None:
    """A Shape that the model returns says what it said before."""
    b = Builder("shape_output")
    x = b.op("Relu", b.linear(b.source("hidden", [2, 10]), 10, 6, "fc1"))
    model = b.build(b.op("Shape", x), b.op("Size", x), b.linear(x, 6, 5, "fc2"))
    assert assert_random_removals_verify(model, SEEDS) == len(SEEDS)
