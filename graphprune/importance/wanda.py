"""Weights times the activations they meet.

Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024 (Wanda), summed over
all weights that read a unit's channel.
"""

from __future__ import annotations

import math

import numpy as np

from graphprune.calibration import Calibration
from graphprune.coupling.groups import DependencyGraph
from graphprune.graph.dequantise import RealValues
from graphprune.importance.activations import Place, place_of
from graphprune.importance.contractions import Contraction, roles
from graphprune.importance.slices import Scores, Slice, Slices
from graphprune.importance.weights import Real, finite, not_finite


def wanda(deps: DependencyGraph, calibration: Calibration) -> Slices:
    """Root mean square of a unit's activations times the absolute weights, or the other activations, they meet."""
    role = roles(deps)
    names = {(c.data, c.axis) for c in role.contractions} | {p for pair in role.products for p in pair}
    found = {key: p for key in sorted(names) if (p := place_of(deps, calibration, *key)) is not None}
    moments = calibration.moments([_key(p) for p in found.values()])
    size = {key: np.sqrt(moments[_key(p)].mean_square) for key, p in found.items()}
    real = RealValues(deps.source)
    parts = []
    for contraction in role.contractions:
        key = contraction.data, contraction.axis
        if key not in found:
            continue
        array = finite(real.read(contraction.weight))
        if not np.isfinite(array).all():
            raise not_finite(deps, contraction.weight)
        sums = columns(contraction, array, found[key].units.shape[-2])
        if sums is not None:
            parts.append(Slice(found[key].units, size[key] * sums))
    for first, second in role.products:
        if first in found and second in found and size[first].shape == size[second].shape:
            parts.append(Slice(found[first].units, size[first] * size[second]))
    return Slices(parts)


def columns(contraction: Contraction, array: Real, inputs: int) -> Scores | None:
    """Sum of the absolute weights that meet each input position, shape (inputs,); None where that is not plain.

    Args:
        contraction: How the weight is summed.
        array: The weight.
        inputs: Number of input positions.
    """
    axis = contraction.inner
    if array.shape[axis] == inputs:
        rest = tuple(a for a in range(array.ndim) if a != axis)
        return np.asarray(np.abs(array).sum(axis=rest, dtype=np.float64))
    groups, left = divmod(inputs, array.shape[axis])
    if left or axis != 1 or array.shape[0] % groups:
        return None
    cube = np.abs(array).reshape(groups, array.shape[0] // groups, array.shape[1], math.prod(array.shape[2:]))
    return np.asarray(cube.sum(axis=(1, 3), dtype=np.float64).reshape(inputs))


def _key(place: Place) -> tuple[str, int | tuple[int, ...]]:
    return place.name, place.axes if len(place.axes) > 1 else place.axes[0]
