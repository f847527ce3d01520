"""The gradient of a loss by the mask of every unit.

A mask is a multiplier on the activations of all coupled positions, one at every place where a node sums over them:
setting it to zero is removing the unit. Its gradient is the sum of activation times gradient over all these places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphprune.algebra.axis import Ids
from graphprune.calibration.points import Point, Wanted, outer_nodes
from graphprune.coupling.groups import DependencyGraph
from graphprune.importance.gradient_runs import Calibrated, measured

_FLOATS = ("float", "float16", "bfloat16", "double", "float32", "float64")


@dataclass(frozen=True, slots=True)
class Masked:
    """Where units are masked.

    Attributes:
        wanted: Sums of activation times gradient, per place.
        labels: Per place the units of every position, the columns last; 0 where a position counts for none.
        count: Number of unit ids.
        whole: Units that are masked wherever nodes sum over them.
    """

    wanted: tuple[Wanted, ...]
    labels: tuple[Ids, ...]
    count: int
    whole: NDArray[np.bool_]

    def units(self, found: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Gradient by the mask of every unit id, from the sums of all places."""
        total = np.zeros(self.count)
        for sums, labels in zip(found, self.labels, strict=True):
            again = [n // m for n, m in zip(sums.shape, labels.shape[:-1], strict=True)]  # batch times heads
            rows = labels if max(again) == 1 else np.tile(labels, (*again, 1))
            for column in np.moveaxis(rows, -1, 0):
                total += np.bincount(column.ravel(), weights=sums.ravel(), minlength=self.count)
        total[0] = 0.0
        return total


def masked(deps: DependencyGraph) -> Masked:
    """Where the units of a graph are masked.

    Two operands of one contraction share an axis; one of them is masked, activations before stored weights. Places
    inside control flow and on integers have no gradient; units that lie there are not whole.
    """
    graph, reachable = deps.source, outer_nodes(deps.source)
    inputs = {node.name: node.inputs for node in graph.nodes}
    stored = {site: inputs[site.node][site.slot] in graph.weights for site in deps.sites}
    done: dict[str, NDArray[np.bool_]] = {}
    wanted, kept = [], []
    count = deps.state.store.count
    seen, missed = np.zeros(count, bool), np.zeros(count, bool)
    for site in sorted(deps.sites, key=lambda s: stored[s]):
        name = inputs[site.node][site.slot]
        axes, labels = _labels(deps, name, site.axis)
        if site.mode != "zero" or labels is None:
            continue
        if site.node not in reachable or graph.values[name].dtype not in _FLOATS:
            missed[labels.ravel()] = True
            continue
        seen[labels.ravel()] = True
        mine = done.setdefault(site.node, np.zeros(count, bool))
        fresh = np.where(mine[labels], 0, labels)
        mine[labels.ravel()] = True
        if fresh.any():
            wanted.append(Wanted(Point(site.node, site.slot), axes))
            kept.append(fresh.astype(np.int32))
    seen[0] = False
    return Masked(tuple(wanted), tuple(kept), count, seen & ~missed)


def _labels(deps: DependencyGraph, name: str, axis: int) -> tuple[tuple[int, ...], Ids | None]:
    """Axes whose positions tell units apart, and the units of these positions; None where nothing can be removed."""
    ragged = deps.ragged.get((name, axis))
    if ragged is not None:
        axes = tuple(sorted((ragged.block, axis)))
        return axes, ragged.units if ragged.block < axis else ragged.units.transpose(1, 0, 2)
    types = deps.types.get(name)
    labels = types[axis] if types is not None else None
    if labels is None or labels.units is None or not labels.units.any():
        return (axis,), None
    return (axis,), labels.units


def unit_gradients(
    deps: DependencyGraph, calibration: Calibrated, loss: str, *, probes: int = 1
) -> Iterator[NDArray[np.float64]]:
    """Per sample and probe the gradient by every unit's mask, float64 over unit ids.

    Args:
        deps: The dependency graph.
        calibration: Samples and seed.
        loss: Name of a loss, see :mod:`graphprune.importance.losses`.
        probes: Draws per sample, for losses that draw.

    Raises:
        InputError: An operator has no gradient, or there is no data.

    Yields:
        Nothing where no unit is masked wherever nodes sum over it.
    """
    places = masked(deps)
    if not places.whole.any():
        return
    for found in measured(deps, calibration, places.wanted, loss, probes=probes):
        yield places.units(found)


def finished(deps: DependencyGraph, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores with NaN for units that are not masked wherever nodes sum over them."""
    out = np.where(masked(deps).whole, scores, np.nan)
    out[0] = 0.0
    return out
