"""Gram matrices of what layers read, summed chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphprune.graph.model import Array

Real = NDArray[np.float64]
Chunks = Callable[[Mapping[str, Array], np.random.Generator, int | None], Iterator[Array]]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Gram:
    """Sums over positions of what a layer reads.

    Attributes:
        matrix: Sums of products, float64 of shape (groups, f, f); f counts inputs of a group and, within, taps.
        sums: Sums, float64 of shape (groups, f).
        count: Number of positions.
        independent: How many independent positions would say as much; neighbours in a sample are alike.
    """

    matrix: Real
    sums: Real
    count: int
    independent: int = 0

    def covariance(self) -> Real:
        """Covariances, shape (groups, f, f)."""
        mean = self.sums / max(self.count, 1)
        return self.matrix / max(self.count, 1) - mean[:, :, None] * mean[:, None, :]


@dataclass(frozen=True)
class Source:
    """Where the rows of a Gram matrix come from.

    Attributes:
        values: Names of the values that have to be read.
        groups: Number of matrices.
        width: Rows and columns of each.
        chunks: From the values, a generator and a limit on positions to arrays (groups, positions, width).
    """

    values: tuple[str, ...]
    groups: int
    width: int
    chunks: Chunks

    @property
    def bytes(self) -> int:
        """Bytes of the sums, with the one product that is added to them."""
        return self.groups * self.width * self.width * 12


class GramSums:
    """A Gram matrix as it is being summed: products in float32, sums in float64.

    How much positions of the same chunk are alike is told from the spread of the chunks' means.

    Source: Kish, "Survey Sampling", 1965 (design effect of clusters).
    """

    def __init__(self, groups: int, width: int) -> None:
        self.matrix = np.zeros((groups, width, width))
        self.sums = np.zeros((groups, width))
        self.count = 0
        self._between = np.zeros((groups, width))  # sums of squares of the chunks' means
        self._chunks = 0

    def add(self, rows: Array) -> None:
        """See more positions, array (groups, positions, width)."""
        kind = np.float64 if rows.dtype == np.float64 else np.float32
        for place, group in enumerate(rows):
            x: NDArray[Any] = np.ascontiguousarray(group, kind)
            self.matrix[place] += x.T @ x
            mine = x.sum(axis=0, dtype=np.float64)
            self.sums[place] += mine
            self._between[place] += mine**2 / max(len(x), 1)
        self.count += rows.shape[1]
        self._chunks += 1

    def result(self) -> Gram:
        """The sums so far."""
        return Gram(self.matrix, self.sums, self.count, self._independent())

    def _independent(self) -> int:
        if self._chunks < 2:  # nothing to compare
            return self.count
        square = self.sums**2 / self.count
        between = float((self._between - square).sum()) / (self._chunks - 1)
        within = float((np.diagonal(self.matrix, axis1=1, axis2=2) - square).sum()) / self.count
        return int(self.count / max(between / max(within, 1e-30), 1.0))

    def state(self) -> dict[str, Array]:
        """What has been summed, for a file."""
        return {
            "matrix": self.matrix,
            "sums": self.sums,
            "count": np.array([self.count, self._chunks]),
            "between": self._between,
        }

    def restore(self, state: Mapping[str, Array]) -> None:
        """Go on from what a file holds."""
        self.matrix, self.sums = np.array(state["matrix"]), np.array(state["sums"])
        self.count, self._chunks = map(int, state["count"])
        self._between = np.array(state["between"])
