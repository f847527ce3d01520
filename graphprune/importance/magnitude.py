"""Group magnitude: the norm of everything that leaves with a unit.

Source: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017 (filter norms); Fang et al., "DepGraph:
Towards Any Structural Pruning", CVPR 2023 (summed over all coupled parameters).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from graphprune.coupling.groups import DependencyGraph
from graphprune.errors import InputError
from graphprune.graph.dequantise import RealValues

Scores = NDArray[np.float64]


def l2(deps: DependencyGraph, seed: int) -> Scores:  # noqa: ARG001 - criteria share one signature
    """Euclidean norm over all coupled weight slices of a unit."""
    return np.sqrt(_summed(deps, power=2))


def l1(deps: DependencyGraph, seed: int) -> Scores:  # noqa: ARG001
    """Sum of absolute values over all coupled weight slices of a unit."""
    return _summed(deps, power=1)


def _summed(deps: DependencyGraph, *, power: int) -> Scores:
    total = np.zeros(deps.state.store.count)
    for name, sums in _axis_sums(deps, power):
        for axis, per_position in sums.items():
            labels = deps.types[name][axis]
            assert labels is not None
            assert labels.units is not None
            for column in labels.units.T:
                total += np.bincount(column, weights=per_position, minlength=len(total))
    total[0] = 0.0
    return total


_MASKED = -1e18  # its square is about the largest float


def _axis_sums(deps: DependencyGraph, power: int) -> Iterator[tuple[str, dict[int, NDArray[np.float64]]]]:
    """Per stored tensor, the summed magnitude of each position of its labelled axes; read once.

    Quantised weights count as the real numbers they stand for; their scales and zero points do not count again.

    Raises:
        InputError: A tensor holds NaN, or values too large to sum.
    """
    real = RealValues(deps.source)
    for name, weight in deps.source.weights.items():
        axes = [a for a, x in enumerate(deps.types.get(name) or ()) if x is not None and x.units is not None]
        if not axes or weight.origin == "fill" or name in real.settings:
            continue
        array = _finite(real.read(name))
        sums = {a: _reduce(array, a, power) for a in axes}
        if not all(np.isfinite(s).all() for s in sums.values()):  # squares of large numbers do not fit float32
            sums = {a: _reduce(array.astype(np.float64), a, power) for a in axes}
        if not all(np.isfinite(s).all() for s in sums.values()):
            raise InputError(
                f"{deps.source.name}: weight {weight.source} holds NaN or infinite values; repair the model first"
            )
        yield name, sums


def _finite(array: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float32] | NDArray[np.float64]:
    """Values near the lowest float are masks folded into a table: they rank nothing."""
    masked = array.size and array.min() < _MASKED
    return np.where(array < _MASKED, 0, array) if masked else array


def _reduce(array: NDArray[np.float32] | NDArray[np.float64], axis: int, power: int) -> NDArray[np.float64]:
    """Sum of |x|^power over all other axes, without a temporary of the tensor's size where that can be had."""
    outer = int(np.prod(array.shape[:axis], dtype=np.int64))
    cube = array.reshape(outer, array.shape[axis], -1)
    if power == 2:
        sums = np.einsum("aib,aib->i", cube, cube, optimize=False)
    else:
        sums = np.abs(cube).sum(axis=(0, 2), dtype=np.float64)
    return np.asarray(sums, np.float64)
