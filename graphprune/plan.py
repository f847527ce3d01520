"""The plan: what to remove, in original coordinates, as versioned JSON that replays on any model of the same names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from graphprune.algebra.axis import Ids
from graphprune.coupling.cut import Cut
from graphprune.coupling.groups import DependencyGraph
from graphprune.errors import InputError

VERSION = 1


class PlannedGroup(BaseModel):
    """What one group loses.

    Attributes:
        name: Name of the group.
        size: Units before.
        removed: Numbers of the removed units within the group.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size: int
    removed: tuple[int, ...]


class Plan(BaseModel):
    """A removal in original coordinates.

    Attributes:
        version: Version of this format.
        recipe: The options that led to it, as given.
        before: Costs of the original ("macs", "params", "bytes").
        after: Costs that the removal leaves.
        groups: What each group loses; groups that lose nothing are left out.
        weights: Removed positions per weight and axis, ascending. A shared constant has an entry per use,
            "name@node:input".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    recipe: dict[str, Any] = {}
    before: dict[str, int] = {}
    after: dict[str, int] = {}
    groups: tuple[PlannedGroup, ...] = ()
    weights: dict[str, dict[int, list[int]]] = {}

    def to_json(self) -> str:
        """Compact JSON with a line per group and weight; equal plans give equal text."""
        data = self.model_dump(mode="json")
        lines = [f" {json.dumps(k)}: {json.dumps(data[k])}" for k in ("version", "recipe", "before", "after")]
        groups = ",\n".join(f"  {json.dumps(g)}" for g in data["groups"])
        weights = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in data["weights"].items())
        lines.append(f' "groups": [\n{groups}\n ]')
        lines.append(f' "weights": {{\n{weights}\n }}')
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
            groups.append(PlannedGroup(name=group.name, size=group.size, removed=tuple(gone.tolist())))
    weights: dict[str, dict[int, list[int]]] = {}
    for name, axis, labels in deps.weight_axes():
        kept = cut.kept(name, axis)
        if kept is not None:
            gone = np.setdiff1d(np.arange(labels.n), kept)
            weights.setdefault(name, {})[axis] = gone.tolist()
    return Plan(recipe=dict(recipe), before=dict(before), after=dict(after), groups=tuple(groups), weights=weights)


def planned_units(deps: DependencyGraph, plan: Plan) -> Ids:
    """Units that a plan removes from this model.

    Raises:
        InputError: A weight is missing, has another size, or the positions are not coupled as the plan assumes.
    """
    name_of_model = deps.source.name
    total = np.zeros(deps.state.store.count, np.int64)
    gone = np.zeros(deps.state.store.count, np.int64)
    for name in plan.weights:
        if name not in deps.source.weights:
            raise InputError(f"{name_of_model}: the plan cuts weight {name}, which this model does not have")
    marks: dict[tuple[str, int], np.ndarray[Any, Any]] = {}
    for name, axis, labels in deps.weight_axes():
        if labels.units is None:
            continue
        mark = np.zeros(labels.n, bool)
        positions = np.array(plan.weights.get(name, {}).get(axis, []), np.int64)
        if positions.size and (positions.min() < 0 or positions.max() >= labels.n):
            raise InputError(
                f"{name_of_model}: the plan removes positions {positions.min()} to {positions.max()} of weight {name}"
                f" axis {axis}, which has {labels.n}"
            )
        mark[positions] = True
        marks[name, axis] = mark
        for column in labels.units.T:
            np.add.at(total, column, 1)
            np.add.at(gone, column[mark], 1)
    total[0] = gone[0] = 0
    units = np.flatnonzero((total > 0) & (gone == total)).astype(np.int32)
    _check_fit(deps, plan, deps.cut(units))
    if not units.size:
        raise InputError(f"{name_of_model}: the plan removes nothing")
    return units


def _check_fit(deps: DependencyGraph, plan: Plan, cut: Cut) -> None:
    """Refuse a plan whose listed positions are not what its units remove, or that leaves an axis empty."""
    name_of_model = deps.source.name
    for name, axes in plan.weights.items():
        for axis, listed in axes.items():
            kept = cut.kept(name, axis)
            size = deps.source.weights[name].shape[axis] if axis < len(deps.source.weights[name].shape) else 0
            if kept is not None and not len(kept):
                raise InputError(f"{name_of_model}: the plan removes all {size} positions of weight {name} axis {axis}")
            if len(listed) != size - (size if kept is None else len(kept)):
                raise InputError(
                    f"{name_of_model}: the plan's cut of weight {name} axis {axis} does not fit this model's couplings;"
                    " it was made for another graph"
                )
