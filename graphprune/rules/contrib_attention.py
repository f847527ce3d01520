"""onnxruntime's attention operators: packed projections, packed keys and values, rotary tables, caches."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from graphprune.algebra import Axis
from graphprune.rules.attention import (
    TOKENS,
    Heads,
    attention_macs,
    freeze_axes,
    head_axes,
    hold_scale,
    kept_heads,
    out_heads,
    out_scores,
    tie_cache,
    tie_mask,
    tokens,
)
from graphprune.rules.context import Relate, Unsupported
from graphprune.rules.edit import Edit
from graphprune.rules.registry import rule
from graphprune.rules.rotary import tie_tables, turned_pairs


def _cut(r: Relate, axis: Axis, sizes: list[int]) -> list[Axis]:
    """Consecutive parts of an axis."""
    bounds = np.cumsum([0, *sizes])
    return [r.index(axis, np.arange(a, b)) for a, b in pairwise(bounds)]


def _present(r: Relate, slots: tuple[int, ...]) -> bool:
    """Whether a cache goes in or comes out."""
    return any(r.has(s) for s in slots) or any(r.node.outputs[1:])


# -- Attention: the projection is inside -----------------------------------------------------------------


def _sizes(attr: list[int] | None, width: int) -> list[int]:
    return [int(n) for n in attr] if attr else [width // 3] * 3


def packed_heads(e: Edit) -> None:
    """Heads and the three widths of the packed projection."""
    kept, heads = e.kept(1, 1), int(e.attr("num_heads"))
    if kept is None:
        return
    sizes = _sizes(e.attr("qkv_hidden_sizes"), e.in_shape(1)[1])
    bounds = np.cumsum([0, *sizes])
    left = [int(((kept >= a) & (kept < b)).sum()) for a, b in pairwise(bounds)]
    hold_scale(e, sizes[0] // heads)
    e.change.attrs["num_heads"] = kept_heads(kept[kept < sizes[0]], sizes[0], heads)
    if e.attr("qkv_hidden_sizes") or len(set(left)) > 1:
        e.change.attrs["qkv_hidden_sizes"] = left


@rule("com.microsoft.Attention", kind="GROUPED", edit=packed_heads)
def attention(r: Relate) -> None:
    """Input (B, T, C), weight (C, q + k + v): the weight's columns are masked, nothing lies between them and q k."""
    count = int(r.attr("num_heads"))
    sizes = _sizes(r.attr("qkv_hidden_sizes"), r.shape(1)[1])
    freeze_axes(r, 0, 0, 1)
    r.tie(1, 0, r.axis(0, 2))
    parts = [
        r.split(axis, count, size // count) for axis, size in zip(_cut(r, r.axis(1, 1), sizes), sizes, strict=True)
    ]
    (group, dims), (key_heads, key), (value_heads, value) = parts
    r.eq(key_heads, group)
    r.eq(value_heads, group)
    r.eq(key, dims)
    if r.attr("do_rotary", 0):
        r.store.freeze(dims, r.why("it is turned inside the operator, which only knows some head sizes"))
    if _present(r, (4,)):
        r.eq(value, dims)
    if r.has(2):
        r.tie(2, 0, r.axis(1, 1))
        r.contract(2, 0)
    if r.has(4):
        freeze_axes(r, 4, 0, 1, 3)
        r.tie(4, 2, group)
        r.tie(4, 4, dims)
    for slot in (3, 6):
        if r.has(slot):
            r.freeze_all(slot, TOKENS)
    tie_mask(r, 5, group)
    r.contract(0, 2)
    r.contract(1, 0)
    r.contract(1, 1)
    out_heads(r, 0, group, value)
    if len(r.node.outputs) > 1 and r.node.outputs[1]:
        two, b, _, t, _ = r.output(1).shape or (0,) * 5
        r.out([tokens(r, two), tokens(r, b), group, tokens(r, t), dims], 1)
    batch, length = r.shape(0)[:2]
    r.macs(max(batch, 1) * max(length, 1), r.axis(0, 2), r.axis(1, 1))
    one = r.frozen(1, "every head has its own key")
    attention_macs(r, batch, length, length + (r.shape(4)[3] if r.has(4) else 0), Heads(group, one, dims, value))


# -- MultiHeadAttention ----------------------------------------------------------------------------------

_MHA = {"bias": 3, "mask": 4, "scores": 5, "past": 6, "rest": (8, 9)}
_DECODER = {"bias": 10, "mask": 3, "scores": 4, "past": 5, "rest": (7, 8, 9)}


def _slots(op: str) -> dict[str, int]:
    table = _DECODER if op.startswith("Decoder") else _MHA
    return {k: v for k, v in table.items() if isinstance(v, int)}


def multi_heads(e: Edit) -> None:
    """The number of heads, and the scale of the original head size."""
    heads, shape = int(e.attr("num_heads")), e.in_shape(0)
    if len(shape) == 5:
        dims, cut, left = shape[4], e.kept(0, 4) is not None, e.in_size(0, 2)
    else:
        kept = e.kept(0, 2)
        dims, cut, left = shape[2] // heads, kept is not None, kept_heads(kept, shape[2], heads)
    if cut:
        hold_scale(e, dims)
    e.change.attrs["num_heads"] = left


def _packed(r: Relate, slot: int, *, frozen: str = "queries, keys and values cannot leave") -> tuple[Axis, Axis]:
    """Heads and dims of (B, T, heads, 3 or 2, dims)."""
    freeze_axes(r, slot, 0, 1)
    r.freeze(slot, 3, frozen)
    return r.axis(slot, 2), r.axis(slot, 4)


@rule(
    "com.microsoft.MultiHeadAttention",
    "com.microsoft.DecoderMaskedMultiHeadAttention",
    kind="GROUPED",
    edit=multi_heads,
)
def multi_head(r: Relate) -> None:
    """Separate q, k, v of (B, T, heads * dims), caches of (B, heads, T, dims), or packed in five axes."""
    count, slots = int(r.attr("num_heads")), _slots(r.node.op)
    if not r.has(1) and r.rank(0) != 5:
        raise Unsupported("packed queries, keys and values are only supported in five axes")
    group, dims = _packed(r, 0) if r.rank(0) == 5 else head_axes(r, 0, count)
    value = dims
    for slot in (1, 2):
        if r.has(slot):
            heads, width = _packed(r, slot) if r.rank(slot) == 5 else head_axes(r, slot, count)
            r.eq(heads, group)
            if slot == 1:
                r.eq(width, dims)
            value = width
    if _present(r, (slots["past"],)) or (r.has(1) and r.rank(1) == 4):
        r.eq(value, dims)  # caches have one head size
    if r.has(slots["bias"]):
        whole = [r.merge(group, dims), r.merge(group, dims), r.merge(group, value)]
        r.tie(slots["bias"], 0, r.concat(whole))
        r.contract(slots["bias"], 0)
    tie_mask(r, slots["scores"], group)
    tie_cache(r, slots["past"], group, dims)
    tie_cache(r, slots["past"] + 1, group, value)
    for slot in {slots["mask"], *range(slots["past"] + 2, len(r.node.inputs))} - {slots["bias"]}:
        if r.has(slot):
            r.freeze_all(slot, TOKENS)
    r.contract(0, -1)
    if r.has(1):
        r.contract(1, -1)
    out_heads(r, 0, group, value)
    out_heads(r, 1, group, dims)
    out_heads(r, 2, group, value)
    out_scores(r, 3, group)
    batch, length = r.shape(0)[:2]
    total = r.shape(1)[2 if r.rank(1) == 4 else 1] if r.has(1) else length
    one = r.frozen(1, "every head has its own key")
    attention_macs(r, batch, length, total, Heads(group, one, dims, value))


# -- GroupQueryAttention ---------------------------------------------------------------------------------

_DIM_BLOCK = 8  # wider heads keep a multiple of it through --align; what misses it does not verify


def grouped_heads(e: Edit) -> None:
    """Numbers of heads, and the scale of the original head size."""
    heads, groups = int(e.attr("num_heads")), int(e.attr("kv_num_heads"))
    packed, kept = not e.has(1), e.kept(0, 2)
    size = e.in_shape(0)[2] // (heads + 2 * groups if packed else heads)
    if kept is None:
        return
    hold_scale(e, size, (None, 0.0))
    queries = kept[kept < heads * size]
    e.change.attrs["num_heads"] = kept_heads(queries, heads * size, heads)
    keys = kept[(kept >= heads * size) & (kept < (heads + groups) * size)] - heads * size if packed else e.kept(1, 2)
    e.change.attrs["kv_num_heads"] = kept_heads(keys, groups * size, groups)


@rule("com.microsoft.GroupQueryAttention", kind="GROUPED", edit=grouped_heads)
def grouped_query(r: Relate) -> None:
    """Whole key/value heads, the j-th queries of all groups, and dims that q, k and v share."""
    count, groups = int(r.attr("num_heads")), int(r.attr("kv_num_heads"))
    if r.has(12) or r.has(13):
        raise Unsupported("a quantised cache is not supported")
    if r.has(1):
        parts = [head_axes(r, slot, heads) for slot, heads in ((0, count), (1, groups), (2, groups))]
    else:
        size = r.shape(0)[2] // (count + 2 * groups)
        freeze_axes(r, 0, 0, 1)
        whole = _cut(r, r.axis(0, 2), [count * size, groups * size, groups * size])
        heads_of = (count, groups, groups)
        parts = [tuple(r.split(axis, n, size)) for axis, n in zip(whole, heads_of, strict=True)]  # type: ignore[misc]
    (queries, dims), (key_heads, key), (value_heads, value) = parts
    group, query = r.split(queries, groups, count // groups)
    for heads, width in ((key_heads, key), (value_heads, value)):
        r.eq(heads, group)
        r.eq(width, dims)  # caches and output have one head size
    if dims.n <= _DIM_BLOCK and not dims.frozen:
        r.store.freeze(dims, r.why("the operator only takes head sizes that are multiples of 8"))
    tie_cache(r, 3, group, dims)
    tie_cache(r, 4, group, dims)
    _turned(r, dims)
    for slot in (5, 6, 9):
        if r.has(slot):
            r.freeze_all(slot, TOKENS)
    whole_heads = r.merge(group, query)
    tie_mask(r, 10, whole_heads)
    if r.has(11):
        r.tie(11, 0, whole_heads)
    r.contract(0, 2)
    if r.has(1):
        r.contract(1, 2)
    out_heads(r, 0, whole_heads, dims)
    out_heads(r, 1, group, dims)
    out_heads(r, 2, group, dims)
    out_scores(r, 3, whole_heads)
    batch, length = r.shape(0)[:2]
    past = r.shape(3)[2] if r.has(3) else length
    attention_macs(r, batch, length, past, Heads(group, query, dims, dims))


def _turned(r: Relate, dims: Axis) -> None:
    """Rotary tables and norms inside the operator."""
    if r.has(7):
        pairs = turned_pairs(r, dims, 2 * r.shape(7)[-1], interleaved=bool(r.attr("rotary_interleaved", 0)))
        tie_tables(r, (7, 8), pairs)
    for slot in (14, 15):
        if r.has(slot):
            r.freeze(slot, 0, "it is normalised inside the operator")
            r.store.freeze(dims, r.why("it is normalised inside the operator"))
