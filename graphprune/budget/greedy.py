"""Allocations that need no solver: one global ranking, the same share everywhere; and what repairs any allocation."""

from __future__ import annotations

import math
import time
from itertools import permutations

import numpy as np
from scipy.sparse import csc_array

from graphprune.budget.landscape import Landscape, Levels
from graphprune.cost.measure import Numbers, Reals

_CLOSE = 0.002  # unused share of a limit that is not worth filling
_ROUGH = 0.025  # unused share above which steps are traded between groups
_MAX_TRADERS = 40
_ONE_BY_ONE = 32  # up to this many choices, steps of a ranking are given back singly
_HALVINGS = 40
_SHARE = 0.25  # of what is too much: what leaves before prices are made anew


def uniform(land: Landscape, base: Levels) -> Levels:
    """The smallest share that, taken of every choice, meets all limits; nothing is filled up afterwards."""
    sizes = land.units_of

    def at(share: float) -> Levels:
        return np.maximum(land.flat.nearest(share * sizes), base)

    low, high = 0.0, 1.0
    if land.fits(at(low)):
        return at(low)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if land.fits(at(middle)) else (middle, high)
    return at(high)


def ranked(land: Landscape, base: Levels) -> Levels:
    """One ranking of all units, cut where the limits are met, then filled up to them."""
    return _filled(land, _cut(land, base), base)


def _cut(land: Landscape, base: Levels) -> Levels:
    """Levels at the lowest threshold that meets all limits."""
    if land.fits(base):
        return base
    slopes = [[np.sort(curve.slopes) for curve in c.curves] for c in land.choices]
    steps = np.append(np.unique(np.concatenate([s for some in slopes for s in some])), np.inf)

    def at(threshold: float) -> Levels:
        wanted = [float(sum(int(np.searchsorted(s, threshold)) for s in some)) for some in slopes]
        return np.maximum(land.flat.nearest(np.array(wanted)), base)

    low, high = 0, len(steps) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if land.fits(at(float(steps[middle]))) else (middle + 1, high)
    levels = at(float(steps[low]))
    return levels if land.fits(levels) else land.floor


def _filled(land: Landscape, levels: Levels, base: Levels) -> Levels:
    """Give back what the limits have room for, most important units first."""
    last = np.concatenate([c.last for c in land.choices]) if land.choices else np.zeros(0)
    while True:
        levels = give_back(land, levels, base, last)
        slack = 1 - float(land.use(levels).max(initial=0.0))
        traded = _traded(land, levels, base) if slack >= _ROUGH else None
        if traded is None:
            return levels
        levels = traded


def _traded(land: Landscape, levels: Levels, base: Levels) -> Levels | None:
    """Swap a step of one choice for a step of another, the swap that loses the least.

    For few, coarse groups, where no single step comes close to the limits.
    """
    best, lost, use = None, float("inf"), float(land.use(levels).max(initial=0.0))
    if len(levels) > _MAX_TRADERS:
        return None
    for i, j in permutations(range(len(levels)), 2):
        if levels[i] <= base[i] or levels[j] + 1 >= land.flat.sizes[j]:
            continue
        trial = levels.copy()
        trial[i] -= 1
        trial[j] += 1
        loss = land.loss(trial)
        if loss < lost and land.fits(trial) and float(land.use(trial).max()) > use:
            best, lost = trial, loss
    return best


