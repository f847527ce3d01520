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
from graphprune.graph.model import Array

Scores = NDArray[np.float64]


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
            labels = deps.types[name][axis]
            assert labels is not None
            assert labels.units is not None
            for column in labels.units.T:
                total += np.bincount(column, weights=per_position, minlength=len(total))
    total[0] = 0.0
    return total


def _axis_sums(deps: DependencyGraph, power: int) -> Iterator[tuple[str, dict[int, NDArray[np.float64]]]]:
    """Per stored tensor, the summed magnitude of each position of its labelled axes; read once.

    Raises:
        InputError: A tensor holds NaN or infinity.
    """
    for name, weight in deps.source.weights.items():
        axes = [a for a, x in enumerate(deps.types.get(name) or ()) if x is not None and x.units is not None]
        if not axes or weight.origin == "fill":
            continue
        array = _as_float(weight.read())
        sums = {a: _reduce(array, a, power) for a in axes}
        if not all(np.isfinite(s).all() for s in sums.values()):
            raise InputError(
                f"{deps.source.name}: weight {weight.source} holds NaN or infinite values; repair the model first"
            )
        yield name, sums


def _as_float(array: Array) -> NDArray[np.float32]:
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _reduce(array: NDArray[np.float32], axis: int, power: int) -> NDArray[np.float64]:
    """Sum of |x|^power over all other axes, without a temporary of the tensor's size where that can be had."""
    outer = int(np.prod(array.shape[:axis], dtype=np.int64))
    cube = array.reshape(outer, array.shape[axis], -1)
    if power == 2:
        sums = np.einsum("aib,aib->i", cube, cube, optimize=False)
    else:
        sums = np.abs(cube).sum(axis=(0, 2), dtype=np.float64)
    return np.asarray(sums, np.float64)
