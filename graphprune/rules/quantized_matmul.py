"""Matrix products of integers: the terms are (a - zero point)·(b - zero point)."""

from __future__ import annotations

from collections.abc import Sequence

from graphprune.algebra import Axis
from graphprune.rules.context import Relate
from graphprune.rules.kinds import statistics
from graphprune.rules.matmul import inner_axis, matrix_product
from graphprune.rules.registry import rule


def _rows(r: Relate, slots: Sequence[int], axes: Sequence[Axis]) -> None:
    """Scales and zero points of the left operand: one, one per row, or (…, M, 1)."""
    for slot in slots:
        if r.has(slot) and r.rank(slot) == 1 and r.shape(slot) != (1,):
            r.tie(slot, 0, axes[-2])
        elif r.has(slot) and r.rank(slot) > 1:
            _columns(r, (slot,), axes)


def _columns(r: Relate, slots: Sequence[int], axes: Sequence[Axis]) -> None:
    """Scales, zero points and biases of the right operand: one, one per column, or (…, 1, N)."""
    for slot in slots:
        for a in range(-r.rank(slot) if r.has(slot) else 0, 0):
            if r.shape(slot)[a] != 1:
                r.tie(slot, a, axes[a])


def _integer_product(r: Relate, left: int, right: int, zeros: tuple[int, int]) -> list[Axis]:
    """The product's labels; removed positions count as the zero point of one operand, which suffices."""
    axes = matrix_product(r, left, right)
    if r.has(zeros[0]) and r.rank(zeros[0]) == 1 and r.shape(zeros[0]) != (1,):
        r.contract(right, inner_axis(r, right), fill=zeros[1])  # one per row broadcasts along the wrong axis
    else:
        r.contract(left, -1, fill=zeros[0])
    r.out(axes)
    r.macs(1, *axes, r.axis(left, -1))
    return axes


@rule("MatMulInteger", kind="CONTRACT")
def matmul_integer(r: Relate) -> None:
    """A, B, their zero points; the sum is int32."""
    axes = _integer_product(r, 0, 1, (2, 3))
    _rows(r, (2,), axes)
    _columns(r, (3,), axes)


@rule("QLinearMatMul", kind="CONTRACT")
def qlinear_matmul(r: Relate) -> None:
    """A, B and the result, each with scale and zero point."""
    axes = _integer_product(r, 0, 3, (2, 5))
    _rows(r, (1, 2, 6, 7), axes)
    _columns(r, (4, 5), axes)


@rule("com.microsoft.MatMulIntegerToFloat", kind="CONTRACT")
def matmul_to_float(r: Relate) -> None:
    """A, B, their scales, their zero points, a bias in float."""
    axes = _integer_product(r, 0, 1, (4, 5))
    _rows(r, (2, 4), axes)
    _columns(r, (3, 5, 6), axes)


@rule("com.microsoft.DynamicQuantizeMatMul", kind="CONTRACT", level="restricted")
def dynamic_matmul(r: Relate) -> None:
    """A in float, quantised by its range; B with scale, zero point and a bias."""
    axes = matrix_product(r, 0, 1)
    statistics(r, 0)  # the range of A decides how it is quantised
    statistics(r, 1, [inner_axis(r, 1)])
    _columns(r, (2, 3, 4), axes)
    r.out(axes)
    r.macs(1, *axes, r.axis(0, -1))


@rule("com.microsoft.QGemm", kind="CONTRACT")
def qgemm(r: Relate) -> None:
    """A and B with scale and zero point, C, scale and zero point of the result (none: it is float)."""
    m, k = (1, 0) if r.attr("transA", 0) else (0, 1)
    n, k2 = (0, 1) if r.attr("transB", 0) else (1, 0)
    if r.unlabelled(0):
        r.tie(0, k, r.axis(3, k2))
    else:
        r.tie(3, k2, r.axis(0, k))
    r.contract(0, k, fill=2)
    axes = [r.axis(0, m), r.axis(3, n)]
    _columns(r, (4, 5, 6), axes)
    r.out(axes)
    r.macs(1, *axes, r.axis(0, k))
