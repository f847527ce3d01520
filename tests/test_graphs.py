"""The hand-built models are valid, run, and carry a sane golden table."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.graphs import AMBIGUOUS, FAMILIES, GOLDEN, GRAPHS, random_feeds, run


@pytest.mark.parametrize("name", GRAPHS)
def test_valid_and_runs(name: str) -> None:
    model = GRAPHS[name]()
    onnx.checker.check_model(model, full_check=True)
    feeds = random_feeds(model)
    plain, optimized = run(model, feeds), run(model, feeds, optimize=True)
    assert len(plain) == len(model.graph.output)
    for value, out, other in zip(model.graph.output, plain, optimized, strict=True):
        dims = value.type.tensor_type.shape.dim
        assert len(dims) == out.ndim
        assert all(d.dim_value in (0, n) for d, n in zip(dims, out.shape, strict=True))
        assert np.isfinite(out).all()
        assert out.std() > 0
        np.testing.assert_allclose(out, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", GRAPHS)
def test_reproducible_and_named(name: str) -> None:
    model = GRAPHS[name]()
    assert model.SerializeToString() == GRAPHS[name]().SerializeToString()
    assert model.graph.name == name
    nodes = [n.name for n in model.graph.node]
    assert all(nodes) and len(set(nodes)) == len(nodes)


@pytest.mark.parametrize("name", GRAPHS)
def test_nothing_is_dead(name: str) -> None:
    graph = GRAPHS[name]().graph
    used = {i for n in graph.node for i in n.input} | {o.name for o in graph.output}
    for node in graph.node:
        used |= {i for a in node.attribute for n in a.g.node for i in n.input}
    assert all(any(o in used for o in n.output) for n in graph.node)
    assert {t.name for t in graph.initializer} <= used
    assert {i.name for i in graph.input} <= used


def test_tables() -> None:
    assert GRAPHS.keys() == GOLDEN.keys() | AMBIGUOUS.keys()
    assert not GOLDEN.keys() & AMBIGUOUS.keys()
    assert {m.__module__ for m in GRAPHS.values()} == {f.__name__ for f in FAMILIES}
    for sizes in [*GOLDEN.values(), *(a for answers in AMBIGUOUS.values() for a in answers)]:
        assert sizes == sorted(sizes)
        assert all(n > 1 for n in sizes)
