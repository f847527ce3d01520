"""Axes made of axes: indexing, concatenation and products."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graphprune.algebra.axis import Axis, Ids
from graphprune.algebra.units import Units


def index(store: Units, axis: Axis, positions: NDArray[np.integer]) -> Axis:
    """The axis read at ``positions`` (1-D integers; -1 stands for a new position that is never removed)."""
    a = store.plain(axis)
    if a.units is None:
        return store.frozen(len(positions), a.why)
    units = a.units[positions]
    units[positions < 0] = 0
    return Axis(len(positions), units) if units.any() else store.frozen(len(positions), a.why)


def concat(store: Units, axes: Sequence[Axis]) -> Axis:
    """The axes one after the other."""
    parts = [store.plain(a) for a in axes]
    n = sum(a.n for a in parts)
    if all(a.units is None for a in parts):
        return store.frozen(n, max(a.why for a in parts))
    if len(parts) == 1:
        return parts[0]
    width = max(1 if a.units is None else a.units.shape[1] for a in parts)
    out = np.zeros((n, width), np.int32)
    frozen: list[tuple[int, int, int]] = []
    start = 0
    for a in parts:
        if a.units is not None:
            out[start : start + a.n, : a.units.shape[1]] = a.units
        else:
            frozen.append((start, start + a.n, a.why))
        start += a.n
    for lo, hi, why in frozen:  # a frozen unit keeps the reason for these positions
        unit = store.new(1)
        store.freeze_units(unit, why)
        out[lo:hi, 0] = unit
    return Axis(n, out)


def merge(store: Units, axes: Sequence[Axis]) -> Axis:
    """The C-order product of axes: position (i, j, …) is removed iff any of i, j, … is."""
    parts = [store.plain(a) for a in axes]
    if len(parts) == 1:
        return parts[0]
    n = int(np.prod([a.n for a in parts], dtype=np.int64))
    if all(a.units is None for a in parts):
        return store.frozen(n, max((a.why for a in parts), default=0))
    columns: list[Ids] = []
    before, after = 1, n
    for a in parts:
        after //= max(a.n, 1)
        if a.units is not None:
            columns.append(np.tile(np.repeat(a.units, after, axis=0), (before, 1)))
        before *= a.n
    return Axis(n, np.concatenate(columns, axis=1))


def product(store: Units, factors: Sequence[tuple[Axis, bool]]) -> Axis:
    """The C-order product of axes of which some (flagged) are dynamic: kept as factors."""
    flat: list[tuple[Axis, bool]] = []
    for axis, dynamic in factors:
        flat.extend(axis.parts or [(axis, dynamic)])
    n = int(np.prod([a.n for a, _ in flat], dtype=np.int64))
    if all(a.frozen for a, _ in flat):
        return store.frozen(n, max((a.why for a, _ in flat), default=0))
    return Axis(n, None, 0, tuple(flat))
