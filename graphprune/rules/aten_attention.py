"""PyTorch's attention operator: heads, head dims of q and k, head dims of v."""

from __future__ import annotations

import math

from graphprune.rules.aten import aten, given, slot
from graphprune.rules.context import Relate
from graphprune.rules.edit import Edit

_KEYS = "attention weighs all its positions against each other"


def hold_scale(e: Edit) -> None:
    """Write down the scale that followed from the original head size."""
    if e.kept(0, -1) is not None and e.attr("scale") is None:
        e.change.attrs["scale"] = 1.0 / math.sqrt(e.in_shape(0)[-1])


@aten("scaled_dot_product_attention", kind="GROUPED", edit=hold_scale)
def attention(r: Relate) -> None:
    """Q (…, H, L, E), k (…, H, S, E), v (…, H, S, V): heads and all axes before them broadcast, L passes, S stays."""
    query, key, value = (slot(r, n) for n in ("query", "key", "value"))
    mask = given(r, "attn_mask")
    r.tie(key, -1, r.axis(query, -1))
    r.tie(value, -2, r.axis(key, -2))
    r.freeze(key, -2, _KEYS)
    if r.attr("is_causal"):
        r.freeze(query, -2, _KEYS)
    lead = []
    for a in range(-max(r.rank(s) for s in (query, key, value)), -2):
        if a == -3 and r.attr("enable_gqa") and r.shape(query)[a] != r.shape(key)[a]:
            groups = r.shape(key)[a]
            outer, _ = r.split(r.axis(query, a), groups, r.shape(query)[a] // groups)
            r.eq(r.axis(key, a), outer)
            r.tie(value, a, r.axis(key, a))
            lead.append(r.axis(query, a))
            continue
        wide = [s for s in (query, key, value) if r.rank(s) >= -a and r.shape(s)[a] != 1]
        for s in wide[1:]:
            r.tie(s, a, r.axis(wide[0], a))
        lead.append(r.axis(wide[0], a) if wide else r.frozen(1, "an axis of one position"))
    for s in mask:
        whole = [*lead, r.axis(query, -2), r.axis(key, -2)]
        for a in range(1, r.rank(s) + 1):
            if r.shape(s)[-a] != 1:
                r.tie(s, -a, whole[-a])
    r.contract(query, -1)
    r.contract(key, -1)
    tokens = r.axis(query, -2)
    r.out([*lead, tokens, r.axis(value, -1)])
    r.macs(1, *lead, tokens, r.axis(key, -2), r.axis(query, -1))
    r.macs(1, *lead, tokens, r.axis(key, -2), r.axis(value, -1))
