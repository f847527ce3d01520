"""Weights packed in quantised blocks along the summed axis: rows are free, blocks leave as a whole."""

from __future__ import annotations

import numpy as np

from graphprune.algebra import Axis
from graphprune.rules.context import Relate, Unsupported
from graphprune.rules.edit import Edit
from graphprune.rules.quantized import whole_blocks
from graphprune.rules.registry import rule


def packed_sizes(e: Edit) -> None:
    """N and K are written in attributes."""
    if e.kept(1, 0) is not None:
        e.change.attrs["N"] = e.in_size(1, 0)
    if e.kept(0, -1) is not None:
        e.change.attrs["K"] = e.in_size(0, -1)


@rule("com.microsoft.MatMulNBits", kind="CONTRACT", edit=packed_sizes)
def matmul_nbits(r: Relate) -> None:
    """A (…, K), B (N, blocks, bytes of one block), scales, zero points, group index of every k, bias (N)."""
    if r.attr("weight_prepacked", 0):
        raise Unsupported("its weights are packed for one kind of processor")
    rows, blocks = r.axis(1, 0), r.axis(1, 1)
    bits = int(r.attr("bits", 4))
    r.freeze_window(1, 2)
    whole_blocks(r, r.axis(0, -1), blocks, int(r.attr("block_size")))
    _per_block(r, 2, rows, blocks, 1)
    if r.has(3):
        packed = r.value(3).dtype == "uint8" and bits < 8
        _per_block(r, 3, rows, blocks, 8 // bits if packed else 1)
    if r.has(4):
        r.freeze(0, -1, "an index assigns its positions to blocks in any order")
        r.freeze_all(4, "its values are indices")
    if r.has(5):
        r.tie(5, 0, rows)
    r.contract(0, -1)
    axes = [*r.axes(0)[:-1], rows]
    r.out(axes)
    r.macs(1, *axes, r.axis(0, -1))


def _per_block(r: Relate, slot: int, rows: Axis, blocks: Axis, per_byte: int) -> None:
    """Tie an operand of one value per row and block, flat or not; bytes may hold several blocks of a row."""
    held = blocks if per_byte == 1 else r.fresh(-(-blocks.n // per_byte))
    if per_byte > 1:
        whole_blocks(r, blocks, held, per_byte)
    if r.rank(slot) == 1:
        r.tie(slot, 0, r.merge(rows, held))
    else:
        r.tie(slot, 0, rows)
        r.tie(slot, 1, held)


@rule("com.microsoft.MatMulBnb4", kind="OPAQUE")
def matmul_bnb4(r: Relate) -> None:
    """Blocks run across rows, so neither rows nor columns can leave."""
    why = "its weights are packed in blocks that run across rows"
    r.freeze(0, -1, why)
    for slot in (1, 2):
        r.freeze_all(slot, why)
    axes = [*r.axes(0)[:-1], r.frozen(int(r.attr("N")), why)]
    r.out(axes)
    r.macs(1, *axes, r.axis(0, -1))


@rule("com.microsoft.GatherBlockQuantized", kind="REINDEX")
def gather_blocks(r: Relate) -> None:
    """Data quantised in blocks along one axis, read at computed indices along another."""
    rank = r.rank(0)
    rows, axis = int(r.attr("gather_axis", 0)) % rank, int(r.attr("quantize_axis", 1)) % rank
    size, bits = int(r.attr("block_size", 128)), int(r.attr("bits", 4))
    per_byte = 8 // bits if r.value(0).dtype == "uint8" else 1
    if axis == rows or size % per_byte or (per_byte > 1 and axis != rank - 1):
        raise Unsupported("its blocks lie along an axis that cannot be cut")
    r.freeze(0, rows, "it is read at computed indices")
    axes = r.axes(0)
    blocks = r.axis(2, axis)
    whole_blocks(r, axes[axis], blocks, size // per_byte)
    held = blocks
    if r.has(3) and per_byte > 1:
        held = r.fresh(-(-blocks.n // per_byte))
        whole_blocks(r, blocks, held, per_byte)
    for a in range(rank):
        if a != axis:
            r.tie(2, a, axes[a])
        if r.has(3):
            r.tie(3, a, held if a == axis else axes[a])
    if per_byte > 1:
        axes[axis] = r.index(axes[axis], np.arange(axes[axis].n * per_byte) // per_byte)
    r.out([*axes[:rows], *r.axes(1), *axes[rows + 1 :]])
