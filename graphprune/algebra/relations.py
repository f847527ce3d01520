"""What must hold between axes: equality, products, concatenation, indexing and splitting.

Each relation replaces its equation by a sufficient one and only ever merges, binds or freezes units, so any
removal of the free units that remain gives a consistent box for every tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from graphprune.algebra.axis import Axis, Ids, signature
from graphprune.algebra.units import MAX_COLUMNS, Units


def eq(store: Units, a: Axis, b: Axis, why: int) -> None:
    """State that position p of ``a`` is removed iff position p of ``b`` is.

    Args:
        store: The units.
        a: An axis of length n.
        b: An axis of the same length.
        why: Reason id for what has to be frozen because the two cannot be matched.
    """
    if a.parts or b.parts:
        _eq_parts(store, a, b, why)
        return
    while a is not b:
        left, right = store.resolve(a), store.resolve(b)
        if left is right:
            return
        if left.units is None or right.units is None:
            frozen, other = (left, right) if left.units is None else (right, left)
            store.freeze(other, frozen.why or why)
            return
        if _settled(store, left.units, right.units, store.why(a), store.why(b), why):
            return


def _eq_parts(store: Units, a: Axis, b: Axis, why: int) -> None:
    """Products with a dynamic factor: factor by factor where they are cut alike, else frozen."""
    if [(p.n, d) for p, d in a.parts] == [(p.n, d) for p, d in b.parts]:
        for (p, _), (q, _) in zip(a.parts, b.parts, strict=True):
            eq(store, p, q, why)
    else:
        store.freeze(a, why)
        store.freeze(b, why)


def _settled(store: Units, a: Ids, b: Ids, why_a: Ids, why_b: Ids, why: int) -> bool:
    """One round of ``eq`` on resolved labels; False when something was frozen and a new round is needed."""
    free_a, free_b = a.any(axis=1), b.any(axis=1)
    if not np.array_equal(free_a, free_b):
        _freeze_rows(store, b, free_b & ~free_a, why_a, why)
        _freeze_rows(store, a, free_a & ~free_b, why_b, why)
        return False
    left, right = _unmatched(a, b), _unmatched(b, a)
    if not (left and right):
        for column in left + right:
            store.freeze_units(column, why)
        return True
    if len(left) == 1 and len(right) == 1:
        return _equal_columns(store, left[0], right[0], why)
    pairs = _same_partition(left, right)
    if pairs:
        for one, other, places in pairs:
            store.union(one[places], other[places])
        return False
    if len(left) == 1:
        return _bind(store, left[0], right, why)
    if len(right) == 1:
        return _bind(store, right[0], left, why)
    _freeze_smallest(store, left + right, why)
    return False


def _unmatched(a: Ids, b: Ids) -> list[Ids]:
    """Columns of ``a`` that are not also columns of ``b``."""
    return [x for x in a.T if not any(np.array_equal(x, y) for y in b.T)]


def _same_partition(left: list[Ids], right: list[Ids]) -> list[tuple[Ids, Ids, Ids]]:
    """Pairs of columns that group the positions alike, with one position per unit."""
    theirs = [signature(y) for y in right]
    used: set[int] = set()
    pairs = []
    for x in left:
        mine = signature(x)
        for j, other in enumerate(theirs):
            if j not in used and np.array_equal(mine, other):
                used.add(j)
                pairs.append((x, right[j], np.unique(mine[mine >= 0])))
                break
    return pairs


def _equal_columns(store: Units, a: Ids, b: Ids, why: int) -> bool:
    """One unit against one unit at every position: exact."""
    odd = (a > 0) != (b > 0)
    if odd.any():
        store.freeze_units(np.concatenate([a[odd], b[odd]]), why)
        return False
    held = a > 0
    store.union(a[held], b[held])
    return True


def _bind(store: Units, column: Ids, others: list[Ids], why: int) -> bool:
    """State ``column[p] = OR of others[.][p]`` by refining the units of ``column``."""
    if len(others) > MAX_COLUMNS:
        _freeze_smallest(store, others, why)
        return False
    table = np.stack(others, axis=1)
    bare = (column == 0) & table.any(axis=1)
    empty = (column > 0) & ~table.any(axis=1)
    if bare.any() or empty.any():
        store.freeze_units(np.concatenate([table[bare].ravel(), column[empty]]), why)
        return False
    if np.isin(column[column > 0], table).any():
        _freeze_smallest(store, others, why)
        return False
    first = signature(column)
    held = np.flatnonzero(column > 0)
    for other in others:
        x, y = other[held], other[first[held]]
        if not np.array_equal(x, y):
            if ((x > 0) != (y > 0)).any():
                store.freeze_units(np.concatenate([x, y]), why)
            else:
                store.union(x[x > 0], y[x > 0])
            return False
    places = np.unique(first[held])
    store.bind(column[places], table[places])
    return True


def _freeze_rows(store: Units, units: Ids, rows: NDArray[np.bool_], whys: Ids, why: int) -> None:
    """Freeze the units at ``rows``, for the reason that froze the other side there."""
    for reason in np.unique(whys[rows]):
        store.freeze_units(units[rows & (whys == reason)].ravel(), int(reason) or why)


def _freeze_smallest(store: Units, columns: list[Ids], why: int) -> None:
    """Give up the column with the fewest units: the cheapest freedom to lose."""
    store.freeze_units(min(columns, key=lambda c: len(np.unique(c[c > 0]))), why)


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


def split(store: Units, axis: Axis, outer: int, inner: int, why: int) -> tuple[Axis, Axis]:
    """Two axes whose C-order product is ``axis``; its length must be ``outer * inner``.

    A column u(i, j) becomes one unit per connected row class and one per connected column class; what fits
    neither is frozen for the reason ``why``.
    """
    a = store.plain(axis, why)
    if a.units is None or outer == 1 or inner == 1:
        rest = a.why or why
        return (
            a if outer > 1 and inner == 1 else store.frozen(outer, rest),
            a if inner > 1 and outer == 1 else store.frozen(inner, rest),
        )
    rows, cols = [], []
    for column in a.units.T:
        row, col = _split_column(store, column.reshape(outer, inner), why)
        rows.append(row)
        cols.append(col)
    return Axis(outer, np.stack(rows, axis=1)), Axis(inner, np.stack(cols, axis=1))


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
