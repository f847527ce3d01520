"""Writes a removal down as a plan: what leaves in original coordinates, and what a bare checkpoint needs to follow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from graphprune.algebra.axis import Ids
from graphprune.coupling.cut import Cut
from graphprune.coupling.factor import numbered
from graphprune.coupling.groups import DependencyGraph, Group
from graphprune.graph.model import Graph
from graphprune.graph.modules import renamed
from graphprune.plan import Listed, Plan, PlannedBlocks, PlannedFibre, PlannedGroup, positions


def make_plan(
    deps: DependencyGraph,
    units: Ids,
    *,
    recipe: Mapping[str, Any],
    before: Mapping[str, int],
    after: Mapping[str, int],
) -> Plan:
    """Write down the removal of units."""
    cut = deps.cut(units)
    groups = []
    for group in deps.groups:
        gone = np.flatnonzero(cut.removed[group.units])
        if gone.size:
            removed, fibres = tuple(gone.tolist()), tuple(_planned_fibres(deps, group, cut))
            groups.append(
                PlannedGroup(name=group.name, size=group.size, kind=group.kind, removed=removed, fibres=fibres)
            )
    weights: dict[str, dict[int, Listed]] = {}
    blocks: dict[str, dict[int, PlannedBlocks]] = {}
    for name, axis, labels in deps.weight_axes():
        listed = positions(cut, name, axis, labels.n)
        if listed:
            weights.setdefault(name, {})[axis] = listed
            found = _blocks(cut, name, axis)
            if found is not None:
                blocks.setdefault(name, {})[axis] = found
    return Plan(
        recipe=dict(recipe),
        before=dict(before),
        after=dict(after),
        groups=tuple(groups),
        bypassed=deps.source.bypassed,
        weights=weights,
        io=cut.io(),
        blocks=blocks,
        shapes={w.name: w.shape for w in ({**deps.source.origin.weights, **deps.source.weights}).values() if w.shape},
        tied=dict(getattr(deps.source.source, "tied", {})),
        transient=_transient(deps.source),
        widths=_widths(deps, cut),
        modules=renamed(deps.source),
    )


def _planned_fibres(deps: DependencyGraph, group: Group, cut: Cut) -> Iterator[PlannedFibre]:
    """For the factors of a group that blocks choose from: which offsets leave in every block."""
    place = numbered(group.units, deps.state.store.count)
    for chosen in deps.chosen:
        ranks = np.flatnonzero(cut.removed[chosen.factor.units])
        if chosen.factor.group == group.name and ranks.size:
            numbers = place[chosen.factor.units]
            blocks = tuple(tuple(row) for row in numbers[chosen.members(ranks)].tolist())
            yield PlannedFibre(removed=tuple(numbers[ranks].tolist()), blocks=blocks)


def _blocks(cut: Cut, name: str, axis: int) -> PlannedBlocks | None:
    """How the rows listed for an axis belong to the positions of its block axis, None where there is one row."""
    ragged = cut.ragged(name, axis)
    if ragged is None:
        return None
    block, kept = ragged
    size, heads = cut.deps.source.weights[name].shape[block], cut.deps.ragged[name, axis].heads
    numbers = {kept[head].tobytes(): k for k, head in reversed([*enumerate(heads)])}
    of = [numbers[row.tobytes()] for row in kept]
    runs = np.arange(size) * len(heads) // size
    same = size % len(heads) == 0 and np.array_equal(kept[heads][runs], np.resize(kept, (size, kept.shape[1])))
    return PlannedBlocks(axis=block, of=() if same else tuple(np.resize(of, size).tolist()))


def _transient(graph: Graph) -> tuple[str, ...]:
    """Buffers of a PyTorch module that its state_dict leaves out."""
    module = getattr(graph.source, "module", None)
    saved = module.state_dict().keys() if module is not None else graph.weights
    return tuple(name for name in graph.weights if name not in saved)


def _widths(deps: DependencyGraph, cut: Cut) -> dict[str, dict[int, tuple[int, ...]]]:
    """What is left of all groups of each kind and size, cut or not."""
    found: dict[str, dict[int, set[int]]] = {}
    for group in deps.groups:
        left = int((~cut.removed[group.units]).sum())
        found.setdefault(group.kind, {}).setdefault(group.size, set()).add(left)
    return {kind: {n: tuple(sorted(left)) for n, left in sizes.items()} for kind, sizes in found.items()}
