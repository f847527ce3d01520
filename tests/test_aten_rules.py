"""Rules of PyTorch's operators: what they free, and that what is left is right, with torch as the judge."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from graphprune.algebra import Axis  # noqa: E402
from graphprune.coupling.groups import DependencyGraph, analyze  # noqa: E402
from graphprune.graph.torch import trace  # noqa: E402
from tests.aten import cases, layouts  # noqa: E402
from tests.aten.case import Case, tokens  # noqa: E402
from tests.aten.oracle import any_units, run  # noqa: E402

ALL = [*cases.ALL, *layouts.ALL]
TOLERANCE = 2e-5


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def names_of(one: Case, deps: DependencyGraph) -> list[str]:
    """The value behind each operand, "" where the graph does not read it."""
    inputs = iter(deps.source.inputs)
    return [f"p{i}" if o.startswith("=") else next(inputs) for i, o in enumerate(one.operands)]


@pytest.mark.parametrize("one", ALL, ids=lambda c: c.name)
def test_axes(one: Case) -> None:
    """Axes that must stay do, all others are free, and equal letters are one and the same."""
    module, inputs, _ = one.built(0)
    deps = analyze(trace(module, inputs), [".*"])
    assert deps.state.opaque == {}
    found: dict[str, Axis] = {}
    for name, operand in zip(names_of(one, deps), one.operands, strict=True):
        for axis, token in zip(deps.types.get(name, ()), tokens(operand), strict=False):
            if axis is None or axis.n == 1 or token.isdigit():
                continue
            free = axis.units is not None
            assert free != (token in one.stays), f"{operand}: {token} is {'free' if free else 'frozen'}"
            if free and len(token) == 1:
                first = found.setdefault(token, axis)
                assert np.array_equal(first.units, axis.units), f"{token} is not tied"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("one", ALL, ids=lambda c: c.name)
def test_cut(one: Case, seed: int) -> None:
    """Random removals give what the whole operator gives when the removed positions do not count."""
    module, inputs, _ = one.built(seed)
    deps = analyze(trace(module, inputs), [".*"])
    with torch.no_grad():
        for draw in range(3):
            cut = deps.cut(any_units(deps, np.random.default_rng(seed * 10 + draw)))
            done = run(deps, cut, dict(zip(deps.source.inputs, inputs, strict=True)), seed)
            assert done.error < TOLERANCE
