"""PyTorch's matrix products."""

from __future__ import annotations

from graphprune.rules.aten import aten, slot
from graphprune.rules.context import Relate
from graphprune.rules.einsum import einsum
from graphprune.rules.kinds import parameters
from graphprune.rules.matmul import inner_axis, matrix_product


@aten("linear", kind="CONTRACT")
def linear(r: Relate) -> None:
    """X · weightᵀ + bias over the last axis."""
    weight = slot(r, "weight")
    if r.unlabelled(0):
        r.tie(0, -1, r.axis(weight, -1))
    else:
        r.tie(weight, -1, r.axis(0, -1))
    r.contract(0, -1)
    axes = r.axes(0)[:-1]
    if r.rank(weight) == 2:
        axes.append(r.axis(weight, 0))
        parameters(r, [slot(r, "bias")], axes[-1])
    r.out(axes)
    r.macs(1, *axes, r.axis(0, -1))


@aten("matmul", "mm", "bmm", "mv", "dot", kind="CONTRACT")
def matmul(r: Relate) -> None:
    """torch.matmul: 1-D operands gain an axis, batch axes broadcast."""
    _product(r, 0, 1)


@aten("addmm", "baddbmm", "addmv", kind="CONTRACT")
def addmm(r: Relate) -> None:
    """beta·self + alpha·(A · B); the first operand broadcasts to the result."""
    _product(r, 1, 2, added=0)


def _product(r: Relate, left: int, right: int, added: int = -1) -> None:
    axes = matrix_product(r, left, right)
    r.contract(left, -1)
    r.contract(right, inner_axis(r, right))
    if added >= 0:
        for a in range(-r.rank(added), 0):
            if r.shape(added)[a] != 1:
                r.tie(added, a, axes[a])
    r.out(axes)
    r.macs(1, *axes, r.axis(left, -1))


aten("einsum", kind="CONTRACT")(einsum)


@aten("bilinear", kind="CONTRACT")
def bilinear(r: Relate) -> None:
    """Weight (O, I1, I2): both inputs are summed over their last axis."""
    weight = slot(r, "weight")
    for s, a in ((0, 1), (1, 2)):
        r.tie(weight, a, r.axis(s, -1))
        r.contract(s, -1)
    axes = []
    for a in range(r.rank(0) - 1):
        r.tie(1, a, r.axis(0, a))
        axes.append(r.axis(0, a))
    axes.append(r.axis(weight, 0))
    parameters(r, [slot(r, "bias")], axes[-1])
    r.out(axes)
    r.macs(1, *axes, r.axis(0, -1), r.axis(1, -1))


@aten("outer", "ger", kind="POINTWISE")
def outer(r: Relate) -> None:
    """All products of two vectors."""
    r.out([r.axis(0, 0), r.axis(1, 0)])
