"""Random models with random zeros in their weights: what is removed as dead changes nothing, whatever the wiring."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper

from graphprune import api
from graphprune.budget.lossless import lossless_units
from graphprune.budget.targets import Constraints
from graphprune.cost.model import CostModel
from graphprune.coupling.groups import DependencyGraph
from graphprune.errors import NothingToPruneError
from graphprune.folding.analysis import Folding
from graphprune.graph.run import CannotRun, Runner
from graphprune.rewrite.onnx import rewrite
from graphprune.verify.compare import check_valid, verify_cut
from tests.cuts import random_cut, summary
from tests.properties.random_graphs import models

QUICK = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
LONG = settings(QUICK, max_examples=2000, derandomize=False)
SEEDS = st.integers(0, 2**16)
ALIGNS = st.sampled_from([1, 1, 1, 2, 4])


def with_zeros(model: ModelProto, seed: int) -> ModelProto:
    """The model with zeros in some rows or columns of some weights, and in some entries of vectors."""
    rng = np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        setting = tensor.name.startswith("const")  # such as the scales of a Resize
        if setting or array.dtype != np.float32 or not array.ndim or rng.random() < 0.3:
            continue
        axis = int(rng.integers(min(array.ndim, 2))) if rng.random() < 0.8 else array.ndim - 1
        gone = rng.random(array.shape[axis]) < rng.choice([0.2, 0.6, 1.0], p=[0.5, 0.4, 0.1])
        array[(slice(None),) * axis + (gone,)] = 0
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


def runs(deps: DependencyGraph) -> bool:
    """Whether onnxruntime takes the original; it merges a Pad into a pool whose kernel is smaller, and refuses it."""
    try:
        Runner(deps.source.source)
    except CannotRun:
        event("onnxruntime refuses the original")
        return False
    return True


def check_lossless(model: ModelProto, seed: int, align: int) -> None:
    deps = api.analyze(with_zeros(model, seed))
    folding, free = Folding(deps), np.ones(deps.state.store.count, bool)
    try:
        units = lossless_units(deps, folding, CostModel(deps), Constraints(align=align, max_ratio=1.0), free)
    except NothingToPruneError:
        event("nothing is dead")
        return
    if not runs(deps):
        return
    cut = folding.folded(deps.cut(units))
    event("something is folded" if cut.folded else "nothing is folded")
    if any(f.carriers is not None and f.count for f in cut.folds):
        event("carriers")
    pruned = rewrite(cut)
    assert not check_valid(pruned), summary(cut)
    verdict = verify_cut(cut, pruned, seed=seed, lossless=True)
    assert verdict.passed, f"{summary(cut)}: {verdict.text}"


def check_folds(model: ModelProto, seed: int) -> None:
    """Any removal, dead or not: what is folded equals the reference that leaves these positions as they are."""
    deps = api.analyze(with_zeros(model, seed))
    cut = random_cut(deps, seed)
    if cut is None or not runs(deps):
        return
    cut = Folding(deps).folded(cut)
    event("something is folded" if cut.folded else "nothing is folded")
    pruned = rewrite(cut)
    assert not check_valid(pruned), summary(cut)
    verdict = verify_cut(cut, pruned, seed=seed)
    assert verdict.passed, f"{summary(cut)}: {verdict.text}"


@QUICK
@given(models(), SEEDS, ALIGNS)
def test_lossless(model: ModelProto, seed: int, align: int) -> None:
    check_lossless(model, seed, align)


@QUICK
@given(models(dynamic_batch=True), SEEDS)
def test_lossless_dynamic_batch(model: ModelProto, seed: int) -> None:
    check_lossless(model, seed, 1)


@QUICK
@given(models(), SEEDS)
def test_folds(model: ModelProto, seed: int) -> None:
    check_folds(model, seed)


@pytest.mark.long
@LONG
@given(models(max_nodes=20), SEEDS, ALIGNS)
def test_lossless_long(model: ModelProto, seed: int, align: int) -> None:
    check_lossless(model, seed, align)


@pytest.mark.long
@LONG
@given(models(dynamic_batch=True, max_nodes=20), SEEDS)
def test_lossless_dynamic_batch_long(model: ModelProto, seed: int) -> None:
    check_lossless(model, seed, 1)


@pytest.mark.long
@LONG
@given(models(max_nodes=20), SEEDS)
def test_folds_long(model: ModelProto, seed: int) -> None:
    check_folds(model, seed)
