"""Why a model cannot be pruned further: shares of its weights and of its MACs, with reasons."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from graphprune.cost.model import CostModel

INTERFACE = ("graph input", "graph output")
LOOKED_UP = ("read at computed indices", "its values are indices")


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


def free_share(deps: Any) -> float | None:
    """Granularity over the positions that no interface fixes: distinct removable rows per such position.

    Left out are positions frozen by a graph input or output, rows of lookup tables, and tensors that hold no
    parameters (indices, masks); None when nothing is left. Rows of an axis that is a product (heads by dims)
    count as distinct although they leave by whole heads or whole dims only.
    """
    store = deps.state.store
    fixed = np.array([r.op in INTERFACE or any(text in r.text for text in LOOKED_UP) for r in store.reasons])
    stored = _parameters(deps.source)
    total = free = 0.0
    for name, axis, labels in deps.weight_axes():
        if name not in stored:
            continue
        size = float(np.prod(deps.source.weights[name].shape, dtype=np.float64)) / labels.n
        stuck, distinct = np.ones(labels.n, bool), 0
        if labels.units is not None:
            stuck = ~labels.units.any(axis=1)
            distinct = len(np.unique(labels.units[~stuck], axis=0))
        why = store.why(deps.state.types[name][axis])
        total += size * (labels.n - int((stuck & fixed[why]).sum()))
        free += size * distinct
    return free / total if total else None


def _parameters(graph: Any) -> set[str]:
    """Stored tensors that count as parameters: floats, and integers that are dequantised."""
    quantised = {node.inputs[0] for node in graph.nodes if node.op == "DequantizeLinear"}
    floats = ("float", "bfloat", "double")
    return {name for name, w in graph.weights.items() if w.dtype.startswith(floats) or name in quantised}


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
