"""Going to integers and back, and element-wise operators on integers with a scale and a zero point."""

from __future__ import annotations

import numpy as np

from graphprune.algebra import Axis
from graphprune.rules.concat_slice import join
from graphprune.rules.context import Relate
from graphprune.rules.kinds import broadcast, first_input_pointwise, parameters, pointwise, statistics
from graphprune.rules.registry import rule

_BLOCKS = "its values are quantised in blocks, which leave as a whole"


@rule(
    "QuantizeLinear",
    "DequantizeLinear",
    "com.microsoft.QuantizeLinear",
    "com.microsoft.DequantizeLinear",
    kind="PARAM",
)
def quantize(r: Relate) -> None:
    """Scale and zero point per tensor, per position of ``axis``, or per block of ``block_size`` along it."""
    axes = r.axes(0)
    rank, axis = len(axes), int(r.attr("axis", 1))
    if r.attr("block_size", 0) and r.rank(1) == rank:
        for slot in (1, 2):
            for a in range(rank if r.has(slot) else 0):
                if a == axis % rank:
                    whole_blocks(r, axes[a], r.axis(slot, a), int(r.attr("block_size")))
                else:
                    r.tie(slot, a, axes[a])
    elif r.rank(1) == 1 and r.shape(1) != (1,):
        parameters(r, (1, 2), axes[axis])
    r.out(axes)


def whole_blocks(r: Relate, axis: Axis, blocks: Axis, size: int) -> None:
    """State that an axis leaves in blocks of ``size`` consecutive positions; the last block may be shorter."""
    if axis.n % size:
        r.eq(axis, r.index(blocks, np.arange(axis.n) // size))
        return
    outer, inner = r.split(axis, axis.n // size, size)
    if not inner.frozen:
        r.store.freeze(inner, r.why(_BLOCKS))
    r.eq(outer, blocks)


@rule("DynamicQuantizeLinear", kind="STAT", level="restricted")
def dynamic_quantize(r: Relate) -> None:
    """Scale and zero point come from the range of the whole tensor: of what is kept of it."""
    statistics(r, 0)
    r.out(r.axes(0))
    r.out([], 1)
    r.out([], 2)


rule("BitCast", kind="POINTWISE")(pointwise)
rule("com.microsoft.QLinearSigmoid", "com.microsoft.QLinearLeakyRelu", kind="POINTWISE")(first_input_pointwise)


@rule("com.microsoft.QLinearAdd", "com.microsoft.QLinearMul", kind="POINTWISE")
def two_operands(r: Relate) -> None:
    """A, its scale and zero point, B, its scale and zero point, scale and zero point of the result."""
    r.out(broadcast(r, (0, 3)))


@rule("com.microsoft.QLinearWhere", kind="POINTWISE")
def where(r: Relate) -> None:
    """Condition, X with scale and zero point, Y with scale and zero point."""
    r.out(broadcast(r, (0, 1, 4)))


@rule("com.microsoft.QLinearConcat", kind="REINDEX")
def concat(r: Relate) -> None:
    """Scale and zero point of the result, then every part with its own."""
    join(r, range(2, len(r.node.inputs), 3))


@rule("com.microsoft.QLinearSoftmax", kind="STAT")
def softmax(r: Relate) -> None:
    """As Softmax of the operator set named in ``opset``: before 13 all axes from ``axis`` on are summed."""
    rank, old = r.rank(0), int(r.attr("opset", 13)) < 13
    start = int(r.attr("axis", 1 if old else -1)) % rank
    for a in range(start, rank if old else start + 1):
        r.freeze(0, a, "its values are normalised to sum to one")
    r.out(r.axes(0))
