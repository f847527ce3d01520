"""Rules of PyTorch's operators: what they free, and that what is left is right, with torch as the judge."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from graphprune.algebra import Axis  # noqa: E402
from graphprune.coupling.groups import DependencyGraph, analyze  # noqa: E402
from graphprune.graph.torch import trace  # noqa: E402
from graphprune.rules import all_rules, find  # noqa: E402
from tests.aten import cases, layouts, raw  # noqa: E402
from tests.aten.case import Case, tokens  # noqa: E402
from tests.aten.oracle import any_units, run  # noqa: E402

ALL = [*cases.ALL, *layouts.ALL, *raw.ALL]
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


# Written by no call that a case could make, or tested with modules.
ELSEWHERE = {
    "_conj", "_convolution", "_native_batch_norm_legit", "_native_batch_norm_legit_functional", "_neg_view",
    "_reshape_alias", "cudnn_batch_norm", "lift_fresh", "max_pool1d_with_indices", "type_as", "empty_like",
    "lstm", "gru", "rnn_tanh", "rnn_relu",
}  # fmt: skip


def test_every_rule_has_a_case() -> None:
    """Rules that label anything, of operators that exist."""
    silent = {r.op for r in all_rules() if r.kind in ("OPAQUE", "SIZES")}
    rules = {r.op for r in all_rules() if r.op.startswith("aten.")} - silent
    seen = set()
    for one in ALL:
        module, inputs, _ = one.built(0)
        seen |= {found.op for node in trace(module, inputs).nodes if (found := find(node)) is not None}
    assert {op.removeprefix("aten.") for op in rules - seen} <= ELSEWHERE
    for op in rules | silent:
        name = op.removeprefix("aten.").partition(".")[0]
        assert op.startswith("graphprune.") or not op.startswith("aten.") or _known(name), op


def _known(name: str) -> bool:
    return hasattr(torch.ops.aten, name) or hasattr(torch.ops.aten, f"{name}_")


def test_cases_have_names_of_their_own() -> None:
    assert len({c.name for c in ALL}) == len(ALL)
