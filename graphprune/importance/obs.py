"""Optimal brain surgeon on units: what a layer's output loses when inputs leave and the other weights make up for it.

Per layer the loss is quadratic in its weight, with the Gram matrix H of its inputs: removing the inputs B costs
tr(W_B' (H^-1_BB)^-1 W_B) after the best re-fit of what stays. The units of a group leave one after the other, cheapest
first over all the layers that read them; after each the inverse and the weights are those without it, so that of two
inputs that say the same only one is cheap.

Source: Hassibi, Stork, "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon", 1992; Frantar, Alistarh,
"SparseGPT", 2023 (layer Hessians); Wang et al., "Structurally Prune Anything", 2024 (OBSPA, over coupled channels).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphprune.algebra.axis import Ids
from graphprune.calibration import Calibration, Gram
from graphprune.calibration.layers import Layer, Norm, layers, matrix
from graphprune.calibration.normal import Real, inverse, minus_product, solved
from graphprune.coupling.groups import DependencyGraph, Group
from graphprune.importance.curve import Curve

Grams = Mapping[tuple[str, int], Gram]
_DAMPING = 1e-3
_LEAST = 1e-8
_PICKS = 64  # steps in which a group empties
_WIDEST = 6144  # inputs of a layer beyond which they count as uncorrelated
_SPARSE = 0.8  # share of a layer's inputs that is still there when the others are dropped from its matrices


@dataclass
class Site:
    """A layer, or one group of a grouped convolution, as a reader of units.

    Attributes:
        inverse: Inverse of the damped covariance of its inputs, shape (f, f); its diagonal, (f,), for wide layers.
        weight: Shape (f, outputs), scaled so that squares are shares of the energy of the layer's output.
        units: The units that it reads and that have not left, ascending.
        columns: Of each its columns, shape (units, b).
    """

    inverse: Real
    weight: Real
    units: Ids
    columns: NDArray[np.int64]

    def __post_init__(self) -> None:
        self._stays = np.ones(len(self.weight), bool)

    def losses(self, units: Ids) -> Real:
        """What each unit's removal costs now, shape (units,)."""
        out = np.zeros(len(units))
        held = np.isin(units, self.units)
        cols = self.columns[np.searchsorted(self.units, units[held])]
        w = self.weight[cols]
        if self.inverse.ndim == 1:
            out[held] = (w**2 / self.inverse[cols][:, :, None]).sum(axis=(1, 2))
        else:
            block = self.inverse[cols[:, :, None], cols[:, None, :]]
            out[held] = (w * np.linalg.solve(block, w)).sum(axis=(1, 2))
        return out

    def remove(self, units: Ids) -> None:
        """Take units out; the weights of the others make up for them."""
        gone = np.isin(self.units, units)
        cols = self.columns[gone].ravel()
        if not len(cols):
            return
        self.units, self.columns = self.units[~gone], self.columns[~gone]
        if self.inverse.ndim == 2:
            rows = self.inverse[cols]
            gain = np.asarray(np.linalg.solve(rows[:, cols], rows), np.float64)
            self.weight -= gain.T @ self.weight[cols]
            self.inverse = minus_product(self.inverse, rows.T, gain)
        self._stays[cols] = False
        if np.count_nonzero(self._stays) < _SPARSE * len(self._stays):
            self._shrink()

    def _shrink(self) -> None:
        """Drop the inputs that have left: nothing reads them any more."""
        stays = np.flatnonzero(self._stays)
        self.columns = (np.cumsum(self._stays) - 1)[self.columns]
        self.weight = self.weight[stays]
        self.inverse = self.inverse[np.ix_(stays, stays)] if self.inverse.ndim == 2 else self.inverse[stays]
        self._stays = self._stays[stays]


def obs(deps: DependencyGraph, calibration: Calibration) -> Real:
    """What each unit adds to the loss of its group, in the order in which units leave."""
    out = np.full(deps.state.store.count, np.nan)
    for curve in obs_curves(deps, read_grams(deps, calibration)):
        if curve is not None:
            out[curve.order] = np.diff(curve.loss)
    return out


