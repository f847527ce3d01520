"""The type of one tensor axis: a set of units for every position."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]


class Axis:
    """Labels of an axis of length ``n``.

    Position ``p`` is removed iff any unit in ``units[p]`` is removed.

    Attributes:
        n: Length of the axis (its size at the first probe when the size is dynamic).
        units: int32 array of shape (n, k), 0 meaning "no unit by this column"; None when the axis is frozen.
        why: Id of the :class:`~graphprune.algebra.units.Reason` when frozen as a whole, else 0.
        parts: For an axis whose length follows the input size: the factors it is the C-order product of, each
            with True where that factor is the dynamic one. Only its static factors carry labels.
    """

    __slots__ = ("n", "parts", "resolved", "units", "version", "why")

    def __init__(self, n: int, units: Ids | None, why: int = 0, parts: tuple[tuple[Axis, bool], ...] = ()) -> None:
        self.n = n
        self.units = units
        self.why = why
        self.parts = parts
        self.resolved: Axis = self
        self.version = -1

    @property
    def frozen(self) -> bool:
        """True when no position can be removed."""
        return self.units is None and not self.parts

    def __repr__(self) -> str:
        shape = "frozen" if self.units is None else f"k={self.units.shape[1]}"
        return f"Axis(n={self.n}, {shape})"


def signature(column: Ids) -> Ids:
    """For each position the first position that holds the same unit: equal iff the partitions are equal.

    Zeros ("no unit") get -1.
    """
    n = column.shape[0]
    lo, hi = int(column.min()), int(column.max())
    if lo > 0 and hi - lo + 1 == n and column[0] == lo and column[-1] == hi and bool((np.diff(column) == 1).all()):
        return np.arange(n, dtype=np.int32)
    _, first, inverse = np.unique(column, return_index=True, return_inverse=True)
    out = first[inverse].astype(np.int32)
    if lo == 0:
        out[column == 0] = -1
    return out
