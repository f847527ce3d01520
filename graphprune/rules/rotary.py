"""Rotary positions: dims turn in pairs."""

from __future__ import annotations

import numpy as np

from graphprune.algebra import Axis
from graphprune.rules.attention import TOKENS, freeze_axes, head_axes, kept_heads
from graphprune.rules.context import Relate, Unsupported
from graphprune.rules.edit import Edit
from graphprune.rules.registry import rule


def turned_pairs(r: Relate, dims: Axis, rotated: int, *, interleaved: bool) -> Axis:
    """Tie the two dims of every pair among the first ``rotated`` dims; the labels of the pairs."""
    first = r.index(dims, np.arange(rotated))
    two, pairs = r.split(first, 2, rotated // 2) if not interleaved else r.split(first, rotated // 2, 2)[::-1]
    if not two.frozen:
        r.store.freeze(two, r.why("two dims turn together"))
    return pairs


def tie_tables(r: Relate, slots: tuple[int, int], pairs: Axis) -> None:
    """Cosine and sine tables end in an axis of pairs; positions stay."""
    for slot in slots:
        freeze_axes(r, slot, *range(r.rank(slot) - 1), text="positions are looked up in it")
        r.tie(slot, -1, pairs)


def _tables(domain: str) -> tuple[int, int]:
    return (2, 3) if domain else (1, 2)


def _layout(shape: tuple[int, ...], table: int, heads: int) -> tuple[int, int]:
    """Number of heads and head size; without a number the table covers the whole head."""
    if len(shape) == 4:
        return shape[1], shape[3]
    size = shape[-1] // heads if heads else 2 * table
    return shape[-1] // size, size


def rotary_heads(e: Edit) -> None:
    """The number of heads of a merged input, and the number of rotated dims where only some are."""
    cos = _tables(e.node.domain)[0]
    shape, table = e.in_shape(0), e.in_shape(cos)[-1]
    count, size = _layout(shape, table, int(e.attr("num_heads", 0)))
    if e.attr("num_heads", 0):
        e.change.attrs["num_heads"] = kept_heads(e.kept(0, 2), shape[-1], count) if len(shape) == 3 else e.in_size(0, 1)
    if e.attr("rotary_embedding_dim", 0) or 2 * table < size:
        e.change.attrs["rotary_embedding_dim"] = 2 * e.in_size(cos, len(e.in_shape(cos)) - 1)


@rule("RotaryEmbedding", "com.microsoft.RotaryEmbedding", kind="GROUPED", edit=rotary_heads)
def rotary(r: Relate) -> None:
    """Heads are free; the rotated dims leave in pairs, the dims behind them one by one."""
    if r.rank(0) not in (3, 4) or r.attr("is_packed_batching", 0):
        raise Unsupported("packed batches of rotary positions are not supported")
    tables = _tables(r.node.domain)
    table = r.shape(tables[0])[-1]
    count, size = _layout(r.shape(0), table, int(r.attr("num_heads", 0)))
    _, dims = head_axes(r, 0, count)
    rotated = int(r.attr("rotary_embedding_dim", 0)) or (2 * table if r.node.domain else size)
    pairs = turned_pairs(r, dims, rotated, interleaved=bool(r.attr("interleaved", 0)))
    tie_tables(r, (tables[0], tables[1]), pairs)
    positions = 1 if r.node.domain else 3
    if r.has(positions):
        r.freeze_all(positions, TOKENS)
    r.out(r.axes(0))