def read_grams(deps: DependencyGraph, calibration: Calibration) -> Grams:
    """Gram matrices of all layers that read units, by (node, input slot)."""
    found = [x for x in layers(deps.source) if _readable(deps, x, calibration)]
    return calibration.grams([(x.name, x.linear.slot) for x in found])


def obs_curves(deps: DependencyGraph, grams: Grams) -> list[Curve | None]:
    """Per group in which order its units leave, and the loss; None for groups that no such layer reads.

    The loss is the sum over the layers that read the group of the share of their output's energy that is lost.

    Args:
        deps: The dependency graph.
        grams: What :func:`read_grams` gives for it, or for the model that it is part of.
    """
    found = {x.name: x for x in layers(deps.source)}
    readers: dict[int, list[Layer]] = {}
    owner = np.full(deps.state.store.count, -1)
    for place, group in enumerate(deps.groups):
        owner[group.units] = place
    for name, _ in grams:
        labels = _labels(deps, found[name]) if name in found else None
        if labels is None:
            continue  # it went with a branch
        for place in np.unique(owner[labels[labels > 0]]):
            readers.setdefault(int(place), []).append(found[name])
    out: list[Curve | None] = []
    for place, group in enumerate(deps.groups):
        sites = [s for x in readers.get(place, ()) for s in _sites(deps, x, group, grams[x.name, x.linear.slot])]
        out.append(_emptied(group, sites) if sites else None)
    return out


def _readable(deps: DependencyGraph, layer: Layer, calibration: Calibration) -> bool:
    """Whether a layer reads units that it can lose, in a value that can be looked at."""
    return calibration.readable(layer.input) and not _narrow(deps, layer) and _labels(deps, layer) is not None


def _narrow(deps: DependencyGraph, layer: Layer) -> bool:
    """Depthwise layers lose the output with the input: nothing is read there."""
    shape = deps.source.values[layer.input].shape
    return shape is None or shape[layer.linear.axis] == layer.linear.groups


def _labels(deps: DependencyGraph, layer: Layer) -> Ids | None:
    axes = deps.types.get(layer.input) or ()
    axis = axes[layer.linear.axis] if layer.linear.axis < len(axes) else None
    return axis.units if axis is not None else None


def _sites(deps: DependencyGraph, layer: Layer, group: Group, gram: Gram) -> Iterable[Site]:
    """The layer as sites of a group, one for each group of a grouped convolution that does not leave as a whole."""
    labels = _labels(deps, layer)
    assert labels is not None
    weight = matrix(layer, deps.source.weights[layer.weight].read())
    covariances = covariance(gram, centred=shiftable(layer))
    if layer.norm is not None:  # what is lost counts as it comes out behind it
        weight = weight * _gain(deps, layer.norm).reshape(len(weight), 1, -1)
    groups, inputs, _ = weight.shape
    per = len(labels) // groups
    taps = inputs // per
    energy = sum(float(((h @ w) * w).sum()) for w, h in zip(weight, covariances, strict=True))
    for g, (w, h) in enumerate(zip(weight, covariances, strict=True)):
        mine = labels[g * per : (g + 1) * per]
        places = _places(mine, group.units, taps)
        if places is None or (groups > 1 and len(places[0]) == 1):
            continue
        units, columns = places
        yield Site(_inverse(h), w / np.sqrt(max(energy, 1e-30)), units, columns)


def _damping(h: Real) -> float:
    return max(_DAMPING * float(np.trace(h)) / len(h), _LEAST)


def _inverse(h: Real) -> Real:
    """Inverse of a damped covariance, which is overwritten; of its diagonal alone for wide layers."""
    if len(h) > _WIDEST:
        return np.asarray(1.0 / np.maximum(np.diag(h) + _damping(h), _LEAST))
    places = np.arange(len(h))
    h[places, places] += _damping(h)
    return inverse(h)


