"""Moments of an axis' positions, summed chunk by chunk in float64.

Source: Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979:
means and squared deviations of two parts give those of both without cancellation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphprune.graph.model import Array

Real = NDArray[np.float64]
_CHUNK = 1 << 19  # elements taken to float64 at once


@dataclass(frozen=True, slots=True)
class Moments:
    """What the elements at each position of an axis (or of several axes) are like; all arrays of the axes' shape.

    Attributes:
        count: Elements per position.
        mean: Their mean.
        mean_abs: Mean of their absolute values.
        mean_square: Mean of their squares.
        variance: Their variance, divided by the count.
        zero: Share of them that are zero.
        positive: Share of them that are greater than zero.
        max_abs: Largest absolute value.
    """

    count: int
    mean: Real
    mean_abs: Real
    mean_square: Real
    variance: Real
    zero: Real
    positive: Real
    max_abs: Real


_SUMMED = ("absolute", "zeros", "positives")


class MomentSums:
    """Moments as they are being summed.

    Args:
        axes: Axes whose positions are told apart, in this order.
    """

    def __init__(self, axes: tuple[int, ...]) -> None:
        self.axes = axes
        self.count = 0
        self._sums: dict[str, Real] = {}

    def add(self, array: Array) -> None:
        """See the elements of a tensor."""
        for chunk in _chunks(array, self.axes):
            rest = tuple(a for a in range(chunk.ndim) if a not in self.axes)
            count = math.prod(chunk.shape[a] for a in rest)
            if not count:
                continue
            real = chunk.astype(np.float64)
            magnitude = np.abs(real)
            mean = real.mean(axis=rest, keepdims=True)
            found = {
                "mean": mean.reshape([real.shape[a] for a in sorted(self.axes)]),
                "absolute": magnitude.sum(axis=rest),
                "largest": magnitude.max(axis=rest),
                "zeros": np.count_nonzero(chunk == 0, axis=rest).astype(np.float64),
                "positives": np.count_nonzero(chunk > 0, axis=rest).astype(np.float64),
            }
            with np.errstate(invalid="ignore", over="ignore"):
                real -= mean
                found["deviation"] = np.square(real, out=magnitude).sum(axis=rest)
            self._merge(count, {k: self._ordered(v) for k, v in found.items()})

    def _ordered(self, array: Real) -> Real:
        """Axes in the order asked for, instead of the tensor's."""
        return np.transpose(array, [sorted(self.axes).index(a) for a in self.axes])

    def _merge(self, count: int, found: Mapping[str, Real]) -> None:
        if not self.count:
            self.count, self._sums = count, {k: np.array(v, np.float64) for k, v in found.items()}
            return
        mine, total = self._sums, self.count + count
        with np.errstate(invalid="ignore", over="ignore"):
            apart = found["mean"] - mine["mean"]
            mine["mean"] += apart * (count / total)
            mine["deviation"] += found["deviation"] + apart**2 * (self.count * count / total)
            for name in _SUMMED:
                mine[name] += found[name]
            np.maximum(mine["largest"], found["largest"], out=mine["largest"])
        self.count = total

    def result(self) -> Moments:
        """The moments of all that was seen."""
        n, sums = max(self.count, 1), self._sums
        variance = sums["deviation"] / n
        return Moments(
            count=self.count,
            mean=sums["mean"],
            mean_abs=sums["absolute"] / n,
            mean_square=variance + sums["mean"] ** 2,
            variance=variance,
            zero=sums["zeros"] / n,
            positive=sums["positives"] / n,
            max_abs=sums["largest"],
        )

    def state(self) -> dict[str, Array]:
        """What has been summed, for a file."""
        return {"count": np.array(self.count, np.int64), **self._sums}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Go on from what a file holds."""
        self.count = int(state["count"])
        self._sums = {k: np.array(v, np.float64) for k, v in state.items() if k != "count"}


def _chunks(array: Array, axes: tuple[int, ...]) -> Iterator[Array]:
    """A tensor in parts that fit caches, split along the longest axis that is summed over."""
    rest = [a for a in range(array.ndim) if a not in axes]
    if array.size <= _CHUNK or not rest:
        yield array
        return
    longest = max(rest, key=lambda a: (array.shape[a] > 1 and a == 0, array.shape[a]))
    step = max(1, _CHUNK * array.shape[longest] // array.size)
    for lo in range(0, array.shape[longest], step):
        yield array[(slice(None),) * longest + (slice(lo, lo + step),)]
