"""The store of units: union-find, bindings and freezing, all vectorised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from graphprune.algebra.axis import Axis, Ids

MAX_COLUMNS = 8


@dataclass(frozen=True, slots=True)
class Reason:
    """Why positions are frozen.

    Attributes:
        node: Name of the node or tensor that did it.
        op: Its operator.
        text: The cause in words.
        mend: How to unblock it, if there is a way.
        window: True for axes that are no channels at all (a kernel's window); reports leave them out.
    """

    node: str
    op: str
    text: str
    mend: str = ""
    window: bool = False

    def __str__(self) -> str:
        where = f"{self.op} {self.node}".strip()
        return f"{where}: {self.text}" if where else self.text


_UNSTATED = Reason("", "", "it is tied to positions that stay")


class Units:
    """Units with their equivalences (``union``), refinements (``bind``) and frozen marks.

    Unit 0 means "no unit". Roots that are neither bound nor frozen are the free variables.
    """

    def __init__(self) -> None:
        self._parent = np.zeros(1024, np.int32)
        self._why = np.zeros(1024, np.int32)
        self._bind = np.zeros(1024, np.int32)
        self._table = np.zeros((1024, MAX_COLUMNS), np.int32)
        self._rows = 1
        self.count = 1
        self.version = 0
        self.reasons: list[Reason] = [Reason("", "", "it is laid out together with positions that stay")]
        self._reason_ids: dict[Reason, int] = {}

    def copy(self) -> Units:
        """A store of the same units; what is made in one is unknown to the other."""
        out = Units()
        out._parent, out._why = self._parent.copy(), self._why.copy()
        out._bind, out._table = self._bind.copy(), self._table.copy()
        out._rows, out.count, out.version = self._rows, self.count, self.version
        out.reasons, out._reason_ids = list(self.reasons), dict(self._reason_ids)
        return out

    # -- making ------------------------------------------------------------------------------------------

    def reason(self, reason: Reason) -> int:
        """Id of a reason, the same for equal reasons."""
        found = self._reason_ids.get(reason)
        if found is None:
            found = self._reason_ids[reason] = len(self.reasons)
            self.reasons.append(reason)
        return found

    def new(self, n: int) -> Ids:
        """Ids of ``n`` new units, shape (n,)."""
        while self.count + n > len(self._parent):
            self._parent, self._why, self._bind = (
                np.concatenate([a, np.zeros_like(a)]) for a in (self._parent, self._why, self._bind)
            )
        ids = np.arange(self.count, self.count + n, dtype=np.int32)
        self._parent[ids] = ids
        self.count += n
        return ids

    def fresh(self, n: int) -> Axis:
        """An axis of ``n`` independent units."""
        return Axis(n, self.new(n)[:, None])

    def frozen(self, n: int, why: int) -> Axis:
        """An axis whose positions are never removed; an unknown (negative) length counts as none."""
        return Axis(max(n, 0), None, why)

    # -- reading -----------------------------------------------------------------------------------------

    def find(self, ids: Ids) -> Ids:
        """Roots of ``ids``, any shape."""
        out: Ids = self._parent[ids]
        while True:
            up = self._parent[out]
            if np.array_equal(up, out):
                return out
            out = up

    def _expand(self, units: Ids) -> Ids:
        """Roots with every binding followed; frozen units still present."""
        out = self.find(units)
        while True:
            rows = self._bind[out]
            if not rows.any():
                return out
            columns: list[Ids] = []
            for j in range(out.shape[1]):
                row = rows[:, j]
                if row.any():
                    wide = self._table[row]
                    plain = row == 0
                    wide[plain, 0] = out[plain, j]
                    columns.append(wide[:, wide.any(axis=0)])
                else:
                    columns.append(out[:, j : j + 1])
            out = self.find(np.concatenate(columns, axis=1))

    def resolve(self, axis: Axis) -> Axis:
        """The axis over free roots: bindings followed, frozen units dropped, equal columns merged."""
        if axis.units is None or axis.version == self.version:
            return axis.resolved
        units = self._expand(axis.units)
        why = self._why[units]
        if why.any():
            units = np.where(why > 0, 0, units)
        keep: list[int] = []
        for j in range(units.shape[1]):
            column = units[:, j]
            if column.any() and not any(np.array_equal(column, units[:, i]) for i in keep):
                keep.append(j)
        if not keep:
            resolved = Axis(axis.n, None, int(why.max(initial=axis.why)))
        elif (
            len(keep) == units.shape[1]
            and axis.resolved.units is not None
            and np.array_equal(units, axis.resolved.units)
        ):
            resolved = axis.resolved
        else:
            resolved = Axis(axis.n, np.ascontiguousarray(units[:, keep]))
        resolved.resolved, resolved.version = resolved, self.version
        axis.resolved, axis.version = resolved, self.version
        return resolved

    def why(self, axis: Axis) -> Ids:
        """Reason id per position, shape (n,): 0 where the position can be removed."""
        if axis.units is None:
            return np.full(max(axis.n, 0), axis.why, np.int32)  # a size that data decides is negative
        units = self._expand(axis.units)
        why = self._why[units]
        free = ((units > 0) & (why == 0)).any(axis=1)
        return np.where(free, 0, why.max(axis=1, initial=0)).astype(np.int32)

    # -- constraining ------------------------------------------------------------------------------------

    def freeze_units(self, roots: Ids, why: int) -> None:
        """Mark free roots as never removed, for a reason or one that was not stated (0). Zeros are passed over."""
        roots = roots[roots > 0]
        if roots.size:
            self._why[roots] = why or self.reason(_UNSTATED)
            self.version += 1

    def plain(self, axis: Axis, why: int = 0) -> Axis:
        """The axis resolved; a product with a dynamic factor is frozen first, it has no positions to speak of."""
        if axis.parts:
            why = why or self.reason(Reason("", "", "its size changes with the input size"))
            self.freeze(axis, why)
            return self.frozen(axis.n, why)
        return self.resolve(axis)

    def freeze(self, axis: Axis, why: int) -> None:
        """Freeze every position of an axis."""
        for part, _ in axis.parts:
            self.freeze(part, why)
        units = self.resolve(axis).units
        if units is not None:
            self.freeze_units(units.ravel(), why)

    def union(self, a: Ids, b: Ids) -> None:
        """Make free units ``a[i]`` and ``b[i]`` one unit, for all i."""
        a, b = self.find(a), self.find(b)
        differ = a != b
        if not differ.any():
            return
        a, b = a[differ], b[differ]
        ids, inverse = np.unique(np.concatenate([a, b]), return_inverse=True)
        if len(ids) == 2 * len(a):
            self._parent[np.maximum(a, b)] = np.minimum(a, b)
        else:
            ends = inverse[: len(a)], inverse[len(a) :]
            links = coo_array((np.ones(len(a), np.int8), ends), shape=(len(ids), len(ids)))
            _, label = connected_components(links, directed=False)
            _, first = np.unique(label, return_index=True)
            self._parent[ids] = ids[first][label]
        self.version += 1

    def bind(self, units: Ids, sets: Ids) -> None:
        """State ``units[i] := OR of sets[i]``; shapes (m,) distinct free roots, and (m, k), 0 meaning nothing."""
        m, k = sets.shape
        while self._rows + m > len(self._table):
            self._table = np.concatenate([self._table, np.zeros_like(self._table)])
        rows = np.arange(self._rows, self._rows + m, dtype=np.int32)
        self._table[rows, :k] = sets
        self._bind[units] = rows
        self._rows += m
        self.version += 1
