"""The scale that a normalisation layer multiplies a channel with.

Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017. The paper reads
BatchNorm; the scales of other normalisations say the same of their channels. A file whose BatchNorm was folded into
its convolutions has none left there: such groups are ranked by l2.
"""

from __future__ import annotations

import numpy as np

from graphprune.coupling.groups import DependencyGraph
from graphprune.graph.model import Node
from graphprune.importance.slices import Slice, Slices, labels
from graphprune.importance.weights import not_finite

_SCALES = {
    "com.microsoft.SkipLayerNormalization": 2,
    "com.microsoft.SkipSimplifiedLayerNormalization": 2,
    "com.microsoft.EmbedLayerNormalization": 5,
}


def bn_scale(deps: DependencyGraph, seed: int) -> Slices:  # noqa: ARG001 - criteria share one signature
    """Absolute scale of the normalisation layers on a unit's channels."""
    parts = []
    weights = deps.source.weights
    for name in dict.fromkeys(n for node in deps.source.nodes for n in scales(node)):
        if name not in weights or weights[name].origin == "fill" or len(weights[name].shape) != 1:
            continue
        units = labels(deps, name, 0)
        if units is None:
            continue
        values = np.abs(weights[name].read().astype(np.float64))
        if not np.isfinite(values).all():
            raise not_finite(deps, name)
        parts.append(Slice(units, values))
    return Slices(parts)


def scales(node: Node) -> list[str]:
    """Names of the scales that a normalisation multiplies with."""
    slots = node.attrs.get("slots")
    if isinstance(slots, dict):  # an operator of PyTorch
        slot = slots.get("weight") if "norm" in node.op else None
        return [node.inputs[slot]] if isinstance(slot, int) else []
    if node.key in _SCALES:
        return [node.inputs[_SCALES[node.key]]]
    normal = node.op.endswith("Normalization") or node.op in ("GroupNorm", "SkipGroupNorm")
    return [node.inputs[1]] if normal and len(node.inputs) > 1 else []
