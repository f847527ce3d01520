"""How far the outputs of two models are apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphprune.graph.model import Array, Graph

_FLOATS = ("float", "double", "bfloat")


def float_outputs(graph: Graph) -> list[int]:
    """Numbers of the outputs that are floats."""
    return [i for i, n in enumerate(graph.outputs) if graph.values[n].dtype.startswith(_FLOATS)]


def relative_error(wanted: Sequence[Sequence[Array]], got: Sequence[Sequence[Array]]) -> float:
    """Squared error relative to the variance, the mean over outputs; infinite for other shapes or no numbers.

    Args:
        wanted: Per feed the outputs of the original.
        got: Per feed those of the other.
    """
    shares = []
    for a, b in zip(zip(*wanted, strict=True), zip(*got, strict=True), strict=True):
        if any(x.shape != y.shape for x, y in zip(a, b, strict=True)):
            return float("inf")
        one, two = (np.concatenate([np.asarray(x, np.float64).ravel() for x in part]) for part in (a, b))
        spread, off = float(((one - one.mean()) ** 2).sum()), float(((one - two) ** 2).sum())
        if not np.isfinite(off):
            return float("inf")
        shares.append(off / spread if spread > 0 else off)
    return float(np.mean(shares)) if shares else 0.0
