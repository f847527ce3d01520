"""Least loss under any limits: linearise where we are, solve that, look again; never worse than where we began."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import product

import numpy as np

from graphprune.budget.greedy import give_back, met
from graphprune.budget.knapsack import Knapsack
from graphprune.budget.landscape import Landscape, Levels
from graphprune.coupling.cut import Mask

_ROUNDS = 30
_CORRECTIONS = 3
_STEPS = 8  # levels that a choice may go up or down in one round, with others left out between them
_SMALL = 600  # entries up to which all exchanges between two choices are tried
_LEAST = 1e-9
_WORTH = 1e-4  # share of the loss that a round has to save to be followed by one like it


def improved(land: Landscape, start: Levels, base: Levels, *, deadline: float) -> Levels:
    """Levels that lose no more than ``start``.

    In every round the costs are exact along each choice alone and added up; how far choices may move shrinks when
    that promised more than it kept. Integer programs come last, when the linear ones have nothing more to give.

    Args:
        land: Costs.
        start: Levels that meet all limits.
        base: Levels that are not gone below.
        deadline: When to stop, on the clock of ``time.monotonic``.
    """
    best, lost = start, land.loss(start)
    radius, whole = float(land.flat.sizes.max(initial=1)), False
    for _ in range(_ROUNDS):
        found = min(_trials(land, best, base, radius, deadline, whole=whole), key=land.loss, default=best)
        gain = lost - land.loss(found)
        if gain > _LEAST * max(lost, 1.0):
            best, lost = found, lost - gain
        if gain <= _WORTH * max(lost, _LEAST):
            if radius > 1:
                radius = max(radius / 3, 1.0)
            elif not whole:
                whole, radius = True, 2.0
            else:
                break
        if time.monotonic() > deadline:
            break
    return exchanged(land, best, base) if len(land.flat.of) <= _SMALL else best


def _trials(
    land: Landscape, at: Levels, base: Levels, radius: float, deadline: float, *, whole: bool
) -> Iterator[Levels]:
    """Solutions of the linearised problem that meet all limits, each corrected by how far the one before missed."""
    flat, slopes = land.flat, land.slopes(at)
    level = np.arange(len(flat.of)) - flat.start[flat.of]
    away, step = level - at[flat.of], max(round(radius / _STEPS), 1)
    near: Mask = (np.abs(away) <= radius) & (away % step == 0) & (level >= base[flat.of])
    missed = np.zeros(len(slopes.now))
    for _ in range(_CORRECTIONS):
        left = deadline - time.monotonic()
        if left <= 0:
            return
        room = np.maximum(1 - slopes.now - missed, 0.0)
        problem = Knapsack(flat, slopes.change, room, near, at, left)
        relaxed = problem.relaxed()
        if relaxed is None:
            return
        solved = problem.integer(relaxed.price) if whole else relaxed.levels
        if solved is None or np.array_equal(solved, at):
            return
        yield give_back(land, met(land, solved, deadline=deadline), base, deadline=deadline)
        told = slopes.now + np.asarray(slopes.change[:, flat.at(solved)].sum(axis=1))
        missed = land.sums(solved) - told


def exchanged(land: Landscape, at: Levels, base: Levels) -> Levels:
    """Choices give back, each answered by the one other choice that makes room for it at the least loss."""
    lost = land.loss(at)
    while True:
        found = _exchange(land, at, base)
        if lost - land.loss(found) <= _LEAST * max(lost, 1.0):
            return at
        at, lost = found, land.loss(found)


def _exchange(land: Landscape, at: Levels, base: Levels) -> Levels:
    """The best that one choice giving back and one giving up can do, in exact costs; the same if that is nothing."""
    flat, best, lost = land.flat, at, land.loss(at)
    for v in range(len(at)):
        for level in range(int(base[v]), int(at[v])):
            moved = at.copy()
            moved[v] = level
            slopes = land.slopes(moved)
            fits = (slopes.change.toarray() <= (1 - slopes.now)[:, None] + _LEAST).all(axis=0)
            price = np.where(fits & (flat.of != v), flat.loss - flat.loss[flat.at(moved)][flat.of], np.inf)
            entry = int(price.argmin())
            loss = land.loss(moved) + float(price[entry])
            if loss < lost - _LEAST * max(lost, 1.0):
                moved[flat.of[entry]] = entry - flat.start[flat.of[entry]]
                if land.fits(moved):
                    best, lost = moved, loss
    return best


def best_of_all(land: Landscape, base: Levels) -> Levels:
    """Least loss of all combinations that meet the limits; the floor meets them."""
    grid = product(*(range(int(low), int(n)) for low, n in zip(base, land.flat.sizes, strict=True)))
    trials = sorted((np.array(row, np.int64) for row in grid), key=land.loss)
    return next((levels for levels in trials if land.fits(levels)), land.floor)