def give_back(
    land: Landscape, levels: Levels, base: Levels, worth: Reals | None = None, *, deadline: float = math.inf
) -> Levels:
    """Restore steps while the limits hold, those worth most first.

    Args:
        land: Costs.
        levels: Levels that meet the limits.
        base: Levels that are not gone below.
        worth: What the units of the last step are worth, for every entry; None for what a step gives back in
            proportion to what it uses.
        deadline: When to stop, on the clock of ``time.monotonic``.
    """
    levels, flat = levels.copy(), land.flat
    while time.monotonic() <= deadline and (worth is None or land.shared(levels) < 1 - _CLOSE):
        some = np.flatnonzero(levels > base)
        slopes = land.slopes(levels)
        more = csc_array(slopes.change[:, flat.at(levels)[some] - 1])
        room = np.maximum(1 - slopes.now, 0.0)
        column = np.repeat(np.arange(len(some)), np.diff(more.indptr))
        share = np.zeros(len(some))
        np.maximum.at(share, column, more.data / np.maximum(room[more.indices], 1e-12))
        at = flat.at(levels)[some]
        value = (flat.loss[at] - flat.loss[at - 1]) / np.maximum(share, 1e-12) if worth is None else worth[at]
        order = np.argsort(-value, kind="stable")
        order = order[share[order] <= 1]
        if not len(order):
            break
        number = 1
        if worth is None or len(levels) > _ONE_BY_ONE:
            together = _together(more, room, order)
            order = np.concatenate([together, order[~np.isin(order, together)]])
            number = max(len(together), 1)
        taken = _as_many(land, levels, some[order], number)
        if taken is None:
            break
        levels = taken
    return levels


def _together(more: csc_array, room: Reals, order: Numbers) -> Numbers:
    """Of some columns those that have room one after the other."""
    room, out = room.copy(), []
    for column in order.tolist():
        part = slice(more.indptr[column], more.indptr[column + 1])
        rows, use = more.indices[part], more.data[part]
        if (use <= room[rows]).all():
            room[rows] -= use
            out.append(column)
    return np.array(out, np.intp)


def _as_many(land: Landscape, levels: Levels, order: Numbers, number: int) -> Levels | None:
    """One step back for the first of some choices, fewer and fewer until the limits hold."""
    while number > 1:
        trial = levels.copy()
        trial[order[:number]] -= 1
        if land.fits(trial):
            return trial
        number //= 2
    for v in order.tolist():
        trial = levels.copy()
        trial[v] -= 1
        if land.fits(trial):
            return trial
    return None


def priced(land: Landscape, base: Levels, deadline: float = math.inf) -> Levels:
    """Take away what costs least in proportion to what it saves, some of it at a time, then fill up to the limits."""
    return give_back(land, met(land, base, _SHARE, deadline), base, deadline=deadline)


def met(land: Landscape, levels: Levels, share: float = 1.0, deadline: float = math.inf) -> Levels:
    """Take away what costs least in proportion to what it saves, until all limits hold or nothing is left.

    Args:
        land: Costs.
        levels: Where to begin.
        share: How much of what is too much is to leave before costs are looked at again.
        deadline: When to stop and take all away that can be, on the clock of ``time.monotonic``.
    """
    levels, flat = levels.copy(), land.flat
    while not land.fits(levels):
        if time.monotonic() > deadline:
            return land.floor
        slopes = land.slopes(levels)
        excess = np.maximum(slopes.now - 1, 0.0)
        over = excess > 0
        if not over.any():  # by less than a number can tell
            over, excess = slopes.now >= slopes.now.max(), np.full(len(excess), 1e-12)
        saved = slopes.change[np.flatnonzero(over)]
        wanted = np.repeat(excess[over], np.diff(saved.indptr))
        part = np.clip(-saved.data / wanted, 0.0, 1.0)
        relief = np.bincount(saved.indices, weights=part, minlength=len(flat.of))
        now = flat.at(levels)
        ahead = np.arange(len(flat.of)) > now[flat.of]
        price = np.full(len(flat.of), np.inf)
        some = ahead & (relief > 0)
        price[some] = (flat.loss - flat.loss[now][flat.of])[some] / relief[some]
        if not some.any():
            return land.floor
        best = flat.lowest(price)
        entries = flat.at(best)
        movers = np.flatnonzero(np.isfinite(price[entries]))
        movers = movers[np.argsort(price[entries][movers], kind="stable")]
        gained = np.cumsum(relief[entries][movers])
        wanted_of_all = float(over.sum()) * (share if float(excess.max()) > _CLOSE else 1.0)
        number = int(np.searchsorted(gained, wanted_of_all * (1 - 1e-9))) + 1
        levels[movers[:number]] = best[movers[:number]]
    return levels
