"""Stored weights as criteria read them: real numbers, per position of a labelled axis."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from graphprune.coupling.groups import DependencyGraph
from graphprune.errors import InputError
from graphprune.graph.dequantise import RealValues
from graphprune.importance.slices import Slice, labels

Real = NDArray[np.float32] | NDArray[np.float64]
Sums = dict[int, NDArray[np.float64]]
_MASKED = -1e18  # its square is about the largest float


def read(deps: DependencyGraph) -> Iterator[tuple[str, Real, list[int]]]:
    """Every stored tensor that has labels, with its labelled axes.

    Quantised weights are the real numbers they stand for; their scales and zero points do not count again.
    """
    real = RealValues(deps.source)
    for name, weight in deps.source.weights.items():
        axes = [a for a, x in enumerate(deps.types.get(name) or ()) if x is not None and x.units is not None]
        if axes and weight.origin != "fill" and name not in real.settings:
            yield name, finite(real.read(name)), axes


def axis_sums(deps: DependencyGraph, power: int) -> Iterator[tuple[str, Sums]]:
    """Per stored tensor, the summed magnitude of each position of its labelled axes; read once.

    On a ragged axis the sums are those of each position in each block, shape (positions of the block axis, positions).

    Raises:
        InputError: A tensor holds NaN, or values too large to sum.
    """
    for name, array, axes in read(deps):
        sums = dict(_sums(deps, name, array, axes, power))
        if not all(np.isfinite(s).all() for s in sums.values()):  # squares of large numbers do not fit float32
            sums = dict(_sums(deps, name, array.astype(np.float64), axes, power))
        if not all(np.isfinite(s).all() for s in sums.values()):
            raise not_finite(deps, name)
        yield name, sums


def power_slices(deps: DependencyGraph, power: int) -> list[Slice]:
    """The summed magnitude of every coupled weight slice."""
    out = []
    for name, sums in axis_sums(deps, power):
        for axis, per_position in sums.items():
            units = labels(deps, name, axis)
            assert units is not None
            out.append(Slice(units, per_position))
    return out


def not_finite(deps: DependencyGraph, name: str) -> InputError:
    """What is raised for a weight with NaN or infinite values."""
    source = deps.source.weights[name].source
    return InputError(f"{deps.source.name}: weight {source} holds NaN or infinite values; repair the model first")


def finite(array: Real) -> Real:
    """Values near the lowest float are masks folded into a table: they rank nothing."""
    masked = array.size and array.min() < _MASKED
    return np.where(array < _MASKED, 0, array) if masked else array


def _sums(
    deps: DependencyGraph, name: str, array: Real, axes: list[int], power: int
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    for axis in axes:
        ragged = deps.ragged.get((name, axis))
        yield (
            axis,
            (_reduce(array, axis, power) if ragged is None else _reduce_ragged(array, ragged.block, axis, power)),
        )


def _reduce(array: Real, axis: int, power: int) -> NDArray[np.float64]:
    """Sum of |x|^power over all other axes, without a temporary of the tensor's size where that can be had."""
    outer = int(np.prod(array.shape[:axis], dtype=np.int64))
    cube = array.reshape(outer, array.shape[axis], -1)
    if power == 2:
        sums = np.einsum("aib,aib->i", cube, cube, optimize=False)
    else:
        sums = np.abs(cube).sum(axis=(0, 2), dtype=np.float64)
    return np.asarray(sums, np.float64)


def _reduce_ragged(array: Real, block: int, axis: int, power: int) -> NDArray[np.float64]:
    """Sum of |x|^power over all axes but two, shape (positions of the block axis, positions of the axis)."""
    cube = np.moveaxis(array, (block, axis), (0, 1)).reshape(array.shape[block], array.shape[axis], -1)
    if power == 2:
        return np.asarray(np.einsum("bia,bia->bi", cube, cube, optimize=False), np.float64)
    return np.asarray(np.abs(cube).sum(axis=2, dtype=np.float64))
