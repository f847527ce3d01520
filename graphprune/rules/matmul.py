"""Matrix products: the contracted axes are tied, the others pass."""

from __future__ import annotations

from graphprune.algebra import Axis
from graphprune.rules.context import Relate
from graphprune.rules.registry import rule


@rule("MatMul", kind="CONTRACT")
def matmul(r: Relate) -> None:
    """numpy.matmul: 1-D operands gain an axis, batch axes broadcast."""
    left, right = r.rank(0), r.rank(1)
    inner = -2 if right > 1 else -1
    if r.unlabelled(0):
        r.tie(0, -1, r.axis(1, inner))
    else:
        r.tie(1, inner, r.axis(0, -1))
    r.contract(0, -1)
    r.contract(1, inner)
    axes = _batch_axes(r, left, right)
    if left > 1:
        axes.append(r.axis(0, -2))
    if right > 1:
        axes.append(r.axis(1, -1))
    r.out(axes)
    r.macs(1, *axes, r.axis(0, -1))


def _batch_axes(r: Relate, left: int, right: int) -> list[Axis]:
    axes: list[Axis] = []
    for a in range(-max(left, right), -2):
        have = [s for s, rank in ((0, left), (1, right)) if rank >= -a]
        wide = [s for s in have if r.shape(s)[a] != 1 or r.value(s).dynamic[a]] or have[:1]
        wide.sort(key=r.unlabelled)
        first = r.axis(wide[0], a)
        for s in wide[1:]:
            r.tie(s, a, first)
        axes.append(first)
    return axes


@rule("Gemm", kind="CONTRACT")
def gemm(r: Relate) -> None:
    """alpha·A'·B' + beta·C with optional transposes; C broadcasts to the result."""
    m, k = (1, 0) if r.attr("transA", 0) else (0, 1)
    n, k2 = (0, 1) if r.attr("transB", 0) else (1, 0)
    if r.unlabelled(0):
        r.tie(0, k, r.axis(1, k2))
    else:
        r.tie(1, k2, r.axis(0, k))
    r.contract(0, k)
    r.contract(1, k2)
    axes = [r.axis(0, m), r.axis(1, n)]
    if r.has(2):
        for a in range(-r.rank(2), 0):
            if r.shape(2)[a] != 1:
                r.tie(2, a, axes[a])
    r.out(axes)
    r.macs(1, *axes, r.axis(0, k))
