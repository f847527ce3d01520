"""Magnitude compared inside modules: units of one kind share a scale over the whole network, unlike kinds do not.

Source: He and Zhou, "Data-independent Module-aware Pruning for Hierarchical Vision Transformers", ICLR 2024. The
paper's modules are the attention, the MLP and the other layers; here they are the kinds of groups (heads, head dims,
FFN width, residual width, channels, …). A score is the distortion of the module: the share of its energy that leaves.
"""

from __future__ import annotations

import numpy as np

from graphprune.coupling.groups import DependencyGraph
from graphprune.importance.lamp import share_of_larger
from graphprune.importance.slices import Slices
from graphprune.importance.weights import power_slices


def dimap(deps: DependencyGraph, seed: int) -> Slices:  # noqa: ARG001 - criteria share one signature
    """Squared norm of a unit over the sum of those of all units of its kind that are not smaller."""
    kinds = {kind: number for number, kind in enumerate(dict.fromkeys(g.kind for g in deps.groups))}
    module = np.full(deps.state.store.count, -1, np.int32)
    for group in deps.groups:
        module[group.units] = kinds[group.kind]
    return Slices(power_slices(deps, power=2), lambda squares: share_of_larger(squares, module))
