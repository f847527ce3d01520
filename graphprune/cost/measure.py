"""What a cost is: a sum of pieces, each a function of a few kept lengths; or the largest of several such sums."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Reals = NDArray[np.float64]
Numbers = NDArray[np.intp]
Function = Callable[[Numbers, Reals], Reals]


@dataclass(frozen=True)
class Measure:
    """A cost of the model for any kept lengths.

    The solver asks for nothing else of a cost, so whatever can be written as pieces can be limited: multiply-
    accumulates of an operator, elements of a weight, bytes of a live tensor, a time looked up in a table.

    Attributes:
        name: What targets and reports call it.
        index: Numbers of the axes that each piece depends on, shape (pieces, width), padded with the number of the
            entry that is always 1.
        function: (numbers of pieces, shape (m,); their lengths, shape (m, width)) → their values, shape (m,).
        rows: Which pieces each sum takes, a sparse matrix of shape (sums, pieces); None for one sum of all pieces.
    """

    name: str
    index: Numbers
    function: Function
    rows: csr_array[Any, Any] | None = None

    @cached_property
    def _all(self) -> Numbers:
        return np.arange(len(self.index))

    def values(self, lengths: Reals) -> Reals:
        """Value of every piece at the given lengths of all axes."""
        return self.function(self._all, lengths[self.index])

    def sums(self, lengths: Reals) -> Reals:
        """Every sum, shape (sums,)."""
        values = self.values(lengths)
        return np.atleast_1d(values.sum()) if self.rows is None else np.asarray(self.rows @ values, np.float64)

    def total(self, lengths: Reals) -> int:
        """The cost: the largest sum."""
        return round(float(self.sums(lengths).max(initial=0.0)))


def products(rows: Iterable[tuple[float, list[int]]], one: int) -> tuple[Numbers, Reals]:
    """Terms as index and factor; terms over the same axes become one.

    Args:
        rows: Factor and numbers of axes of each term.
        one: The number of the entry that is always 1.
    """
    sums: dict[tuple[int, ...], float] = {}
    for factor, found in rows:
        key = tuple(sorted(found))
        sums[key] = sums.get(key, 0.0) + factor
    index = padded(list(sums), one)
    return index, np.array(list(sums.values()), np.float64)


def padded(rows: list[tuple[int, ...]], one: int) -> Numbers:
    """Lists of axes as a table."""
    index = np.full((len(rows), max((len(r) for r in rows), default=0)), one, np.intp)
    for i, row in enumerate(rows):
        index[i, : len(row)] = row
    return index


def product(factor: Reals) -> Function:
    """The function of terms: their factor times the lengths."""
    return lambda pieces, lengths: factor[pieces] * lengths.prod(axis=1)
