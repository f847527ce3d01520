"""What a sweep found: for every group the error of the outputs at some ratios, as data and as curves for the solver."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

import graphprune
from graphprune.coupling.groups import DependencyGraph
from graphprune.errors import InputError
from graphprune.importance.curve import Curve
from graphprune.recover.evidence import Point, through


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Measured(_Value):
    """A group cut alone.

    Attributes:
        removed: Units that left.
        ratio: Their share of the group.
        error: Squared error of the outputs relative to their variance; None where the cut model does not run.
    """

    removed: int
    ratio: float
    error: float | None


class GroupCurve(_Value):
    """What one group costs.

    Attributes:
        name: Name of the group.
        kind: What it is: heads, FFN width, channels ...
        size: Number of its units.
        order: Numbers of its units within the group, the first to leave first.
        shape: What the criterion says is lost when the first m units are gone, as shares of all that it has to lose.
        points: What was measured, ascending.
    """

    name: str
    kind: str
    size: int
    order: tuple[int, ...]
    shape: tuple[float, ...]
    points: tuple[Measured, ...]

    @model_validator(mode="after")
    def _whole(self) -> GroupCurve:
        if sorted(self.order) != list(range(self.size)) or any(not 0 < p.removed < self.size for p in self.points):
            raise ValueError(f"the order or the points of group {self.name} do not fit its {self.size} units")
        Curve(np.asarray(self.order, np.int32), np.asarray(self.shape, np.float64))
        return self

    @property
    def worst(self) -> float:
        """The largest error measured; infinite where there is none."""
        errors = [p.error for p in self.points]
        return max((e for e in errors if e is not None), default=float("inf"))


class Sensitivity(_Value):
    """What each group costs in the model's output when it alone is cut.

    Attributes:
        version: Version of this format.
        graphprune: Version of this package.
        model: The model.
        digest: Digest of its content.
        data: What the outputs were compared on.
        samples: Number of samples.
        criterion: What the units of a group were ordered by.
        seed: Seed of what was drawn.
        compensated: Whether the layers that read a group made up for what left.
        ratios: The ratios asked for.
        groups: The curves, in the order of the groups in the graph.
        notes: What else to know.
    """

    version: Literal[1] = 1
    graphprune: str = graphprune.__version__
    model: str
    digest: str
    data: str
    samples: int
    criterion: str
    seed: int
    compensated: bool
    ratios: tuple[float, ...]
    groups: tuple[GroupCurve, ...]
    notes: tuple[str, ...] = ()

    def save(self, path: str | Path) -> None:
        """Write it to a JSON file.

        Raises:
            InputError: The file cannot be written.
        """
        try:
            Path(path).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8", newline="\n")
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from None

    @classmethod
    def read(cls, path: str | Path) -> Sensitivity:
        """Read what :meth:`save` or ``graphprune analyze --sensitivity --json`` wrote.

        Raises:
            InputError: The file is missing or is something else.
        """
        try:
            data: Any = json.loads(Path(path).read_bytes())
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: not a readable file of sensitivities ({str(error)[:200]})") from None
        if isinstance(data, dict) and "explanations" in data:  # the report of analyze
            data = data.get("sensitivity")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(p) for p in first["loc"]) or "the file"
            raise InputError(
                f"{path}: no sensitivities of version 1 ({where}: {first['msg']}); write some with"
                " graphprune analyze MODEL --sensitivity --data SOURCE --json"
            ) from None

    def curves(self, deps: DependencyGraph) -> list[Curve]:
        """A curve for every group of a dependency graph: the criterion's, bent to go through what was measured.

        Raises:
            InputError: It has other groups.
        """
        known = {g.name: g for g in self.groups}
        out = []
        for group in deps.groups:
            found = known.get(group.name)
            if found is None or found.size != group.size:
                size = "" if found is None else f" with {group.size} units"
                raise InputError(
                    f"{deps.source.name}: the sensitivities of {self.model} say nothing about group {group.name}{size};"
                    " they were measured on another graph"
                )
            curve = Curve(group.units[list(found.order)], np.asarray(found.shape, np.float64))
            points = [Point(group.name, p.removed, p.error) for p in found.points if p.error is not None]
            out.append(through(curve, points))
        return out
