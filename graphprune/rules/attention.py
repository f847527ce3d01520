"""Attention as one operator: heads, head dims of q and k, head dims of v."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from graphprune.algebra import Axis
from graphprune.rules.context import Relate
from graphprune.rules.edit import Edit, Kept
from graphprune.rules.registry import rule

TOKENS = "attention goes over all tokens"


@dataclass(frozen=True, slots=True)
class Heads:
    """Labels inside an attention operator.

    Attributes:
        group: Key/value heads; a query head is (group, query).
        query: The j-th query head of every group.
        dims: Head dims of q and k.
        value: Head dims of v.
    """

    group: Axis
    query: Axis
    dims: Axis
    value: Axis

    def queries(self, r: Relate) -> Axis:
        """All query heads."""
        return r.merge(self.group, self.query)


def freeze_axes(r: Relate, slot: int, *axes: int, text: str = TOKENS) -> None:
    """Freeze some axes of an input."""
    for a in axes:
        r.freeze(slot, a, text)


def head_axes(r: Relate, slot: int, count: int) -> tuple[Axis, Axis]:
    """Heads and head dims of an input (B, T, heads * dims) or (B, heads, T, dims); batch and tokens stay."""
    if r.rank(slot) == 4:
        freeze_axes(r, slot, 0, 2)
        return r.axis(slot, 1), r.axis(slot, 3)
    freeze_axes(r, slot, 0, 1)
    heads, dims = r.split(r.axis(slot, 2), count, r.shape(slot)[2] // count)
    return heads, dims


def tie_cache(r: Relate, slot: int, heads: Axis, dims: Axis) -> None:
    """A cache (B, heads, T, dims)."""
    if r.has(slot):
        freeze_axes(r, slot, 0, 2)
        r.tie(slot, 1, heads)
        r.tie(slot, 3, dims)


def tie_mask(r: Relate, slot: int, heads: Axis) -> None:
    """A mask or bias that broadcasts to (B, heads, T, T)."""
    if r.has(slot):
        rank = r.rank(slot)
        for a in range(rank):
            if a != rank - 3 or r.shape(slot)[a] == 1:
                r.freeze(slot, a, TOKENS)
            else:
                r.tie(slot, a, heads)


def tokens(r: Relate, n: int) -> Axis:
    """A batch or token axis of an output."""
    return r.frozen(n, TOKENS)


def out_heads(r: Relate, slot: int, heads: Axis, dims: Axis) -> None:
    """An output (B, heads, T, dims) or (B, T, heads * dims)."""
    if slot < len(r.node.outputs) and r.node.outputs[slot]:
        shape = r.output(slot).shape
        assert shape is not None
        if len(shape) == 4:
            r.out([tokens(r, shape[0]), heads, tokens(r, shape[2]), dims], slot)
        else:
            r.out([tokens(r, shape[0]), tokens(r, shape[1]), r.merge(heads, dims)], slot)


def out_scores(r: Relate, slot: int, heads: Axis) -> None:
    """An output (B, heads, T, T)."""
    if slot < len(r.node.outputs) and r.node.outputs[slot]:
        b, _, t, s = r.output(slot).shape or (0, 0, 0, 0)
        r.out([tokens(r, b), heads, tokens(r, t), tokens(r, s)], slot)


def attention_macs(r: Relate, batch: int, length: int, total: int, heads: Heads) -> None:
    """Both products: q k over the dims, probabilities times v."""
    pairs = max(batch, 1) * max(length, 1) * max(total, 1)
    r.macs(pairs, heads.group, heads.query, heads.dims)
    r.macs(pairs, heads.group, heads.query, heads.value)


def kept_heads(kept: Kept | None, size: int, count: int) -> int:
    """Heads that are left of a merged axis of ``size`` positions in ``count`` heads."""
    return count if kept is None else len(np.unique(kept // (size // count)))


def hold_scale(e: Edit, dims: int, unset: tuple[float | None, ...] = (None,)) -> None:
    """Write down the scale that followed from the original head size."""
    if e.attr("scale") in unset:
        e.change.attrs["scale"] = 1.0 / math.sqrt(dims)


# -- the standard operator -------------------------------------------------------------------------------


def attention_heads(e: Edit) -> None:
    """Numbers of heads of merged inputs, and the scale of the original head size."""
    if len(e.in_shape(0)) == 4:
        if e.kept(0, 3) is not None:
            hold_scale(e, e.in_shape(0)[3])
        return
    heads, groups = int(e.attr("q_num_heads")), int(e.attr("kv_num_heads"))
    width, kv_width = e.in_shape(0)[2], e.in_shape(1)[2]
    if e.kept(0, 2) is not None:
        hold_scale(e, width // heads)
    e.change.attrs["q_num_heads"] = kept_heads(e.kept(0, 2), width, heads)
    e.change.attrs["kv_num_heads"] = kept_heads(e.kept(1, 2), kv_width, groups)


@rule("Attention", kind="GROUPED", edit=attention_heads)
def attention(r: Relate) -> None:
    """Whole key/value heads with their queries, the j-th queries of all groups, dims of q and k, dims of v."""
    four = r.rank(0) == 4
    count = r.shape(0)[1] if four else int(r.attr("q_num_heads"))
    groups = r.shape(1)[1] if four else int(r.attr("kv_num_heads"))
    queries, dims = head_axes(r, 0, count)
    group, query = r.split(queries, groups, count // groups)
    heads = Heads(group, query, dims, head_axes(r, 2, groups)[1])
    for slot in (1, 2):
        found, width = head_axes(r, slot, groups)
        r.eq(found, group)
        if slot == 1:
            r.eq(width, dims)
    tie_mask(r, 3, heads.queries(r))
    tie_cache(r, 4, group, dims)
    tie_cache(r, 5, group, heads.value)
    if r.has(6):
        r.freeze_all(6, TOKENS)
    r.contract(0, -1)
    r.contract(1, -1)
    out_heads(r, 0, heads.queries(r), heads.value)
    out_heads(r, 1, group, dims)
    out_heads(r, 2, group, heads.value)
    out_scores(r, 3, heads.queries(r))
    token_axis = 2 if four else 1
    past = r.shape(4)[2] if r.has(4) else 0
    attention_macs(r, r.shape(0)[0], r.shape(0)[token_axis], r.shape(1)[token_axis] + past, heads)
