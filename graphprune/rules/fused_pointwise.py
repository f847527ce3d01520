"""Activations that onnxruntime and newer operator sets fuse with a bias or a gate."""

from __future__ import annotations

from graphprune.rules.context import Relate
from graphprune.rules.kinds import broadcast, pointwise
from graphprune.rules.registry import rule

rule(
    "SwiGLU",
    "com.microsoft.BiasAdd",
    "com.microsoft.BiasGelu",
    "com.microsoft.FastGelu",
    kind="POINTWISE",
)(pointwise)


@rule("com.microsoft.BiasSplitGelu", kind="POINTWISE")
def bias_split_gelu(r: Relate) -> None:
    """The left half of the last axis is multiplied by the activated right half."""
    axes = broadcast(r, (0, 1))
    two, axes[-1] = r.split(axes[-1], 2, axes[-1].n // 2)
    if not two.frozen:
        r.store.freeze(two, r.why("both halves are multiplied"))
    r.out(axes)
