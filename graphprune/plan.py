"""The plan: what to remove, in original coordinates, as versioned JSON that replays on any model of the same names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from graphprune.algebra.axis import Ids
from graphprune.coupling.cut import Cut, Mask
from graphprune.coupling.factor import numbered
from graphprune.coupling.fibres import Chosen, fibred
from graphprune.coupling.groups import DependencyGraph
from graphprune.errors import InputError
from graphprune.graph.model import Bypass
from graphprune.rules.edit import Kept

VERSION = 1
_OPTIONAL = ("bypassed", "io", "blocks", "shapes", "tied", "widths", "transient", "attributes", "modules")
Listed = list[int] | list[list[int]]


class PlannedFibre(BaseModel):
    """What leaves each block where every block makes its own choice.

    Attributes:
        removed: Numbers within the group that stand for what leaves, ranks in the order of every block.
        blocks: For each block, in the order of the factor's blocks, the numbers of the offsets that leave there, one
            for each entry of ``removed``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    removed: tuple[int, ...]
    blocks: tuple[tuple[int, ...], ...]


class PlannedBlocks(BaseModel):
    """Where the blocks of a weight axis lie that loses other positions in every block.

    Attributes:
        axis: The axis of the same weight that tells the blocks apart.
        of: Number of the block of each of its positions; empty where the blocks are runs of equal length.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    axis: int
    of: tuple[int, ...] = ()


class PlannedGroup(BaseModel):
    """What one group loses.

    Attributes:
        name: Name of the group.
        size: Units before.
        kind: What it is: heads, FFN width, channels ...
        removed: Numbers of the removed units within the group.
        fibres: For units that every block orders anew: which leave where. Empty when all blocks lose the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size: int
    kind: str = ""
    removed: tuple[int, ...]
    fibres: tuple[PlannedFibre, ...] = ()


