"""onnxruntime's matrix products with transposed operands, a factor, or an activation behind."""

from __future__ import annotations

from graphprune.algebra import Axis
from graphprune.graph.contrib import operand_order
from graphprune.rules.context import Relate
from graphprune.rules.matmul import gemm
from graphprune.rules.registry import rule

rule("com.microsoft.FusedGemm", kind="CONTRACT")(gemm)


@rule("com.microsoft.FusedMatMul", "com.microsoft.TransposeMatMul", kind="CONTRACT")
def fused_matmul(r: Relate) -> None:
    """MatMul on operands seen in another order of their axes."""
    order = [
        operand_order(r.rank(slot), trans=bool(r.attr(f"trans{side}", 0)), batch=bool(r.attr(f"transBatch{side}", 0)))
        for slot, side in enumerate("AB")
    ]
    sums = order[0][-1], order[1][-2 if r.rank(1) > 1 else -1]
    if r.unlabelled(0):
        r.tie(0, sums[0], r.axis(1, sums[1]))
    else:
        r.tie(1, sums[1], r.axis(0, sums[0]))
    for slot in (0, 1):
        r.contract(slot, sums[slot])
    axes = _batch(r, order)
    if len(order[0]) > 1:
        axes.append(r.axis(0, order[0][-2]))
    if len(order[1]) > 1:
        axes.append(r.axis(1, order[1][-1]))
    r.out(axes)
    r.macs(1, *axes, r.axis(0, sums[0]))


def _batch(r: Relate, order: list[list[int]]) -> list[Axis]:
    """Broadcast batch axes."""
    axes: list[Axis] = []
    for a in range(-max(len(o) for o in order), -2):
        have = [(s, o[a]) for s, o in enumerate(order) if len(o) >= -a]
        wide = [(s, x) for s, x in have if r.shape(s)[x] != 1 or r.value(s).dynamic[x]] or have[:1]
        wide.sort(key=lambda place: r.unlabelled(place[0]))
        first = r.axis(*wide[0])
        for slot, axis in wide[1:]:
            r.tie(slot, axis, first)
        axes.append(first)
    return axes
