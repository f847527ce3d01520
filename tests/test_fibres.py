"""Choices per block: what is free and what pins the rest, plans that replay, and wrong orders that do not pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import ModelProto, numpy_helper

from graphprune import api
from graphprune.api import load
from graphprune.budget.record import make_plan
from graphprune.coupling.fibres import Chosen, fibred
from graphprune.errors import InputError
from graphprune.importance.fibres import ranked
from graphprune.plan import Plan, planned_cut
from graphprune.rewrite.onnx import rewrite
from graphprune.verify.compare import verify_cut
from tests.cuts import pruned_and_checked, random_cut, random_fibres
from tests.graphs import GRAPHS, Builder, random_feeds, run

# Free factors as (blocks, units of each), by hand; every other group is cut alike everywhere.
FREE = {
    "grouped_conv": [(6, 4), (6, 6)],
    "depthwise_multiplier": [(6, 2)],
    "conv_transpose_grouped": [(2, 4), (2, 6)],
    "groupnorm_op": [(3, 4)],
    "groupnorm_decomposed": [(3, 4)],
    "channel_shuffle_grouped": [(2, 2), (2, 4), (2, 6)],
    "vit_fused_qkv": [(4, 8)],
    "vit_split_qkv": [(4, 8), (4, 8)],
    "attention_shape_scale": [(2, 3), (2, 5)],
    "attention_einsum": [(2, 3), (2, 5)],
    "linear_attention": [(2, 5), (2, 6)],
    "heads_folded_into_batch": [(2, 3), (2, 5)],
    "dynamic_batch_reshape": [(2, 3), (2, 5)],
    "dynamic_width_reshape": [(2, 3), (2, 5)],
    "reshape_zero_and_minus_one": [(2, 3), (2, 5)],
    "gqa_rope": [(2, 4), (2, 6)],  # queries of a key head, value dims; rotary pairs are shared
    "gqa_block": [(2, 4), (2, 6)],
    "swin_patch_merging": [(2, 4)],
    "weight_reshaped_box": [(4, 3)],
    "weight_two_head_counts": [(2, 6)],
    "gqa_interleaved_gather": [(2, 3), (2, 4), (2, 6)],
    "gqa_tile": [(2, 3), (2, 4), (2, 6)],
    "gqa_tiled_blocks": [(2, 3), (2, 4), (2, 6)],
    "rope_strided_slices": [(4, 3)],  # value dims alone, here and below
    "rope_reshaped_pairs": [(4, 3)],
    "rope_partial": [(4, 3)],
    "rope_computed_tables": [(4, 3)],
    "bias_buckets": [(4, 3), (4, 6)],
    "bias_slopes": [(4, 3), (4, 6)],
    "disentangled_positions": [(4, 3), (4, 6)],
    "attention_sinks": [(4, 3), (4, 6)],
    "normed_queries": [(4, 3)],  # one scale serves the queries of all heads
    "unit_queries": [(4, 3), (4, 6)],
    "cross_attention": [(4, 3), (4, 6)],
    "differential_attention": [(4, 3), (4, 3)],
    "talking_heads": [(4, 6), (6, 3)],
    "cross_covariance": [(4, 6)],
    "linear_attention_elu": [(4, 3), (4, 6)],
    "convolutional_projections": [(4, 2), (4, 4)],
    "rolled_windows": [(4, 3), (4, 6)],
    "tile_channels": [(5, 3)],
}
PINNED = {
    "gqa_rope": {3: "cos axis 3"},  # by size of the group: the table has no heads
    "sum_over_groups": {4: "ReduceSum"},
}


@pytest.mark.parametrize("name", GRAPHS)
def test_what_is_free(name: str) -> None:
    found = api.analyze(GRAPHS[name]()).fibres
    assert sorted((f.number, f.size) for f in found.factors) == FREE.get(name, [])


@pytest.mark.parametrize("name", PINNED)
def test_what_pins_the_rest(name: str) -> None:
    deps = api.analyze(GRAPHS[name]())
    sizes = {g.name: g.size for g in deps.groups}
    for size, part in PINNED[name].items():
        assert any(sizes[group] == size and part in reason for group, reason in deps.fibres.pinned.items())


@pytest.mark.parametrize("name", FREE)
@pytest.mark.parametrize("seed", range(3))
def test_random_orders(name: str, seed: int) -> None:
    deps = random_fibres(api.analyze(GRAPHS[name]()), seed)
    cut = random_cut(deps, seed)
    assert cut is not None
    _, verdict = pruned_and_checked(cut, seed)
    assert verdict.passed, verdict.text


@pytest.mark.parametrize("name", FREE)
def test_groups_and_costs_stay(name: str) -> None:
    """A choice per block moves units about; how many there are and what they cost is as before."""
    shared = api.analyze(GRAPHS[name]())
    deps = random_fibres(shared, 0)
    cut = random_cut(deps, 0)
    assert cut is not None
    assert deps.groups == shared.groups
    assert deps.granularity() == shared.granularity()
    other = shared.cut(np.flatnonzero(cut.removed).astype(np.int32))
    for tensor, axes in shared.types.items():
        for a in range(len(axes)):
            one, two = cut.kept(tensor, a), other.kept(tensor, a)
            assert (one is None) == (two is None)
            assert one is None or two is None or len(one) == len(two)


# -- judged without labels or masks -----------------------------------------------------------------------
def test_every_group_keeps_its_own_channels() -> None:
    """Zero weights, made by hand in another place in every group, leave without changing anything."""
    model = GRAPHS["grouped_conv"]()
    rng = np.random.default_rng(0)
    gone = np.array([rng.choice(4, 2, replace=False) for _ in range(6)])
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if tensor.name == "grouped.weight":  # 36 rows in 6 groups, 4 inputs each
            for row in range(36):
                array[row, gone[row // 6]] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    deps = api.analyze(model)
    group = next(f for f in deps.fibres.factors if f.size == 4).group
    plan = api.plan(deps, ratio=0.5, align=1, criterion=only_in("grouped.weight", 1))
    planned = next(g for g in plan.groups if g.name == group)
    assert [sorted(b) for b in planned.fibres[0].blocks] == np.sort(gone, axis=1).tolist()
    kept = {g.name: g for g in plan.groups}[group]
    cut = planned_cut(deps, plan)
    factor = next(c.factor for c in cut.deps.chosen if c.factor.group == group)
    small = ir.to_proto(rewrite(cut.deps.cut(factor.units[list(kept.removed)])))
    for seed in range(3):
        feeds = random_feeds(model, seed)
        for a, b in zip(run(model, feeds), run(small, feeds), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)
    with pytest.raises(AssertionError):
        shared = ir.to_proto(rewrite(deps.cut(factor.units[:2])))
        np.testing.assert_allclose(run(shared, feeds)[0], run(model, feeds)[0], rtol=1e-4, atol=1e-5)


def only_in(tensor: str, axis: int):
    """A criterion that looks at one axis of one weight."""

    def criterion(deps: api.DependencyGraph, seed: int) -> np.ndarray:
        out = np.ones(deps.state.store.count)
        ragged = deps.ragged.get((tensor, axis))
        array = deps.source.weights[tensor].read()
        if ragged is not None:
            assert (ragged.block, axis) == (0, 1)
            units = ragged.units[..., 0]
            out[np.unique(units)] = 0
            np.add.at(out, units, np.abs(array).sum(axis=(2, 3)))
        return out

    return criterion


def test_the_least_important_of_every_group_leave() -> None:
    """Against norms taken from the file by hand."""
    model = GRAPHS["grouped_conv"]()
    weights = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    norms = (weights["stem.weight"] ** 2).sum(axis=(1, 2, 3)) + weights["stem.bias"] ** 2
    norms = norms.reshape(6, 4) + (weights["grouped.weight"] ** 2).sum(axis=(2, 3)).reshape(6, 6, 4).sum(axis=1)
    plan = api.plan(model, ratio=0.5, align=1)
    fibre = next(f for g in plan.groups for f in g.fibres if len(f.blocks) == 6 and g.size == 4)
    assert [sorted(b) for b in fibre.blocks] == np.sort(np.argsort(norms, axis=1)[:, :2], axis=1).tolist()


# -- plans -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", FREE)
def test_a_plan_replays(name: str, tmp_path: Path) -> None:
    """From its file, on the same graph with other weights, with the same positions."""
    model = GRAPHS[name]()
    plan = api.plan(model, ratio=0.5, align=1, criterion="random", seed=3)
    assert any(g.fibres for g in plan.groups)
    (tmp_path / "p.json").write_text(plan.to_json())
    again = Plan.read(tmp_path / "p.json")
    assert again.to_json() == plan.to_json()
    first = ir.to_proto(api.apply(model, plan)).SerializeToString()
    assert ir.to_proto(api.apply(model, again)).SerializeToString() == first
    other = renewed(model)
    cut = planned_cut(api.analyze(other), again)
    _, verdict = pruned_and_checked(cut)
    assert verdict.passed
    units = np.flatnonzero(cut.removed).astype(np.int32)
    replayed = make_plan(cut.deps, units, recipe=plan.recipe, before=plan.before, after=plan.after)
    assert replayed.weights == plan.weights


def renewed(model: ModelProto) -> ModelProto:
    """The model with other numbers in its float weights."""
    out, rng = ModelProto(), np.random.default_rng(5)
    out.CopyFrom(model)
    for tensor in out.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.ndim > 1:
            values = (array + rng.standard_normal(array.shape) * array.std()).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return out


def test_a_plan_without_blocks_means_shared_offsets() -> None:
    model = GRAPHS["grouped_conv"]()
    plan = api.plan(model, ratio=0.5, align=1, shared_offsets=True)
    assert all(not g.fibres for g in plan.groups)
    assert all(isinstance(p, int) for axes in plan.weights.values() for listed in axes.values() for p in listed)
    cut = planned_cut(api.analyze(model), plan)
    assert not cut.deps.ragged
    assert pruned_and_checked(cut)[1].passed


def test_plans_with_other_blocks_are_refused() -> None:
    model = GRAPHS["grouped_conv"]()
    plan = api.plan(model, ratio=0.5, align=1)
    place, group = next((i, g) for i, g in enumerate(plan.groups) if g.fibres and g.size == 4)
    fibre = group.fibres[0]
    for blocks in (
        fibre.blocks[:-1],
        ((0, 0), *fibre.blocks[1:]),
        ((0, 9), *fibre.blocks[1:]),
        fibre.blocks[1:] + fibre.blocks[:1],
    ):
        wrong = group.model_copy(update={"fibres": (fibre.model_copy(update={"blocks": blocks}),)})
        groups = (*plan.groups[:place], wrong, *plan.groups[place + 1 :])
        with pytest.raises(InputError, match="fit this model"):
            api.apply(model, plan.model_copy(update={"groups": groups}))
    with pytest.raises(InputError, match="fit this model"):
        api.apply(model, plan.model_copy(update={"groups": ()}))


def test_prune_and_verify_a_file(tmp_path: Path) -> None:
    model = GRAPHS["vit_split_qkv"]()
    onnx.save(model, tmp_path / "m.onnx")
    result = api.prune(tmp_path / "m.onnx", tmp_path / "s.onnx", macs="50%", align=1)
    assert result.verdict is not None
    assert result.verdict.passed
    assert not result.frozen
    assert any(g.fibres for g in result.plan.groups)
    assert api.verify(tmp_path / "m.onnx", tmp_path / "s.onnx", result.plan).passed
    again = api.plan(result.deps, macs="50%", align=1)  # choices made before do not add up
    assert again.to_json() == result.plan.to_json()


# -- what must not pass ------------------------------------------------------------------------------------
def turned(chosen: Chosen) -> Chosen:
    """Another order: in the first block everything has moved up by one."""
    ranks = chosen.ranks.copy()
    ranks[0] = (ranks[0] + 1) % chosen.factor.size
    return Chosen(chosen.factor, ranks)


@pytest.mark.parametrize("name", FREE)
def test_a_wrong_order_of_one_block_is_caught(name: str) -> None:
    """One block of one factor keeps other offsets than the plan says."""
    shared = api.analyze(GRAPHS[name]())
    deps = ranked(shared, "l2", 0)
    for n, chosen in enumerate(deps.chosen):
        cut = deps.cut(chosen.factor.units[: chosen.factor.size // 2])
        wrong = fibred(shared, [*deps.chosen[:n], turned(chosen), *deps.chosen[n + 1 :]])
        model = rewrite(wrong.cut(chosen.factor.units[: chosen.factor.size // 2]))
        assert not np.array_equal(
            turned(chosen).ranks < chosen.factor.size // 2, chosen.ranks < chosen.factor.size // 2
        )
        assert verify_cut(cut, rewrite(cut)).passed
        assert not verify_cut(cut, model).passed


@pytest.mark.parametrize("name", ["grouped_conv", "vit_fused_qkv", "attention_einsum", "groupnorm_decomposed"])
def test_ragged_labels_that_contradict_the_others_are_caught(name: str) -> None:
    """A bug in the labels of ragged axes alone, shared by the rewriter and the reference."""
    deps = ranked(api.analyze(GRAPHS[name]()), "l2", 0)
    factor = next(c.factor for c in deps.chosen if any(not p.merged for p in c.factor.places))
    bad = {key: replace(r, units=np.roll(r.units, 1, axis=1)) for key, r in deps.ragged.items()}
    cut = replace(deps, ragged=bad).cut(factor.units[: factor.size // 2])
    assert not verify_cut(cut, rewrite(cut)).passed


def comparing(kind: str) -> ModelProto:
    """2 blocks of 6 offsets that an operator compares, or treats as one list."""
    b = Builder(kind, opset=21)
    x = b.reshape(b.linear(b.source("x", [2, 5, 7]), 7, 12, "in"), 2, 5, 2, 6)
    if kind == "gram":
        y, n = b.op("MatMul", x, b.transpose(x, 0, 1, 3, 2)), 4
    elif kind == "across":  # X[s, t] W[t, s'] with both blocks in both
        w = b.reshape(b.linear(b.source("w", [2, 5, 7]), 7, 12, "other"), 2, 5, 2, 6)
        y, n = b.op("Einsum", x, w, equation="bnst,bnut->bnsu"), 4
    elif kind == "reversed":
        y, n = b.op("Mul", x, b.op("Gather", x, b.ints(*range(6)[::-1]), axis=3)), 12
    elif kind == "turned":  # the other way round: blocks inside offsets
        y, n = b.reshape(b.transpose(x, 0, 1, 3, 2), 2, 5, 12), 12
        y = b.reshape(y, 2, 5, 3, 4)
    elif kind == "norm across":
        y = b.transpose(b.reshape(b.transpose(x, 0, 3, 2, 1), 2, 12, 5), 0, 1, 2)
        y = b.op("GroupNormalization", y, b.weight(12), b.weight(12), num_groups=6)
        y, n = b.transpose(b.hint(y, 2, 12, 5), 0, 2, 1), 12
    else:
        y, n = b.op("Mul", x, b.weight(6)), 12
    return b.build(b.linear(b.reshape(y, 2, 5, n), n, 3, "out"))


@pytest.mark.parametrize("kind", ["gram", "across", "reversed", "turned", "norm across", "shared scale"])
def test_blocks_that_are_compared_are_pinned(kind: str) -> None:
    deps = api.analyze(comparing(kind))
    sizes = {(f.number, f.size) for f in deps.fibres.factors}
    assert (2, 6) not in sizes
    assert verify_random(deps)


def verify_random(deps: api.DependencyGraph) -> bool:
    cuts = [random_cut(random_fibres(deps, seed), seed) for seed in range(4)]
    return all(pruned_and_checked(cut)[1].passed for cut in cuts if cut is not None)


def test_what_is_called_free_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the operators not asked, choices per block would break these models: the verification says so."""
    monkeypatch.setattr("graphprune.coupling.pins.Nodes.obstacle", lambda self, factor: "")
    for kind in ("gram", "norm across"):
        wrong = random_fibres(api.analyze(comparing(kind)), 1)
        factor = wrong.chosen[0].factor
        cut = wrong.cut(factor.units[: factor.size // 2])
        assert not verify_cut(cut, rewrite(cut)).passed


@pytest.mark.parametrize("opset", [9, 10, 13])
def test_norms_before_gather_nd(opset: int) -> None:
    """The reference reads ragged axes with GatherND; older files keep shared offsets where it would need it."""
    b = Builder("old", opset=opset)
    x = b.reshape(b.conv(b.source("image", [2, 3, 4, 4]), 3, 12, name="conv"), 2, 3, 64)
    y = b.op("InstanceNormalization", x, b.const(np.ones(3, np.float32)), b.const(np.zeros(3, np.float32)))
    model = b.build(b.classifier(b.reshape(y, 2, 12, 4, 4), 12))
    deps = api.analyze(model)
    assert len(deps.fibres.factors) == (opset >= 11)
    assert verify_random(deps)


def test_tied_weights_of_grouped_convolutions() -> None:
    """Two uses of one kernel: both choose alike, or each gets its own copy."""
    b = Builder("tied")
    x = b.conv_relu(b.source("image", [2, 3, 6, 6]), 3, 12, name="stem")
    kernel = b.weight(12, 4, 3, 3, fan_in=36, name="kernel")
    for _ in range(2):
        x = b.op("Relu", b.op("Conv", x, kernel, group=3, kernel_shape=[3, 3], pads=[1] * 4))
    deps = api.analyze(b.build(b.classifier(x, 12)))
    assert verify_random(deps)


def test_a_criterion_without_single_offsets_shares_them() -> None:
    model = GRAPHS["grouped_conv"]()
    deps = api.analyze(model)
    table = np.arange(deps.state.store.count, dtype=float)
    plan = api.plan(deps, ratio=0.5, align=1, criterion=lambda deps, seed: table)
    assert all(not g.fibres for g in plan.groups)


def test_blocks_that_leave_altogether() -> None:
    """A head or group that leaves takes its own list along."""
    for name in ("grouped_conv", "vit_fused_qkv", "groupnorm_decomposed"):
        deps = random_fibres(api.analyze(GRAPHS[name]()), 0)
        factor = deps.chosen[0].factor
        cut = deps.cut(np.concatenate([factor.units[:2], factor.blocks[0][:1]]))
        assert pruned_and_checked(cut)[1].passed


def test_loading_twice_gives_the_same_factors() -> None:
    model = GRAPHS["gqa_block"]()
    one, two = (api.analyze(load(model)).fibres.factors for _ in range(2))
    assert [(f.group, f.units.tolist(), f.codes.tolist()) for f in one] == [
        (f.group, f.units.tolist(), f.codes.tolist()) for f in two
    ]
