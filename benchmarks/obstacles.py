"""Why a model cannot be pruned further: shares of its weights and of its MACs, with reasons."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from graphprune.cost.model import CostModel


def _cause(reason: Any) -> str:
    return f"{reason.op}: {reason.text}" if reason.op else str(reason.text)


def obstacles(deps: Any) -> dict[str, list[tuple[str, float]]]:
    """What keeps granularity below 1, as shares of all weight elements.

    "blocked": positions that cannot leave, by reason. "coarse": rows that leave only together with others of
    their own axis (a head, a group), by weight axis.
    """
    total = 0.0
    sizes: dict[str, float] = {}
    coarse: Counter[str] = Counter()
    for name, axis, labels in deps.weight_axes():
        size = float(np.prod(deps.source.weights[name].shape, dtype=np.float64))
        sizes[name] = size
        total += size
        if labels.units is None:
            continue
        rows = labels.units[labels.units.any(axis=1)]
        tied = (len(rows) - len(np.unique(rows, axis=0))) * size / labels.n
        if tied:
            coarse[f"{name}[{axis}]"] += tied
    blocked: Counter[str] = Counter()
    for found in deps.blocked:
        blocked[_cause(found.reason)] += sizes[found.tensor] * found.positions / found.size
    return {
        kind: [(name, round(value / total, 4)) for name, value in tally.most_common(6)]
        for kind, tally in (("blocked", blocked), ("coarse", coarse))
    }


def fixed_macs(deps: Any) -> dict[str, Any]:
    """Share of the MACs that stays when every removable unit leaves, and the nodes that hold most of it."""
    cost = CostModel(deps)
    dense = sum(cost.node_macs(deps.cut(np.zeros(0, np.int32)).removed).values())
    units = [group.units for group in deps.groups]
    everything = deps.cut(np.concatenate(units) if units else np.zeros(0, np.int32))
    left = Counter({node: macs for node, macs in cost.node_macs(everything.removed).items() if macs})
    reasons: dict[str, str] = {}
    for found in deps.blocked:
        reasons.setdefault(found.tensor, _cause(found.reason))
    inputs = {node.name: node for node in deps.source.nodes}
    places = []
    for name, macs in left.most_common(5):
        why = next((reasons[i] for i in inputs[name].inputs if i in reasons), "") if name in inputs else ""
        places.append((name, round(macs / dense, 4), why or "no weight of its own"))
    return {"total": round(sum(left.values()) / dense, 4) if dense else 0.0, "nodes": places}
