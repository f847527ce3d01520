"""Group magnitude: the norm of everything that leaves with a unit.

Source: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017 (filter norms); Fang et al., "DepGraph:
Towards Any Structural Pruning", CVPR 2023 (summed over all coupled parameters).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from graphprune.algebra.axis import Ids
from graphprune.coupling.groups import DependencyGraph
from graphprune.errors import InputError
from graphprune.graph.dequantise import RealValues

Scores = NDArray[np.float64]
Real = NDArray[np.float32] | NDArray[np.float64]


def l2(deps: DependencyGraph, seed: int) -> Scores:  # noqa: ARG001 - criteria share one signature
    """Euclidean norm over all coupled weight slices of a unit."""
    return np.sqrt(_summed(deps, power=2))


def l1(deps: DependencyGraph, seed: int) -> Scores:  # noqa: ARG001
    """Sum of absolute values over all coupled weight slices of a unit."""
    return _summed(deps, power=1)


def nearly_zero(deps: DependencyGraph, share: float) -> NDArray[np.bool_]:
    """Units with a slice of a matrix, kernel or norm's scale below ``share`` of the largest slice along its axis."""
    scales = {n.inputs[1] for n in deps.source.nodes if n.op.endswith("Normalization") and len(n.inputs) > 1}
    out = np.zeros(deps.state.store.count, bool)
    for name, sums in _axis_sums(deps, power=2):
        if len(deps.source.weights[name].shape) < 2 and name not in scales:
            continue
        for axis, per_position in sums.items():
            labels = deps.types[name][axis]
            assert labels is not None
            assert labels.units is not None
            small = np.sqrt(per_position) < share * np.sqrt(per_position.max(initial=0.0))
            out[labels.units[small].ravel()] = True
    out[0] = False
    return out


def _summed(deps: DependencyGraph, *, power: int) -> Scores:
    total = np.zeros(deps.state.store.count)
    for name, sums in _axis_sums(deps, power):
        for axis, per_position in sums.items():
            for column in np.moveaxis(_labels(deps, name, axis), -1, 0):
                total += np.bincount(column.ravel(), weights=per_position.ravel(), minlength=len(total))
    total[0] = 0.0
    return total


_MASKED = -1e18  # its square is about the largest float


def _labels(deps: DependencyGraph, name: str, axis: int) -> Ids:
    """Units per position (of the block axis and) of the axis, with the columns last."""
    ragged = deps.ragged.get((name, axis))
    if ragged is not None:
        return ragged.units
    labels = deps.types[name][axis]
    assert labels is not None
    assert labels.units is not None
    return labels.units


def _axis_sums(deps: DependencyGraph, power: int) -> Iterator[tuple[str, dict[int, NDArray[np.float64]]]]:
    """Per stored tensor, the summed magnitude of each position of its labelled axes; read once.

    Quantised weights count as the real numbers they stand for; their scales and zero points do not count again. On a
    ragged axis the sums are those of each position in each block, shape (positions of the block axis, positions).

    Raises:
        InputError: A tensor holds NaN, or values too large to sum.
    """
    real = RealValues(deps.source)
    for name, weight in deps.source.weights.items():
        axes = [a for a, x in enumerate(deps.types.get(name) or ()) if x is not None and x.units is not None]
        if not axes or weight.origin == "fill" or name in real.settings:
            continue
        array = _finite(real.read(name))
        sums = dict(_sums(deps, name, array, axes, power))
        if not all(np.isfinite(s).all() for s in sums.values()):  # squares of large numbers do not fit float32
            sums = dict(_sums(deps, name, array.astype(np.float64), axes, power))
        if not all(np.isfinite(s).all() for s in sums.values()):
            raise InputError(
                f"{deps.source.name}: weight {weight.source} holds NaN or infinite values; repair the model first"
            )
        yield name, sums


def _sums(
    deps: DependencyGraph, name: str, array: Real, axes: list[int], power: int
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    for axis in axes:
        ragged = deps.ragged.get((name, axis))
        yield (
            axis,
            (_reduce(array, axis, power) if ragged is None else _reduce_ragged(array, ragged.block, axis, power)),
        )


def _finite(array: Real) -> Real:
    """Values near the lowest float are masks folded into a table: they rank nothing."""
    masked = array.size and array.min() < _MASKED
    return np.where(array < _MASKED, 0, array) if masked else array


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
