"""Attention whose fused projection is an integer product."""

from __future__ import annotations

from graphprune.rules.context import Relate, Unsupported
from graphprune.rules.edit import Edit
from graphprune.rules.registry import rule

_STAY = "batch and positions cannot leave"


def head_count(e: Edit) -> None:
    """Heads leave as a whole."""
    kept = e.kept(1, 1)
    if kept is not None:
        heads = int(e.attr("num_heads"))
        e.change.attrs["num_heads"] = len(kept) * heads // e.in_shape(1)[1]


@rule("com.microsoft.QAttention", kind="GROUPED", edit=head_count)
def q_attention(r: Relate) -> None:
    """Input (B, S, I), weight (I, 3·heads·dims) for q, k and v; whole heads leave, so that the scale stays."""
    if r.has(8) or len([o for o in r.node.outputs if o]) > 1:
        raise Unsupported("attention with a cache keeps its heads")
    rows = r.axis(1, 1)
    heads = int(r.attr("num_heads"))
    parts, head, dims = r.split(rows, 3, heads, rows.n // (3 * heads))
    for axis, text in ((parts, "query, key and value go together"), (dims, "the scale depends on their number")):
        if not axis.frozen:
            r.store.freeze(axis, r.why(text))
    for a in (0, 1):
        r.freeze(0, a, _STAY)
    r.tie(1, 0, r.axis(0, 2))
    for slot in (2, 4, 7):
        if r.has(slot) and r.rank(slot) == 1 and r.shape(slot) != (1,):
            r.tie(slot, 0, rows)
    if r.has(5):
        r.freeze_all(5, _STAY)
    r.contract(0, 2, fill=6)
    hidden = r.merge(head, r.frozen(dims.n, "the scale depends on their number"))
    out = [r.axis(0, 0), r.axis(0, 1), hidden]
    r.out(out)
    batch, length = r.shape(0)[:2]
    r.macs(batch * length, r.axis(0, 2), rows)
    r.macs(2 * batch * length * length, hidden)
