"""Kept lengths of all distinct labelled axes: what every cost is a function of."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from graphprune.algebra import Axis
from graphprune.algebra.axis import Ids
from graphprune.coupling.cut import Mask
from graphprune.coupling.groups import DependencyGraph


class Lengths:
    """The labelled axes of a dependency graph, numbered as costs ask for them.

    Attributes:
        axes: The axes, by number.
    """

    def __init__(self, deps: DependencyGraph) -> None:
        self.deps = deps
        self.axes: list[Axis] = []
        self._ids: dict[int, int] = {}
        self._positions: tuple[Ids, NDArray[np.intp]] | None = None

    def number(self, axis: Axis) -> int:
        """The number of a resolved axis with labels."""
        key = id(axis)
        if key not in self._ids:
            self._ids[key] = len(self.axes)
            self.axes.append(axis)
            self._positions = None
        return self._ids[key]

    def term(self, factor: float, axes: Iterable[Axis]) -> tuple[float, list[int]]:
        """A product of lengths: frozen ones go into the factor, the others are numbered."""
        found: list[int] = []
        flat = [p for axis in axes for p in ([q for q, _ in axis.parts] or [axis])]
        for axis in flat:
            final = self.deps.final(axis)
            if final.units is None:
                factor *= max(axis.n, 1)
            else:
                found.append(self.number(final))
        return factor, found

    @property
    def positions(self) -> tuple[Ids, NDArray[np.intp]]:
        """Units of every position of all axes, one axis after the other, shape (sum of n, k), and where axes start."""
        if self._positions is None:
            width = max((a.units.shape[1] for a in self.axes if a.units is not None), default=1)
            units = np.zeros((sum(a.n for a in self.axes), width), np.int32)
            starts = np.cumsum([0, *(a.n for a in self.axes)])[:-1]
            for start, axis in zip(starts, self.axes, strict=True):
                assert axis.units is not None
                units[start : start + axis.n, : axis.units.shape[1]] = axis.units
            self._positions = units, starts
        return self._positions

    def kept(self, removed: Mask) -> NDArray[np.float64]:
        """Kept length of every axis, and 1 as the last entry, shape (axes + 1,)."""
        if not self.axes:
            return np.ones(1)
        units, starts = self.positions
        stays = ~removed[units].any(axis=1)
        return np.append(np.add.reduceat(stays.astype(np.float64), starts), 1.0)
