"""When two axes are removed alike: the equation is replaced by a sufficient one that only merges, binds or freezes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
    free_a, free_b = np.asarray(a.any(axis=1)), np.asarray(b.any(axis=1))
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