def shiftable(layer: Layer) -> bool:
    """Whether a bias, or the mean of a BatchNormalization behind the layer, can make up for a mean that is lost."""
    return bool(layer.bias) or layer.norm is not None


def _gain(deps: DependencyGraph, norm: Norm) -> Real:
    """What a BatchNormalization multiplies every output of a layer with."""
    scale, variance = (deps.source.weights[n].read().astype(np.float64) for n in (norm.scale, norm.variance))
    return np.asarray(scale / np.sqrt(variance + norm.epsilon))


def covariance(gram: Gram, *, centred: bool) -> Real:
    """Covariance of a layer's inputs, or their second moments where no bias can make up for a mean; (groups, f, f)."""
    found = gram.covariance() if centred else np.asarray(gram.matrix / max(gram.count, 1))
    return _shrunk(found, gram.independent or gram.count)


def _shrunk(moments: Real, count: int) -> Real:
    """What inputs have in common less what few positions show by chance, much where inputs are many; overwritten.

    Source: Schäfer, Strimmer, "A Shrinkage Approach to Large-Scale Covariance Matrix Estimation", 2005 (target D, with
    the variances of Gaussian data).
    """
    own = np.diagonal(moments, axis1=1, axis2=2).copy()
    common = np.einsum("gij,gij->g", moments, moments) - (own**2).sum(axis=1)
    chance = (common + own.sum(axis=1) ** 2 - (own**2).sum(axis=1)) / max(count, 1)
    share = np.minimum(chance / np.maximum(common, 1e-30), 1.0)
    moments *= (1 - share)[:, None, None]
    places = np.arange(moments.shape[1])
    moments[:, places, places] = own
    return moments


def _places(labels: Ids, units: Ids, taps: int) -> tuple[Ids, NDArray[np.int64]] | None:
    """The units found among labels with the columns of each; units of unequal width are left out."""
    rows: dict[int, list[int]] = {}
    for position, column in np.argwhere(np.isin(labels, units)):
        rows.setdefault(int(labels[position, column]), []).append(int(position))
    if not rows:
        return None
    width = max(map(len, rows.values()))
    full = sorted(u for u, r in rows.items() if len(r) == width)
    columns = np.array([rows[u] for u in full])[:, :, None] * taps + np.arange(taps)
    return np.array(full, np.int32), columns.reshape(len(full), -1)


def _emptied(group: Group, sites: Sequence[Site]) -> Curve:
    """Let the units of a group leave, a few at a time, cheapest first."""
    left = np.sort(group.units)
    step = max(1, -(-len(left) // _PICKS))
    order: list[Ids] = []
    losses: list[Real] = []
    while len(left):
        cost = np.sum([s.losses(left) for s in sites], axis=0)
        pick = np.argsort(cost, kind="stable")[:step]
        order.append(left[pick])
        losses.append(np.maximum(cost[pick], 0.0))
        for site in sites:
            site.remove(left[pick])
        left = np.delete(left, pick)
    return Curve(np.concatenate(order), np.concatenate([[0.0], np.cumsum(np.concatenate(losses))]))


def compensated(weight: Real, mean: Real, moments: Real, rows: Mapping[int, NDArray[np.int64]]) -> tuple[Real, Real]:
    """The best weight on some inputs alone, and what its output lacks on average.

    Args:
        weight: Shape (groups, inputs, outputs).
        mean: Means of the inputs, shape (groups, inputs).
        moments: Their covariances, shape (groups, inputs, inputs).
        rows: Per group the inputs that stay.

    Returns:
        Weights with zeros where inputs left, and (groups, outputs) to add to the bias.
    """
    out = np.zeros_like(weight)
    for g, kept in rows.items():
        h = moments[g]
        ridge = _damping(h)
        damped = h[np.ix_(kept, kept)] + ridge * np.eye(len(kept))
        right = h[kept] @ weight[g] + ridge * weight[g][kept]
        out[g][kept] = solved(damped, right)
    return out, np.einsum("gi,gio->go", mean, weight - out)
