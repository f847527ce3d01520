"""A reader of the algebra that knows only what its relations mean, not how they are carried out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product as combinations

import numpy as np
from numpy.typing import NDArray

from graphprune.algebra import Axis, Reason, Units, concat, eq, index, merge, split

Mask = NDArray[np.bool_]
Look = Callable[[Axis], Mask]


@dataclass
class Machine:
    """Carries relations out and notes what they claim, as tests on removed positions."""

    store: Units = field(default_factory=Units)
    axes: list[Axis] = field(default_factory=list)
    claims: list[tuple[str, Callable[[Look], bool]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.why = self.store.reason(Reason("test", "", "because"))

    def _keep(self, *axes: Axis) -> None:
        self.axes.extend(axes)

    def _claim(self, text: str, test: Callable[[Look], bool]) -> None:
        self.claims.append((text, test))

    # -- relations ------------------------------------------------------------------------------
    def fresh(self, n: int) -> Axis:
        axis = self.store.fresh(n)
        self._keep(axis)
        return axis

    def frozen(self, n: int) -> Axis:
        axis = self.store.frozen(n, self.why)
        self._keep(axis)
        return axis

    def freeze(self, a: Axis) -> None:
        self.store.freeze(a, self.why)
        self._claim("frozen", lambda look: not look(a).any())

    def eq(self, a: Axis, b: Axis) -> None:
        eq(self.store, a, b, self.why)
        self._claim("eq", lambda look: np.array_equal(look(a), look(b)))

    def index(self, a: Axis, positions: Sequence[int]) -> Axis:
        where = np.array(positions)
        out = index(self.store, a, where)
        self._keep(out)
        self._claim("index", lambda look: np.array_equal(look(out), np.where(where < 0, False, look(a)[where])))
        return out

    def concat(self, *parts: Axis) -> Axis:
        out = concat(self.store, parts)
        self._keep(out)
        self._claim("concat", lambda look: np.array_equal(look(out), np.concatenate([look(p) for p in parts])))
        return out

    def merge(self, a: Axis, b: Axis) -> Axis:
        out = merge(self.store, [a, b])
        self._keep(out)
        self._claim("merge", lambda look: np.array_equal(look(out), (look(a)[:, None] | look(b)).ravel()))
        return out

    def split(self, a: Axis, outer: int) -> tuple[Axis, Axis]:
        inner = a.n // outer
        first, second = split(self.store, a, outer, inner, self.why)
        self._keep(first, second)
        self._claim(
            f"split {outer} x {inner}",
            lambda look: np.array_equal(look(a), (look(first)[:, None] | look(second)).ravel()),
        )
        return first, second

    # -- reading --------------------------------------------------------------------------------
    def columns(self, axis: Axis) -> NDArray[np.int32]:
        """Free units per position, shape (n, k)."""
        units = self.store.resolve(axis).units
        return np.zeros((axis.n, 1), np.int32) if units is None else units

    def units(self, *axes: Axis) -> list[int]:
        """Free units on some axes (by default on all)."""
        found = np.concatenate([self.columns(a).ravel() for a in axes or self.axes])
        return [int(u) for u in np.unique(found) if u]

    def kinds(self, axis: Axis) -> list[int]:
        """Number of units in each column of an axis."""
        return sorted(len(np.unique(c[c > 0])) for c in self.columns(axis).T)

    def removals(self, limit: int, rng: np.random.Generator) -> Iterator[set[int]]:
        """All sets of free units, or a random choice of ``limit`` when there are more."""
        units = self.units()
        if 2 ** len(units) <= limit:
            for bits in combinations([False, True], repeat=len(units)):
                yield {u for u, bit in zip(units, bits, strict=True) if bit}
            return
        for _ in range(limit):
            share = rng.random()
            yield {u for u in units if rng.random() < share}

    def check(self, limit: int = 1024, seed: int = 0) -> int:
        """Every claim holds for every removal; returns how many were looked at."""
        looked = 0
        for removed in self.removals(limit, np.random.default_rng(seed)):
            gone = np.zeros(self.store.count, np.bool_)
            gone[list(removed)] = True
            look = {id(a): gone[self.columns(a)].any(axis=1) for a in self.axes}
            for text, test in self.claims:
                assert test(lambda a, seen=look: seen[id(a)]), f"{text} does not hold when {removed} leave"
            looked += 1
        return looked
