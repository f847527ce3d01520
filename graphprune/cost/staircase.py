"""The time of an operator as a function of its widths: steps of kernels that work in blocks, and widths they dislike.

Samples at favoured widths (multiples of the largest block) make a grid that is interpolated linearly. Samples at
widths beside it decide two more things per axis: the tread, the multiple up to which a width is rounded before the
grid is read (a kernel that works in blocks of 16 takes the same time for 24 as for 32), and the penalty of widths
that are no multiple of 16, 8 or 4 (a kernel that cannot take them at all gives way to a slower one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]
Numbers = NDArray[np.intp]

BLOCK = 16
CLASSES = (16, 8, 4, 1)  # largest of these that divides a width
_SHARES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
_COARSE = (0.125, 0.25, 0.5, 0.75, 1.0)
_BESIDE = (8, 4, 2, 1)
_PENALTY = (0.7, 100.0)


def favoured(size: int, shares: Sequence[float] = _SHARES) -> list[int]:
    """Widths of the grid up to a full size: multiples of the block, few below it, and the size itself."""
    block = BLOCK if size >= 2 * BLOCK else 8 if size >= BLOCK else 4
    found = {min(max(block, int(-(-size * s // block)) * block), size) for s in shares}
    return sorted(found | {size} | ({BLOCK} if size > BLOCK else set()))


def widths(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Where to time an operator with one or two widths: the grid, and a few widths beside it on every axis."""
    shares = _SHARES if len(sizes) == 1 else _COARSE
    out = dict.fromkeys(product(*(favoured(n, shares) for n in sizes)))
    for axis, n in enumerate(sizes):
        for base in sorted({n if n < 4 * BLOCK else n // BLOCK * BLOCK, n // BLOCK * BLOCK, n // 2 // BLOCK * BLOCK}):
            for less in _BESIDE:
                if base - less > 0:
                    out[tuple(base - less if a == axis else m for a, m in enumerate(sizes))] = None
    return list(out)


def class_of(width: Reals) -> Numbers:
    """Place in :data:`CLASSES` of every width."""
    out = np.full(width.shape, len(CLASSES) - 1)
    for place in range(len(CLASSES) - 1, -1, -1):
        out = np.where(width % CLASSES[place] == 0, place, out)
    return out


@dataclass(frozen=True)
class Staircase:
    """A fitted time.

    Attributes:
        knots: Widths of the grid on each axis, ascending.
        values: Seconds on the grid.
        treads: Multiple that widths are rounded up to, per axis.
        penalties: Factor of widths of each of :data:`CLASSES`, shape (axes, classes).
    """

    knots: tuple[Reals, ...]
    values: Reals
    treads: tuple[int, ...]
    penalties: Reals

    def __call__(self, at: Reals) -> Reals:
        """Seconds at widths, shape (m, axes) → (m,)."""
        at = np.maximum(np.asarray(at, np.float64), 1.0)
        sizes = np.array([k[-1] for k in self.knots])
        treads = np.array(self.treads, np.float64)
        rounded = np.minimum(np.ceil(at / treads) * treads, sizes)
        place = np.where(at >= sizes, 0, class_of(at))
        factor = np.take_along_axis(self.penalties.T, place, axis=0).max(axis=1)
        out: Reals = _interpolated(self.knots, self.values, rounded) * factor
        return out

    @classmethod
    def through(cls, sizes: Sequence[int], known: Mapping[tuple[int, ...], float]) -> Staircase | None:
        """The lines through times at any widths; None where they make no grid with a second width on every axis.

        Args:
            sizes: Full widths.
            known: Times by widths.
        """
        found = _full([sorted({p[axis] for p in known} | {n}) for axis, n in enumerate(sizes)], known)
        if found is None or min(map(len, found[0]), default=0) < 2:
            return None
        knots, grid = found
        values = np.array([known[p] for p in grid]).reshape([len(k) for k in knots])
        lines = tuple(np.array(k, np.float64) for k in knots)
        return cls(lines, values, (1,) * len(sizes), np.ones((len(sizes), len(CLASSES))))

    @classmethod
    def fitted(cls, sizes: Sequence[int], at: Sequence[tuple[int, ...]], seconds: Sequence[float]) -> Staircase:
        """The staircase through some samples; without samples beside the grid it is the grid.

        Args:
            sizes: Full widths.
            at: Widths of every sample.
            seconds: Its time.

        Raises:
            ValueError: The grid has holes.
        """
        known = dict(zip(at, seconds, strict=True))
        found = _grid(sizes, known)
        if found is None:
            raise ValueError(f"no samples at the full widths {tuple(sizes)}")
        knots, grid = found
        values = falling(np.array([known[p] for p in grid]).reshape([len(k) for k in knots]))
        inside = set(grid)
        beside = [p for p in known if p not in inside and sum(w != n for w, n in zip(p, sizes, strict=True)) == 1]
        treads, penalties = [1] * len(sizes), np.ones((len(sizes), len(CLASSES)))
        for axis in range(len(sizes)):
            mine = [p for p in beside if p[axis] != sizes[axis]]
            if mine:
                times = np.array([known[p] for p in mine])
                treads[axis], penalties[axis] = _fit_axis(knots, values, axis, np.array(mine, np.float64), times)
        return cls(tuple(np.array(k, np.float64) for k in knots), values, tuple(treads), penalties)


def falling(values: Reals) -> Reals:
    """Times on a grid, none above that of a wider one: if it is, something came between when it was taken."""
    for axis in range(values.ndim):
        values = np.flip(np.minimum.accumulate(np.flip(values, axis), axis), axis)
    return values


def disturbed(sizes: Sequence[int], known: Mapping[tuple[int, ...], float]) -> float:
    """By how much samples contradict each other: the largest share by which a narrower one takes longer, from 0."""
    found = _grid(sizes, known)
    if found is None:
        return 0.0
    knots, grid = found
    values = np.array([known[p] for p in grid]).reshape([len(k) for k in knots])
    return float((values / np.maximum(falling(values), 1e-9) - 1.0).max(initial=0.0))


def _grid(
    sizes: Sequence[int], known: Mapping[tuple[int, ...], float]
) -> tuple[list[list[int]], list[tuple[int, ...]]] | None:
    """The largest full grid among the samples whose widths are favoured."""
    shares = _SHARES if len(sizes) == 1 else _COARSE
    knots = [favoured(n, shares) for n in sizes]
    for axis, n in enumerate(sizes):
        alone = [p for p in known if all(p[b] == m for b, m in enumerate(sizes) if b != axis)]
        mine = {p[axis] for p in alone} | {n}
        knots[axis] = [k for k in knots[axis] if k in mine]
    return _full(knots, known)


def _full(
    knots: list[list[int]], known: Mapping[tuple[int, ...], float]
) -> tuple[list[list[int]], list[tuple[int, ...]]] | None:
    """The grid over some widths without those at which samples are missing; None without one at the last of all."""
    grid = list(product(*knots))
    while any(p not in known for p in grid):
        axis = max(range(len(knots)), key=lambda a: len(knots[a]))
        if len(knots[axis]) == 1:
            return None
        missing = [sum(p[axis] == k and p not in known for p in grid) for k in knots[axis]]
        knots[axis].pop(int(np.argmax(missing[:-1])))
        grid = list(product(*knots))
    return knots, grid


def _fit_axis(knots: Sequence[Sequence[int]], values: Reals, axis: int, at: Reals, seconds: Reals) -> tuple[int, Reals]:
    """Tread and penalties of an axis from samples beside the grid."""
    lines = tuple(np.array(k, np.float64) for k in knots)
    places = class_of(at[:, axis])
    best, tread, ratios = np.inf, 1, np.ones(len(at))
    for candidate in (1, 4, 8, 16):
        rounded = at.copy()
        rounded[:, axis] = np.minimum(np.ceil(at[:, axis] / candidate) * candidate, lines[axis][-1])
        ratio = seconds / np.maximum(_interpolated(lines, values, rounded), 1e-12)
        fair = places < len(CLASSES) - 1
        error = float(np.abs(np.log(ratio[fair])).sum()) if fair.any() else np.inf
        if error < best or candidate == 1:
            best, tread, ratios = error, candidate, ratio
    penalty, last = np.ones(len(CLASSES)), 1.0
    for place in range(1, len(CLASSES)):
        mine = ratios[places == place]
        last = float(np.clip(np.median(mine), *_PENALTY)) if len(mine) else last
        penalty[place] = last
    return tread, penalty


def _interpolated(knots: Sequence[Reals], values: Reals, at: Reals) -> Reals:
    """Multilinear between the knots; below the first in proportion to the first piece, never below a small share."""
    corner, share = [], []
    for axis, line in enumerate(knots):
        if len(line) == 1:
            corner.append(np.zeros(len(at), np.intp))
            share.append(np.zeros(len(at)))
            continue
        low = np.clip(np.searchsorted(line, at[:, axis], side="right") - 1, 0, len(line) - 2)
        corner.append(low)
        share.append((at[:, axis] - line[low]) / (line[low + 1] - line[low]))
    out = np.zeros(len(at))
    for side in product((0, 1), repeat=len(knots)):
        weight = np.ones(len(at))
        place = []
        for axis, s in enumerate(side):
            weight = weight * (share[axis] if s else 1 - share[axis])
            place.append(np.minimum(corner[axis] + s, len(knots[axis]) - 1))
        out += weight * values[tuple(place)]
    floored: Reals = np.maximum(out, 0.02 * values.min())
    return floored
