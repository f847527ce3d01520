"""Attention as a recurrence over a state of key dims by value dims."""

from __future__ import annotations

from graphprune.rules.attention import (
    TOKENS,
    Heads,
    attention_macs,
    freeze_axes,
    head_axes,
    hold_scale,
    kept_heads,
    out_heads,
    tokens,
)
from graphprune.rules.context import Relate, Unsupported
from graphprune.rules.edit import Edit
from graphprune.rules.registry import rule


def linear_heads(e: Edit) -> None:
    """Numbers of heads, and the scale of the original key size."""
    heads, groups = int(e.attr("q_num_heads")), int(e.attr("kv_num_heads"))
    if e.kept(0, 2) is not None:
        hold_scale(e, e.in_shape(0)[2] // heads, (None, 0.0))
    e.change.attrs["q_num_heads"] = kept_heads(e.kept(0, 2), e.in_shape(0)[2], heads)
    e.change.attrs["kv_num_heads"] = kept_heads(e.kept(1, 2), e.in_shape(1)[2], groups)


@rule("LinearAttention", "com.microsoft.LinearAttention", kind="GROUPED", edit=linear_heads)
def linear_attention(r: Relate) -> None:
    """Inputs (B, T, heads * dims); the state is (B, key/value heads, key dims, value dims)."""
    count, groups = int(r.attr("q_num_heads")), int(r.attr("kv_num_heads"))
    if r.attr("state_window", 0) or count % groups:
        raise Unsupported("windows of states and more key/value heads than queries are not supported")
    queries, dims = head_axes(r, 0, count)
    group, query = r.split(queries, groups, count // groups)
    value_heads, value = head_axes(r, 2, groups)
    key_heads, key = head_axes(r, 1, groups)
    r.eq(key_heads, group)
    r.eq(value_heads, group)
    r.eq(key, dims)
    if r.has(3):
        freeze_axes(r, 3, 0)
        for a, axis in ((1, group), (2, dims), (3, value)):
            r.tie(3, a, axis)
    if r.has(4):
        freeze_axes(r, 4, 0, 1)
        r.tie(4, 2, r.merge(group, dims) if r.shape(4)[2] == r.shape(1)[2] else group)
    if r.has(5):
        freeze_axes(r, 5, 0, 1)
        if r.shape(5)[2] == groups:
            r.tie(5, 2, group)
    r.contract(0, 2)
    r.contract(1, 2)
    heads = Heads(group, query, dims, value)
    out_heads(r, 0, heads.queries(r), value)
    if len(r.node.outputs) > 1 and r.node.outputs[1]:
        r.out([tokens(r, r.shape(0)[0]), group, dims, value], 1)
    attention_macs(r, r.shape(0)[0], r.shape(0)[1], 1, Heads(group, query, dims, value))
    r.macs(r.shape(0)[0] * r.shape(0)[1], group, dims, value)


@rule("TensorScatter", kind="DYNINDEX")
def tensor_scatter(r: Relate) -> None:
    """Tokens are written into a cache; everything but batch and tokens passes."""
    axis = int(r.attr("axis", -2)) % r.rank(0)
    for slot in (0, 1):
        freeze_axes(r, slot, 0, axis, text="tokens are written at computed indices")
    for a in range(r.rank(0)):
        if a not in (0, axis):
            r.tie(1, a, r.axis(0, a))
    if r.has(2):
        r.freeze_all(2, TOKENS)
    r.out(r.axes(0))


@rule("CausalConvWithState", "com.microsoft.CausalConvWithState", kind="GROUPED")
def causal_conv(r: Relate) -> None:
    """A depthwise convolution over tokens: (B, channels, T), weight (channels, 1, k), state (B, channels, k - 1)."""
    if any(r.attr(name, default) != default for name, default in (("ndim", 1), ("channels_last", 0))) or r.attr(
        "state_window", 0
    ):
        raise Unsupported("only one token axis behind the channels is supported")
    channels = r.axis(0, 1)
    freeze_axes(r, 0, 0, 2)
    r.tie(1, 0, channels)
    r.freeze_window(1, 2)
    if r.has(2):
        r.tie(2, 0, channels)
    if r.has(3):
        freeze_axes(r, 3, 0, 2)
        r.tie(3, 1, channels)
    for slot in range(len(r.node.outputs)):
        if r.node.outputs[slot]:
            b, _, t = r.output(slot).shape or (0, 0, 0)
            r.out([tokens(r, b), channels, tokens(r, t)], slot)
    r.macs(r.shape(0)[0] * r.shape(0)[2] * r.shape(1)[2], channels)
