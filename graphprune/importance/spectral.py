"""What a unit contributes to the leading singular space of its weights.

Source: Yao, Yu and Koutis, "Neural Network Pruning as Spectrum Preserving Process", 2023: rows and
columns are weighed by their part in the singular vectors that hold most of the energy.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from graphprune.coupling.groups import DependencyGraph
from graphprune.importance.slices import Scores, Slice, Slices, labels
from graphprune.importance.weights import not_finite, read

Matrix = NDArray[np.float32]

_ENERGY = 0.5  # of the squared singular values


def spectral(deps: DependencyGraph, seed: int) -> Slices:  # noqa: ARG001 - criteria share one signature
    """Norm of a unit's weight slices after projection on the leading singular vectors that hold half of the energy."""
    parts: list[Slice] = []
    for name, array, axes in read(deps):
        if array.size == max(array.shape, default=0):
            continue
        if not np.isfinite(array).all():
            raise not_finite(deps, name)
        parts += _parts(deps, name, np.asarray(array, np.float32), axes)
    return Slices(parts, np.sqrt)


def _parts(deps: DependencyGraph, name: str, array: Matrix, axes: list[int]) -> Iterator[Slice]:
    """Every labelled axis of a tensor; those of a plain matrix share one decomposition."""
    done: dict[int, Scores] = {}
    for axis in axes:
        units, ragged = labels(deps, name, axis), deps.ragged.get((name, axis))
        assert units is not None
        front = (axis,) if ragged is None else (ragged.block, axis)
        if axis not in done:
            rows = int(np.prod([array.shape[a] for a in front]))
            done[axis], other = leading(np.moveaxis(array, front, range(len(front))).reshape(rows, -1))
            wide = [a for a, n in enumerate(array.shape) if n > 1]
            if len(wide) == 2 and axis in wide and not any((name, a) in deps.ragged for a in wide):
                done.setdefault(wide[0] + wide[1] - axis, other)
        yield Slice(units, done[axis].reshape(units.shape[:-1]))


def leading(matrix: Matrix) -> tuple[Scores, Scores]:
    """Squared norms of the projections of every row, and of every column, on the leading singular vectors."""
    largest = float(np.abs(matrix).max(initial=0.0))
    if not largest:
        return np.zeros(matrix.shape[0]), np.zeros(matrix.shape[1])
    matrix = matrix / np.float32(largest)
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    values, vectors = np.linalg.eigh(short @ short.T)
    values = np.maximum(values[::-1], 0.0).astype(np.float64)
    rank = int(np.searchsorted(np.cumsum(values), _ENERGY * values.sum())) + 1
    first = vectors[:, ::-1][:, :rank]
    along = np.square(first, dtype=np.float64) @ values[:rank] * largest**2
    across = np.einsum("ri,ri->i", *[first.T @ short] * 2).astype(np.float64) * largest**2
    return (along, across) if short is matrix else (across, along)
