"""A plan in the names of another form of the same network: a module, or a file exported from it.

Most weights have one name in both. What an exporter renamed is found by the module that reads it and by its sizes, as
it is or transposed. What it folded into a neighbour (a batch norm into its convolution, the biases of a recurrent
layer into one) follows from the couplings. Nothing is guessed: a cut that cannot be told is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from graphprune.algebra.axis import Ids
from graphprune.budget.record import make_plan
from graphprune.cost.model import CostModel
from graphprune.coupling.groups import DependencyGraph
from graphprune.errors import InputError
from graphprune.graph.modules import home, renamed
from graphprune.plan import Plan, is_lossless, positions

Shape = tuple[int, ...]
_DIRECTIONS = 2
Rows = Mapping[int, Sequence[int]]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A stored tensor under one of its names.

    Attributes:
        name: The name that its plan or graph uses.
        path: Path of the module it belongs to.
        shape: Sizes.
        renamed: Whether the name is an exporter's.
    """

    name: str
    path: str
    shape: Shape
    renamed: bool


def translated(deps: DependencyGraph, plan: Plan) -> Plan:
    """The plan itself where it names this model's weights, else one in this model's names.

    Raises:
        InputError: A cut cannot be told from what the two forms have in common, or does not fit the couplings here.
    """
    weights = deps.source.weights
    here = all(n in weights and weights[n].shape == plan.shapes.get(n, weights[n].shape) for n in plan.weights)
    alike = plan.shapes.keys() == {n for n, w in weights.items() if w.shape}
    if here and (alike or not plan.shapes or plan.blocks or is_lossless(plan)):
        return plan
    model = deps.source.name
    missing = next((n for n in plan.weights if n not in weights and (is_lossless(plan) or n not in plan.shapes)), None)
    if missing is not None:
        raise InputError(f"{model}: the plan cuts weight {missing}, which this model does not have")
    if plan.blocks:
        raise InputError(
            f"{model}: the plan was made for another form of the model and lets blocks choose their own offsets;"
            " make it with shared_offsets=True (--shared-offsets)"
        )
    deps = deps.shared or deps
    known, found = _known(deps, plan)
    _check_covered(deps, plan, found)
    units = _units(deps, known)
    cut = deps.cut(units)
    for name, rows in known.items():
        for axis, listed in rows.items():
            if positions(cut, name, axis, weights[name].shape[axis]) != sorted(listed):
                raise InputError(
                    f"{model}: the plan's cut of weight {name} axis {axis} does not fit this model's couplings;"
                    " it was made for another graph"
                )
    if not cut.removed.any():
        raise InputError(f"{model}: the plan removes nothing")
    cost = CostModel(deps)
    before, after = cost.costs(np.zeros_like(cut.removed)), cost.costs(cut.removed)
    return make_plan(deps, units, recipe=plan.recipe, before=asdict(before), after=asdict(after))


def _known(deps: DependencyGraph, plan: Plan) -> tuple[dict[str, Rows], set[str]]:
    """Removed positions of this model's weights as far as the plan tells, and the plan's weights that were found."""
    theirs: dict[str, list[_Entry]] = {}
    for entry in _entries(plan.shapes, plan.tied, plan.modules):
        theirs.setdefault(entry.path, []).append(entry)
    tied = getattr(deps.source.source, "tied", {})
    shapes = {n: w.shape for n, w in deps.source.weights.items()}
    unread = {(name, axis): set(lines) for name, axis, lines in deps.source.unread}
    known: dict[str, Rows] = {}
    found: set[str] = set()
    for mine in _entries(shapes, tied, renamed(deps.source)):
        real = tied.get(mine.name, mine.name)
        pairs = list(_same(mine, plan) or _alike(mine, theirs))
        told = [{a: tuple(_listed(plan, plan.tied.get(n, n), b)) for a, b in axes.items()} for n, axes in pairs]
        if not told or any(rows != told[0] for rows in told):
            continue  # nothing is said of it, or it may be one of several that lose other channels
        rows = {a: () if unread.get((real, a), set()).issuperset(listed) else listed for a, listed in told[0].items()}
        if known.setdefault(real, rows) != rows:
            raise InputError(f"{deps.source.name}: the plan cuts two weights that are one here, {real}, differently")
        found.update(plan.tied.get(name, name) for name, _ in pairs)
    return known, found


