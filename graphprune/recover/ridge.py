"""Least squares for the weight of one layer, pulled towards the weight it has.

Source: He, Zhang, Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017 (reconstruction by
least squares); Hoerl, Kennard, "Ridge Regression", 1970.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphprune.calibration.normal import Normal, Real, solved

STRENGTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, np.inf)
_FIRST = STRENGTHS.index(1e-3)  # where the search begins


@dataclass(frozen=True)
class Fit:
    """A fitted layer.

    Attributes:
        weight: Shape (groups, inputs, outputs).
        bias: Shape (groups, outputs).
        strength: Ridge relative to the mean variance of the inputs.
        before: Squared error of the weight as it was, on data that was not fitted.
        after: The same of the fitted one.
    """

    weight: Real
    bias: Real
    strength: float
    before: float
    after: float


def solve(data: Normal, weight: Real, bias: Real, strength: float, *, free_bias: bool) -> tuple[Real, Real]:
    """Argmin |x·w + b - y|² + λ|w - weight|², λ = strength times the mean second moment of the inputs.

    An infinite strength fits the bias alone.
    """
    if not np.isfinite(strength):
        return weight, (data.y - np.einsum("gi,gio->go", data.x, weight)) / max(data.count, 1) if free_bias else bias
    if free_bias:
        xx, xy, _ = data.centred()
    else:
        xx, xy = data.xx, data.xy - data.x[:, :, None] * bias[:, None, :]
    out = np.empty_like(weight)
    for g in range(len(xx)):
        size = xx.shape[1]
        ridge = strength * max(float(np.trace(xx[g])) / size, 1e-12)
        pulled = xx[g] + ridge * np.eye(size)
        out[g] = solved(pulled, xy[g] + ridge * weight[g])
    if free_bias:
        bias = (data.y - np.einsum("gi,gio->go", data.x, out)) / max(data.count, 1)
    return out, bias


def fit(train: Normal, held: Normal, weight: Real, bias: Real, *, free_bias: bool) -> Fit:
    """The fit whose strength does best on held-back data, made again on all data.

    Args:
        train: Normal equations of the data to fit.
        held: Those of the data held back.
        weight: The weight as it is, shape (groups, inputs, outputs).
        bias: The bias as it is, shape (groups, outputs).
        free_bias: Whether the bias may change.
    """
    before = held.error(weight, bias)
    errors: dict[int, float] = {}

    def error(place: int) -> float:
        if place not in errors:
            inside = 0 <= place < len(STRENGTHS)
            tried = solve(train, weight, bias, STRENGTHS[place], free_bias=free_bias) if inside else None
            errors[place] = held.error(*tried) if tried is not None else np.inf
        return errors[place]

    place = _FIRST
    step = 1 if error(place + 1) < error(place) else -1
    while error(place + step) < error(place):  # one valley: a solution costs the cube of the inputs
        place += step
    place = min(place, len(STRENGTHS) - 1, key=error)  # the bias alone costs nothing
    if not error(place) < before:
        return Fit(weight, bias, np.inf, before, before)
    chosen = STRENGTHS[place]
    return Fit(*solve(train.plus(held), weight, bias, chosen, free_bias=free_bias), chosen, before, error(place))
