"""Random models, random removals: whatever the wiring, the pruned model is valid and right."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from graphprune import api
from graphprune.api import load
from tests.cuts import pruned_and_checked, random_cut, summary
from tests.properties.random_graphs import models

QUICK = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
LONG = settings(QUICK, max_examples=2000, derandomize=False)
SEEDS = st.integers(0, 2**16)


def check(model: ModelProto, seed: int) -> None:
    """One removal; nothing of the original may change."""
    before = model.SerializeToString()
    deps = api.analyze(model)
    assert not deps.state.opaque, "all the operators drawn have rules"
    cut = random_cut(deps, seed)
    event("something leaves" if cut is not None else "nothing can leave")
    if cut is None:
        return
    pruned, verdict = pruned_and_checked(cut, seed)
    assert verdict.passed, f"{summary(cut)}: {verdict.text}"
    assert model.SerializeToString() == before
    again = load(pruned)
    for name in deps.source.values:
        facts = again.values.get(name)
        if facts is None or facts.shape is None or not deps.types.get(name):
            continue  # gone, or only computed from sizes
        wanted = deps.source.values[name].shape or ()
        kept = [cut.kept(name, a) for a in range(len(wanted))]
        sizes = [n if k is None else len(k) for n, k in zip(wanted, kept, strict=True)]
        assert all(cut.moved(name, a) or facts.shape[a] == n for a, n in enumerate(sizes)), name


@QUICK
@given(models(), SEEDS)
def test_static(model: ModelProto, seed: int) -> None:
    check(model, seed)


@QUICK
@given(models(dynamic_batch=True), SEEDS)
def test_dynamic_batch(model: ModelProto, seed: int) -> None:
    check(model, seed)


@pytest.mark.long
@LONG
@given(models(max_nodes=20), SEEDS)
def test_static_long(model: ModelProto, seed: int) -> None:
    check(model, seed)


@pytest.mark.long
@LONG
@given(models(dynamic_batch=True, max_nodes=20), SEEDS)
def test_dynamic_batch_long(model: ModelProto, seed: int) -> None:
    check(model, seed)
