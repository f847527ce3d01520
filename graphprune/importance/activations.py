"""Where the activations of units can be looked at: what layers sum over, or any value that holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from graphprune.algebra.axis import Ids
from graphprune.calibration import Calibration, Moments
from graphprune.coupling.groups import DependencyGraph
from graphprune.graph.model import Value
from graphprune.importance.slices import Scores, Slice, Slices, families, labels

_REAL = ("float", "double", "float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True, slots=True)
class Place:
    """An axis of an activation; on a ragged axis the blocks are told apart.

    Attributes:
        name: The value.
        axes: The axis; of a ragged one the axis of its blocks and the axis.
        units: Unit ids by position, shape (sizes of the axes, k).
    """

    name: str
    axes: tuple[int, ...]
    units: Ids


def place_of(deps: DependencyGraph, calibration: Calibration, name: str, axis: int) -> Place | None:
    """An axis of a value as statistics can be taken of it; None where it has no labels or cannot be read."""
    value, units = deps.source.values.get(name), labels(deps, name, axis)
    if value is None or units is None or value.dtype not in _REAL or not calibration.readable(name):
        return None
    ragged = deps.ragged.get((name, axis))
    axes = (axis,) if ragged is None else (ragged.block, axis)
    return Place(name, axes, units) if _fixed(value, axes, units) else None


def _fixed(value: Value, axes: tuple[int, ...], units: Ids) -> bool:
    """Whether the axes have the sizes that their labels say, at every input size."""
    shape = value.shape or ()
    fits = all(a < len(shape) and not value.dynamic[a] for a in axes)
    return fits and tuple(shape[a] for a in axes) == units.shape[:-1]


def places(deps: DependencyGraph, calibration: Calibration) -> list[Place]:
    """Activations of all units: inputs that nodes sum or take statistics over, for others any value that holds them."""
    nodes = {n.name: n for n in deps.source.nodes}
    keys = dict.fromkeys((nodes[s.node].inputs[s.slot], s.axis) for s in deps.sites)
    found = [p for n, a in keys if n not in deps.source.weights and (p := place_of(deps, calibration, n, a))]
    family = families(deps)
    open_units = family >= 0
    for place in found:
        open_units[place.units.ravel()] = False
    if open_units.any():
        found += _others(deps, calibration, open_units)
    return found


def _others(deps: DependencyGraph, calibration: Calibration, wanted: np.ndarray) -> Iterator[Place]:
    """For units that no site holds, the first values that do."""
    wanted = wanted.copy()
    for name, axes in deps.types.items():
        if name in deps.source.weights:
            continue
        for axis in range(len(axes)):
            units = labels(deps, name, axis)
            if units is None or not wanted[units].any():
                continue
            place = place_of(deps, calibration, name, axis)
            if place is not None:
                wanted[units.ravel()] = False
                yield place


def measured(
    deps: DependencyGraph,
    calibration: Calibration,
    value: Callable[[Moments], Scores],
    finish: Callable[[Scores], Scores] | None = None,
) -> Slices:
    """What a function of the moments says of every activation, such as their mean square.

    Args:
        deps: The dependency graph.
        calibration: Statistics over data.
        value: From moments to a number of at least zero per position.
        finish: What is done with the numbers of units, once those of their positions are one.
    """
    found = places(deps, calibration)
    moments = calibration.moments([_key(p) for p in found])
    parts = [Slice(p.units, np.asarray(value(moments[_key(p)]), np.float64)) for p in found]
    return Slices(parts) if finish is None else Slices(parts, finish)


def _key(place: Place) -> tuple[str, int | tuple[int, ...]]:
    return place.name, place.axes if len(place.axes) > 1 else place.axes[0]
