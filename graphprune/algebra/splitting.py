"""Factoring an axis: heads by dims, groups by offsets, gates by hidden, without divisibility arithmetic."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from graphprune.algebra.axis import Axis, Ids
from graphprune.algebra.units import Units


def split(store: Units, axis: Axis, outer: int, inner: int, why: int) -> tuple[Axis, Axis]:
    """Two axes whose C-order product is ``axis``; its length must be ``outer * inner``.

    A column u(i, j) becomes one unit per connected row class and one per connected column class; what fits
    neither is frozen for the reason ``why``.
    """
    a = store.plain(axis, why)
    if outer == inner == 1:  # no factor holds the unit of a single position: it would be lost, and leave unseen
        store.freeze(a, why)
        a = store.resolve(a)
    if a.units is None or outer == 1 or inner == 1:
        rest = a.why or why
        return (
            a if outer > 1 and inner == 1 else store.frozen(outer, rest),
            a if inner > 1 and outer == 1 else store.frozen(inner, rest),
        )
    rows: list[Ids] = []
    cols: list[Ids] = []
    pending = list(a.units.T)
    while pending:
        column = pending.pop(0)
        now = store.resolve(Axis(a.n, column[:, None])).units  # columns split before may have bound or frozen its units
        if now is None:
            continue
        if now.shape[1] > 1 or not np.array_equal(now[:, 0], column):
            pending = [*now.T, *pending]
            continue
        row, col = _split_column(store, column.reshape(outer, inner), why)
        rows.append(row)
        cols.append(col)
    return _side(store, outer, rows, why), _side(store, inner, cols, why)


def _side(store: Units, n: int, columns: list[Ids], why: int) -> Axis:
    """An axis of the columns that hold units; a side that got none is frozen."""
    if not any(column.any() for column in columns):
        return store.frozen(n, why)
    return Axis(n, np.stack(columns, axis=1))


def _split_column(store: Units, u: Ids, why: int) -> tuple[Ids, Ids]:
    """Outer labels (n1,) and inner labels (n2,) of one column of shape (n1, n2)."""
    n1, n2 = u.shape
    none_outer, none_inner = np.zeros(n1, np.int32), np.zeros(n2, np.int32)
    if u.all():
        if np.array_equal(u, np.broadcast_to(u[0], u.shape)):
            return none_outer, u[0].copy()
        if np.array_equal(u, np.broadcast_to(u[:, :1], u.shape)):
            return u[:, 0].copy(), none_inner
    ids, inverse = np.unique(u, return_inverse=True)
    local = inverse.reshape(n1, n2)
    absent = int(ids[0] == 0)
    count = len(ids) - absent
    local = local - absent
    if count == n1 * n2:
        by_row = np.repeat(np.arange(n1, dtype=np.int32), n2)[np.argsort(local, axis=None)]
        by_col = np.tile(np.arange(n2, dtype=np.int32), n1)[np.argsort(local, axis=None)]
        rows, cols = n1, n2
    else:
        rows, by_row = _classes(local, count)
        cols, by_col = _classes(local.T, count)
    units = ids[absent:]
    if rows == 1 and cols == 1:
        store.freeze_units(units, why)
        return none_outer, none_inner
    both = rows > 1 and cols > 1
    outer = store.new(rows) if both else _merged(store, units, by_row, rows)
    inner = store.new(cols) if both else _merged(store, units, by_col, cols)
    if both:
        store.bind(units, np.stack([outer[by_row], inner[by_col]], axis=1))
    holes = u == 0
    if rows > 1:
        none_outer = _read_classes(store, local, by_row, outer, holes, why)
    if cols > 1:
        none_inner = _read_classes(store, local.T, by_col, inner, holes.T, why)
    return none_outer, none_inner


def _classes(local: NDArray[np.intp], count: int) -> tuple[int, Ids]:
    """Component of each unit when units that share a row are linked; holes are negative."""
    n = local.shape[0]
    row = np.repeat(np.arange(n), local.shape[1])
    unit = local.ravel()
    held = unit >= 0
    ends = (row[held], n + unit[held])
    links = coo_array((np.ones(int(held.sum()), np.int8), ends), shape=(n + count, n + count))
    _, label = connected_components(links, directed=False)
    _, mine = np.unique(label[n:], return_inverse=True)
    return int(mine.max()) + 1, mine.astype(np.int32)


def _merged(store: Units, units: Ids, by_class: Ids, classes: int) -> Ids:
    """One unit for each class, its members made equal; a single class is the side that is dropped."""
    if classes == 1:
        return np.zeros(1, np.int32)
    _, first = np.unique(by_class, return_index=True)
    head = units[first]
    store.union(units, head[by_class])
    return store.find(head)


def _read_classes(
    store: Units, local: NDArray[np.intp], by_class: Ids, class_units: Ids, holes: NDArray[np.bool_], why: int
) -> Ids:
    """Label of each row: the unit of its class; classes that meet a hole are frozen."""
    first = np.argmax(~holes, axis=1)
    member = local[np.arange(local.shape[0]), first]
    out = np.where(member >= 0, class_units[by_class[np.maximum(member, 0)]], 0).astype(np.int32)
    broken = holes.any(axis=1) & (member >= 0)
    if broken.any():
        store.freeze_units(np.unique(out[broken]), why)
    return out
