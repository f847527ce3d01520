"""Random models are valid, run, and give finite numbers of the inferred shapes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from onnx import ModelProto

from tests.graphs import random_feeds, run
from tests.properties.random_graphs import models
from tests.properties.registry import names

QUICK = settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
LONG = settings(QUICK, max_examples=2000, derandomize=False)


def check(model: ModelProto, batch: int = 2) -> None:
    onnx.checker.check_model(model, full_check=True)
    outputs = run(model, random_feeds(model, sizes={"batch": batch}))
    for value, out in zip(model.graph.output, outputs, strict=True):
        dims = value.type.tensor_type.shape.dim
        sizes = [batch if d.dim_param == "batch" else d.dim_value for d in dims]  # 0: not inferred
        assert len(sizes) == out.ndim
        assert all(known in (0, n) for known, n in zip(sizes, out.shape, strict=True))
        assert np.isfinite(out).all()


@QUICK
@given(models())
def test_static(model: ModelProto) -> None:
    check(model)


@QUICK
@given(models(dynamic_batch=True))
def test_dynamic_batch(model: ModelProto) -> None:
    for batch in (1, 3):
        check(model, batch)


@QUICK
@given(models(tied_weights=False, shared_bias=False))
def test_without_sharing(model: ModelProto) -> None:
    inputs = [i for node in model.graph.node for i in node.input]
    assert all(inputs.count(t.name) == 1 for t in model.graph.initializer)


@pytest.mark.parametrize("name", names(""))
def test_each_operator(name: str) -> None:
    seen: set[str] = set()

    @settings(QUICK, max_examples=20)
    @given(models(only=(name, "conv", "reshape", "unsqueeze"), min_nodes=6))
    def run_some(model: ModelProto) -> None:
        check(model)
        seen.update(model.graph.doc_string.split())

    run_some()
    assert name in seen


@pytest.mark.long
@LONG
@given(models())
def test_static_long(model: ModelProto) -> None:
    check(model)


@pytest.mark.long
@LONG
@given(models(dynamic_batch=True))
def test_dynamic_batch_long(model: ModelProto) -> None:
    check(model, 3)
