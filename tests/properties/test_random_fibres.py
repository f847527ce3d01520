"""Random choices per block: the pruned model equals the masked original, and what is pinned stays shared."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from graphprune import api
from tests.cuts import pruned_and_checked, random_cut, random_fibres, summary
from tests.properties.block_graphs import block_models

QUICK = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
LONG = settings(QUICK, max_examples=2000, derandomize=False)
SEEDS = st.integers(0, 2**16)


def check(model: ModelProto, seed: int) -> None:
    before = model.SerializeToString()
    shared = api.analyze(model)
    assert not shared.state.opaque
    event(f"{min(len(shared.fibres.factors), 4)} free factors")
    deps = random_fibres(shared, seed)
    cut = random_cut(deps, seed)
    if cut is None:
        return
    _, verdict = pruned_and_checked(cut, seed)
    assert verdict.passed, f"{model.graph.doc_string}: {summary(cut)}: {verdict.text}"
    assert model.SerializeToString() == before


@QUICK
@given(block_models(), SEEDS)
def test_static(model: ModelProto, seed: int) -> None:
    check(model, seed)


@QUICK
@given(block_models(dynamic=True), SEEDS)
def test_dynamic_batch(model: ModelProto, seed: int) -> None:
    check(model, seed)


@pytest.mark.long
@LONG
@given(block_models(), SEEDS)
def test_static_long(model: ModelProto, seed: int) -> None:
    check(model, seed)


@pytest.mark.long
@LONG
@given(block_models(dynamic=True), SEEDS)
def test_dynamic_batch_long(model: ModelProto, seed: int) -> None:
    check(model, seed)