class Plan(BaseModel):
    """A removal in original coordinates.

    Attributes:
        version: Version of this format.
        recipe: The options that led to it, as given.
        before: Costs of the original ("macs", "params", "bytes").
        after: Costs that the removal leaves.
        groups: What each group loses; groups that lose nothing are left out.
        bypassed: Summands that are left out before anything is cut; groups and weights are those of what remains.
        weights: Removed positions per weight and axis, ascending; a list of them for each block where every
            block loses its own. A shared constant has an entry per use, "name@node:input".
        io: Removed positions per axis of graph inputs and outputs that were allowed to shrink.
        blocks: Where the blocks lie of weight axes that list their positions per block.
        shapes: Sizes of all weights of the original but scalars: what a checkpoint has to match.
        tied: Further names that a state dict has for a weight, with the name that stands here.
        widths: Per kind of group and number of units the numbers left, over all groups of that kind and size.
        transient: Weights that no checkpoint holds: buffers that are not saved.
        attributes: What else is set in the pruned module: module path → attribute → value.
        modules: Weights of a file whose names are the exporter's own, with the path of the module that reads them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    recipe: dict[str, Any] = {}
    before: dict[str, int] = {}
    after: dict[str, int] = {}
    groups: tuple[PlannedGroup, ...] = ()
    bypassed: tuple[Bypass, ...] = ()
    weights: dict[str, dict[int, Listed]] = {}
    io: dict[str, dict[int, list[int]]] = {}
    blocks: dict[str, dict[int, PlannedBlocks]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    tied: dict[str, str] = {}
    widths: dict[str, dict[int, tuple[int, ...]]] = {}
    transient: tuple[str, ...] = ()
    attributes: dict[str, dict[str, Any]] = {}
    modules: dict[str, str] = {}

    @property
    def allow_io(self) -> tuple[str, ...]:
        """Patterns of graph inputs and outputs that were allowed to shrink."""
        return tuple(self.recipe.get("allow_io", ()))

    def to_json(self) -> str:
        """Compact JSON with a line per group and weight; equal plans give equal text."""
        data = self.model_dump(mode="json")
        lines = [f" {json.dumps(k)}: {json.dumps(data[k])}" for k in ("version", "recipe", "before", "after")]
        groups = ",\n".join(f"  {json.dumps(g)}" for g in data["groups"])
        lines.append(f' "groups": [\n{groups}\n ]')
        for part in ("weights", *(p for p in _OPTIONAL if data[p])):
            if isinstance(data[part], dict):
                entries = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in data[part].items())
                lines.append(f' "{part}": {{\n{entries}\n }}')
            elif part == "bypassed":
                entries = ",\n".join(f"  {json.dumps(b)}" for b in data[part])
                lines.append(f' "{part}": [\n{entries}\n ]')
            else:
                lines.append(f' "{part}": {json.dumps(data[part])}')
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def read(cls, path: str | Path) -> Plan:
        """Read a plan from a JSON file.

        Raises:
            InputError: The file is missing, is no plan, or has another version.
        """
        path = Path(path)
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(p) for p in first["loc"]) or "the file"
            raise InputError(f"{path}: not a graphprune plan of version {VERSION} ({where}: {first['msg']})") from None


def is_lossless(plan: Plan) -> bool:
    """Whether a plan promises to change nothing."""
    return bool(plan.recipe.get("lossless", False))


def positions(cut: Cut, name: str, axis: int, size: int) -> Listed:
    """Removed positions of a weight axis, per block where it is ragged; empty when nothing leaves."""
    kept, ragged = cut.kept(name, axis), cut.ragged(name, axis)
    if kept is None:
        return []
    if ragged is None:
        return _others(kept, size)
    return [_others(row, size) for row in ragged[1][cut.deps.ragged[name, axis].heads]]


def _others(kept: Kept, size: int) -> list[int]:
    gone = np.ones(size, bool)
    gone[kept] = False
    return [int(p) for p in np.flatnonzero(gone)]


def planned_cut(deps: DependencyGraph, plan: Plan) -> Cut:
    """What a plan leaves of this model.

    Raises:
        InputError: A weight is missing, has another size, or the positions are not coupled as the plan assumes.
    """
    for name in plan.weights:
        if name not in deps.source.weights:
            raise InputError(f"{deps.source.name}: the plan cuts weight {name}, which this model does not have")
    deps = fibred(deps, list(_replayed(deps.shared or deps, plan)))
    cut = deps.cut(_planned_units(deps, plan))
    _check_fit(plan, cut)
    if not cut.removed.any() and not plan.bypassed:
        raise InputError(f"{deps.source.name}: the plan removes nothing")
    return cut


def _replayed(deps: DependencyGraph, plan: Plan) -> Iterator[Chosen]:
    """The orders per block that a plan chose; what stays comes in any order.

    Raises:
        InputError: This model has other blocks.
    """
    groups = {g.name: g.units for g in deps.groups}
    for planned in plan.groups:
        units = groups.get(planned.name, np.zeros(0, np.int32))
        for fibre in planned.fibres:
            chosen = _chosen(deps, planned.name, units, fibre)
            if chosen is None:
                raise InputError(
                    f"{deps.source.name}: the plan's blocks of group {planned.name} do not fit this model's couplings;"
                    " it was made for another graph"
                )
            yield chosen


def _chosen(deps: DependencyGraph, name: str, units: Ids, fibre: PlannedFibre) -> Chosen | None:
    """The order in every block of the factor that a fibre removes from, None when there is no such factor."""
    numbers = np.array([fibre.removed, *fibre.blocks], np.int64).reshape(len(fibre.blocks) + 1, -1)
    if not numbers.size or numbers.min() < 0 or numbers.max() >= len(units):
        return None
    for factor in deps.fibres.factors:
        local = numbered(factor.units, deps.state.store.count)[units[numbers]]
        if factor.group == name and factor.number == len(fibre.blocks) and (local >= 0).all():
            ranks = np.full((factor.number, factor.size), -1)
            np.put_along_axis(ranks, local[1:], local[:1], axis=1)
            rest = np.setdiff1d(np.arange(factor.size), local[0])
            if ((ranks < 0).sum(axis=1) != len(rest)).any():
                return None
            ranks[ranks < 0] = np.tile(rest, factor.number)
            return Chosen(factor, ranks)
    return None


def _planned_units(deps: DependencyGraph, plan: Plan) -> Ids:
    """Units all of whose positions a plan lists."""
    total = np.zeros(deps.state.store.count, np.int64)
    gone = np.zeros(deps.state.store.count, np.int64)
    for name, axis, labels in deps.weight_axes():
        if labels.units is not None:
            ragged = deps.ragged.get((name, axis))
            units = labels.units[None] if ragged is None else ragged.units[ragged.heads]
            mark = _marked(deps.source.name, plan, name, axis, units.shape[:2], ragged=ragged is not None)
            for column in np.moveaxis(units, -1, 0):
                total += np.bincount(column.ravel(), minlength=len(total))
                gone += np.bincount(column[mark], minlength=len(total))
    total[0] = gone[0] = 0
    return np.flatnonzero((total > 0) & (gone == total)).astype(np.int32)


def _marked(model: str, plan: Plan, name: str, axis: int, shape: tuple[int, ...], *, ragged: bool) -> Mask:
    """Which positions of a weight axis are listed: one row, or a row for each block.

    Raises:
        InputError: There are other blocks, or no such positions.
    """
    out = np.zeros(shape, bool)
    listed = plan.weights.get(name, {}).get(axis, [])
    if not listed:
        return out
    nested = isinstance(listed[0], list)
    rows = [np.array(row, np.int64) for row in (listed if nested else [listed])]
    if nested != ragged or len(rows) != len(out):
        raise InputError(f"{model}: the plan's blocks of weight {name} axis {axis} do not fit this model's couplings")
    for row, positions in zip(out, rows, strict=True):
        if positions.size and (positions.min() < 0 or positions.max() >= shape[1]):
            raise InputError(
                f"{model}: the plan removes positions {positions.min()} to {positions.max()} of weight {name}"
                f" axis {axis}, which has {shape[1]}"
            )
        row[positions] = True
    return out


def _check_fit(plan: Plan, cut: Cut) -> None:
    """Refuse a plan whose listed positions are not what its units remove, or that leaves an axis empty."""
    source = cut.deps.source
    for name, axes in plan.weights.items():
        shape = source.weights[name].shape
        for axis, listed in axes.items():
            kept = cut.kept(name, axis)
            size = shape[axis] if axis < len(shape) else 0
            if kept is not None and not len(kept):
                raise InputError(f"{source.name}: the plan removes all {size} positions of weight {name} axis {axis}")
            if axis >= len(shape) or _ascending(listed) != positions(cut, name, axis, size):
                raise InputError(
                    f"{source.name}: the plan's cut of weight {name} axis {axis} does not fit this model's couplings;"
                    " it was made for another graph"
                )


def _ascending(listed: Listed) -> Listed:
    nested = [sorted(row) for row in listed if isinstance(row, list)]
    return nested or sorted(p for p in listed if isinstance(p, int))
