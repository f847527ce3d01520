"""The stress run in short, and that it does see what is wrong."""

from __future__ import annotations

import pytest

from graphprune.rules.registry import by_name, install
from tests.operators import CASES
from tests.properties import graph_kinds, stress
from tests.properties.ops_cases import bound, cases
from tests.properties.registry import OPS

NO_KERNEL = {  # onnxruntime, which verifies, does not run them
    "AffineGrid", "CausalConvWithState", "ImageDecoder", "LinearAttention", "SwiGLU",
    *(f"com.microsoft.{op}" for op in ("BiasAdd", "BiasSplitGelu", "GroupNorm", "SkipGroupNorm")),
}  # fmt: skip


@pytest.mark.parametrize("start", range(0, 80, 10))
def test_some_graphs(start: int) -> None:
    tally = stress.run(7, range(start, start + 10), 5)
    assert tally.failures == []
    assert sum(tally.graphs.values()) == 10
    assert tally.outcomes["verified"] >= 6
    assert not {o for o in tally.outcomes if o.startswith(("not valid", "does not run"))}


@pytest.mark.long
def test_many_graphs() -> None:
    tally = stress.run(0, range(2000), 60)
    assert tally.failures == []
    assert tally.outcomes["verified"] >= 1600
    assert stress.rules_of_onnx() - NO_KERNEL <= set(tally.ops)


@pytest.mark.parametrize("kind", graph_kinds.KINDS)
def test_graphs_are_reproducible(kind: str) -> None:
    index = next(i for i in range(500) if stress.drawn(0, i)[0] == kind)
    one, two = (stress.made(0, index)[1].SerializeToString() for _ in range(2))
    assert one == two


def test_every_operator_with_a_case_is_drawn() -> None:
    drawn = {c.op for opset in (20, *graph_kinds.OLD) for c in cases(opset)}
    assert {c.op for c in CASES} - drawn <= NO_KERNEL
    others = stress.rules_of_onnx() - drawn - NO_KERNEL
    assert {op for op in others if not op.startswith("graphprune.")} == {
        "If",
        "Loop",
        "Scan",
    }  # see ops_control


def test_kinds_of_operators() -> None:
    assert {o.kind for o in OPS.values()} == {"", "stress", "sequence", "image"}


def test_letters_of_a_case_are_bound_to_a_shape() -> None:
    assert bound(["n", "c", "6"], (2, 5, 6)) == {"n": 2, "c": 5}
    assert bound(["n", "n"], (3, 3)) == {"n": 3}
    assert bound(["n", "n"], (3, 4)) is None
    assert bound(["n", "g*r"], (3, 4)) is None
    assert bound(["n"], (3, 4)) is None
    assert bound(["n"], (1,)) is None


def test_a_wrong_rule_is_found() -> None:
    """MatMul that does not say that it sums over the axis it ties."""
    right = by_name("MatMul")
    assert right is not None

    def wrong(r):  # type: ignore[no-untyped-def]
        right.relate(r)
        del r.state.sites[-2:]

    undo = install(type(right)("MatMul", right.kind, wrong, right.edit))
    try:
        tally = stress.run(7, range(20), 5)
    finally:
        undo()
    assert tally.failures
    assert all("--seed 7 --only" in f for f in tally.failures)
    assert "## Failures" in stress.report(tally, 7, 1.0)


def test_the_report_names_what_was_never_exercised() -> None:
    text = stress.report(stress.run(7, range(5), 5), 7, 60.0)
    assert "| graphs | 5 |" in text
    assert "| **failures and crashes** | **0** |" in text
    assert "Never exercised: A" in text


def test_a_run_ends_in_time() -> None:
    assert not stress.run(7, range(5), 0.0).graphs
