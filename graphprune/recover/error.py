"""How far the outputs of two models are apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from graphprune.graph.model import Array, Graph

_FLOATS = ("float", "double", "bfloat")


def float_outputs(graph: Graph) -> list[int]:
    """Numbers of the outputs that are floats."""
    return [i for i, n in enumerate(graph.outputs) if graph.values[n].dtype.startswith(_FLOATS)]


class Apart:
    """How far outputs are apart, feed by feed: nothing but sums is held."""

    def __init__(self) -> None:
        self._sums: list[list[float]] = []  # per output: numbers, mean, squares about it, squared differences
        self._comparable = True

    def add(self, wanted: Sequence[Array], got: Sequence[Array]) -> None:
        """See the outputs of the original and of the other for one more feed."""
        self._sums = self._sums or [[0, 0.0, 0.0, 0.0] for _ in wanted]
        for sums, a, b in zip(self._sums, wanted, got, strict=True):
            if a.shape != b.shape:
                self._comparable = False
                return
            one, two = np.asarray(a, np.float64), np.asarray(b, np.float64)
            if not one.size:
                continue
            before, mean = sums[0], float(one.mean())
            apart = mean - sums[1]
            sums[0] = before + one.size
            sums[1] += apart * one.size / sums[0]
            sums[2] += float(((one - mean) ** 2).sum()) + apart**2 * before * one.size / sums[0]
            sums[3] += float(((one - two) ** 2).sum())

    @property
    def error(self) -> float:
        """Squared error relative to the variance, the mean over outputs; infinite for other shapes or no numbers."""
        if not self._comparable or not all(np.isfinite(off) for *_, off in self._sums):
            return float("inf")
        return float(np.mean([off / s if s > 0 else off for *_, s, off in self._sums])) if self._sums else 0.0


def relative_error(wanted: Iterable[Sequence[Array]], got: Iterable[Sequence[Array]]) -> float:
    """Squared error relative to the variance, the mean over outputs; infinite for other shapes or no numbers.

    Args:
        wanted: Per feed the outputs of the original.
        got: Per feed those of the other.
    """
    apart = Apart()
    for a, b in zip(wanted, got, strict=True):
        apart.add(a, b)
    return apart.error
