"""Fibres: a choice of its own inside every block.

The groups of a grouped convolution, the heads of an attention layer or the groups of a normalisation have to keep
the same *number* of offsets, not the same ones. The labels of offsets are interchangeable inside each block, so a
choice per block is a renumbering per block: unit r of such a factor then stands for the offset that is r-th in the
order of every block. Counts, costs and groups stay as they are; only where the units lie changes. An axis that
holds the factor while another axis of the same tensor holds the blocks becomes *ragged*: it has a list of kept
positions for every block, all of one length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from graphprune.algebra import Axis
from graphprune.algebra.axis import Ids
from graphprune.coupling.box import Ragged
from graphprune.coupling.factor import Factor
from graphprune.coupling.groups import DependencyGraph, Group

Ranks = NDArray[np.intp]
Types = dict[str, tuple[Axis | None, ...]]
_Use = tuple[Factor, Ids, int]  # a factor on a ragged axis, the units that replace its own, the axis of its blocks


@dataclass(frozen=True)
class Chosen:
    """An order of the offsets of a factor in every block.

    Attributes:
        factor: The factor.
        ranks: Rank of each offset in each block, shape (blocks, offsets): rows are permutations.
    """

    factor: Factor
    ranks: Ranks

    def members(self, ranks: Ranks) -> Ranks:
        """For every block the offsets that have these ranks, in their order, shape (blocks, ranks)."""
        return np.argsort(self.ranks, axis=1)[:, ranks]


def fibred(deps: DependencyGraph, chosen: Sequence[Chosen]) -> DependencyGraph:
    """The dependency graph in which unit r of each chosen factor is the offset of rank r in every block.

    Args:
        deps: A dependency graph; choices it has already are forgotten.
        chosen: An order per block for some of the factors in ``deps.fibres``.
    """
    shared = deps.shared or deps
    if not chosen:
        return shared
    types, ragged = relabelled(shared, [(c.factor, c.factor.units[c.ranks]) for c in chosen])
    return replace(shared, types=types, ragged=ragged, chosen=tuple(chosen), shared=shared)


def fine(deps: DependencyGraph) -> tuple[DependencyGraph, list[tuple[Factor, Ids]]]:
    """The dependency graph in which every offset of every block is a unit of its own, for scoring.

    Returns:
        The graph, whose ragged axes are labelled in ``ragged`` alone and in which every block of a factor is a group,
        and the new units of each factor, shape (blocks, offsets).
    """
    shared = deps.shared or deps
    store = shared.state.store.copy()
    labels = [(f, store.new(f.number * f.size).reshape(f.number, f.size)) for f in shared.fibres.factors]
    types, ragged = relabelled(shared, labels, hide=True)
    state = replace(shared.state, store=store)
    whole = {f.group: table for f, table in labels}
    groups = [part for group in shared.groups for part in _parts(group, whole.get(group.name))]
    return replace(shared, state=state, types=types, ragged=ragged, groups=tuple(groups), shared=shared), labels


def _parts(group: Group, table: Ids | None) -> list[Group]:
    """A group as it is, or one for each of its blocks."""
    return [group] if table is None else [replace(group, units=row) for row in table]


def relabelled(
    deps: DependencyGraph, labels: Sequence[tuple[Factor, Ids]], *, hide: bool = False
) -> tuple[Types, dict[tuple[str, int], Ragged]]:
    """Labels in which each factor's units are replaced by one per block and offset.

    Args:
        deps: Where the labels come from.
        labels: Factors with the units that replace theirs, shape (blocks, offsets).
        hide: Whether ragged axes lose the factor's units in the labels of the axis alone.
    """
    bases = _merged(deps, labels)
    uses: dict[tuple[str, int], list[_Use]] = {(p.tensor, p.axis): [] for f, _ in labels for p in f.places}
    for factor, table in labels:
        for place in factor.places:
            if not place.merged:
                uses[place.tensor, place.axis].append((factor, table, place.block))
    types, ragged = dict(deps.types), {}
    axes: dict[tuple[int, ...], Axis] = {}  # equal axes stay one object
    tables: dict[tuple[int, ...], Ragged] = {}
    for (tensor, a), here in uses.items():
        axis = _labelled(deps, tensor, a)
        base, factors = bases.get(id(axis), axis.units), [f for f, _, _ in here]
        assert base is not None
        key = (id(axis), *(id(f) for f in factors if hide))
        if key not in axes:
            axes[key] = _axis(axis, base, factors if hide else [])
        types[tensor] = (*types[tensor][:a], axes[key], *types[tensor][a + 1 :])
        if here:
            block = factors[0].types[tensor][here[0][2]]
            assert block is not None
            key = (id(axis), id(block), here[0][2], *(id(f) for f in factors))
            if key not in tables:
                tables[key] = _ragged(axis, block, base, here)
            ragged[tensor, a] = tables[key]
    return types, ragged


def _labelled(deps: DependencyGraph, tensor: str, a: int) -> Axis:
    axis = deps.types[tensor][a]
    assert axis is not None, "a factor lies on labelled axes"
    return axis


def _merged(deps: DependencyGraph, labels: Sequence[tuple[Factor, Ids]]) -> dict[int, Ids]:
    """New labels of the axes that are products of blocks and factors; blocks are always read off the old ones."""
    out: dict[int, Ids] = {}
    for factor, table in labels:
        axes = [_labelled(deps, p.tensor, p.axis) for p in factor.places if p.merged]
        for axis in {id(a): a for a in axes}.values():
            assert axis.units is not None
            rows, columns, j = factor.offsets(axis)
            new = out.setdefault(id(axis), axis.units.copy())
            new[rows, columns] = table[factor.block_of(axis)[rows], j]
    return out


def _axis(axis: Axis, base: Ids, hidden: Sequence[Factor]) -> Axis:
    """The axis under its new labels, without the units of some factors."""
    if not hidden:
        return axis if base is axis.units else Axis(axis.n, base)
    base = base.copy()
    for factor in hidden:
        rows, columns, _ = factor.offsets(axis)
        base[rows, columns] = 0
    return Axis(axis.n, base)


def _ragged(axis: Axis, block: Axis, base: Ids, uses: Sequence[_Use]) -> Ragged:
    """Labels of a ragged axis for each position of the block axis."""
    out = np.repeat(base[None], block.n, axis=0)
    numbers = []
    for factor, table, _ in uses:
        rows, columns, j = factor.offsets(axis)
        numbers.append(factor.block_of(block))
        out[:, rows, columns] = table[numbers[-1][:, None], j[None, :]]
    _, heads = np.unique(np.stack(numbers, axis=1), axis=0, return_index=True)
    return Ragged(uses[0][2], out, np.sort(heads))