def _same(mine: _Entry, plan: Plan) -> list[tuple[str, dict[int, int]]]:
    """The weight of the plan that has this name."""
    shape = plan.shapes.get(plan.tied.get(mine.name, mine.name))
    if shape != mine.shape or (mine.renamed and plan.modules.get(mine.name) not in (None, mine.path)):
        return []
    return [(mine.name, {a: a for a in range(len(shape))})]


def _listed(plan: Plan, name: str, axis: int) -> Iterator[int]:
    for p in plan.weights.get(name, {}).get(axis, ()):
        assert isinstance(p, int)
        yield p


def _entries(shapes: Mapping[str, Shape], tied: Mapping[str, str], paths: Mapping[str, str]) -> Iterator[_Entry]:
    for name in (*shapes, *tied):
        real = tied.get(name, name)
        if real in shapes:
            path = paths.get(name, home(name))
            yield _Entry(name, path, shapes[real], name in paths)


def _alike(mine: _Entry, theirs: Mapping[str, Sequence[_Entry]]) -> Iterator[tuple[str, dict[int, int]]]:
    """Weights of the plan that one of this model may be, each with its axis for every axis here."""
    here = theirs.get(mine.path, [])
    inside = [e for path, listed in theirs.items() if path.startswith(f"{mine.path}.") for e in listed]
    for entries in (here, inside if mine.renamed else []):
        found = []
        for other in entries:
            axes = _axes(mine, other) if mine.renamed or other.renamed else None
            if axes is not None:
                found.append((other.name, axes))
        yield from found
        if found:
            return


def _axes(mine: _Entry, other: _Entry) -> dict[int, int] | None:
    """For axes here those of the other tensor, None where the sizes do not fit."""
    a, b = mine.shape, other.shape
    if len(a) == len(b) == 2 and a == b[::-1] and not (mine.renamed and other.renamed):
        return {0: 1, 1: 0}  # what a linear layer stores, as a product of matrices takes it
    if a == b:
        return {axis: axis for axis in range(len(a))}
    long, short = (a, b) if len(a) >= len(b) else (b, a)
    if len(long) == 3 and long[0] <= _DIRECTIONS and long[1:] == short:  # one tensor per direction, stacked
        axes = {axis + 1: axis for axis in range(len(short))}
    elif [n for n in long if n > 1] == [n for n in short if n > 1]:
        axes = dict(zip(*([i for i, n in enumerate(s) if n > 1] for s in (long, short)), strict=True))
    else:
        return None
    return axes if long is a else {j: i for i, j in axes.items()}


def _units(deps: DependencyGraph, known: Mapping[str, Rows]) -> Ids:
    """Units all of whose known positions are listed."""
    total = np.zeros(deps.state.store.count, np.int64)
    gone = np.zeros(deps.state.store.count, np.int64)
    for name, axis, labels in deps.weight_axes():
        listed = known.get(name, {}).get(axis)
        if labels.units is None or listed is None:
            continue
        mark = np.zeros(labels.n, bool)
        mark[list(listed)] = True
        for column in labels.units.T:
            total += np.bincount(column, minlength=len(total))
            gone += np.bincount(column[mark], minlength=len(total))
    total[0] = gone[0] = 0
    return np.flatnonzero((total > 0) & (gone == total)).astype(np.int32)


def _check_covered(deps: DependencyGraph, plan: Plan, found: set[str]) -> None:
    """Refuse a plan with a group whose weight is not known here: what leaves there cannot be told."""
    if all(group.name.rpartition("[")[0] in found for group in plan.groups):
        return
    name = next(n for n in plan.weights if n not in found)
    here = deps.source.weights.get(name)
    missing = "which this model does not have" if here is None else f"which has sizes {list(here.shape)} here"
    raise InputError(
        f"{deps.source.name}: the plan cuts weight {name}, {missing}, and no other can be told to be it: it was"
        " renamed, folded into another one, or may be any of several"
    )
