"""Other widths than the solver's that are about as fast: which of them lose less once the model is recovered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np

from graphprune.algebra.axis import Ids
from graphprune.budget.pace import Pace
from graphprune.budget.planner import Planner
from graphprune.cost.latency import NAME as LATENCY
from graphprune.data.parts import rows
from graphprune.errors import InfeasibleError, NothingToPruneError
from graphprune.recover.contest import WORK, few, free, lost

_LIMITS = (("macs", 1.0), (LATENCY, 1.01), ("macs", 1.03), ("macs", 0.97))  # of rivals, as shares of what is aimed at
_OFF = 0.4  # by what factor curves are changed, as a power of e
_WINDOW = (0.97, 1.02)  # predicted times of rivals: of what is held, and of what is aimed at
_RIVALS = (4, 20)  # least and most that are looked at; between, as many as fit into WORK
_TRIES = 3  # solutions for one that is looked at


class Rival(NamedTuple):
    """Units to remove.

    Attributes:
        units: Their ids.
        loss: What is lost without them; not a number where that was not measured.
        off: Logarithms of the factors on the curves that led to them, one for each or for all.
    """

    units: Ids
    loss: float = np.nan
    off: np.ndarray | float = 0.0


def rivals(
    planner: Planner, held: Rival, steps: Sequence[str], progress: Callable[[str], None] = lambda _: None
) -> list[Rival]:
    """Other widths that should take no longer and lose less once they are recovered, the least loss first.

    The solver prefers widths whose time is predicted too low and whose losses add up to too little. What limits on
    the MACs alone lead to, or curves that are somewhat off, errs otherwise. A step of an evolution strategy with one
    parent: curves are changed around those that led to what is held.

    Args:
        planner: Plans under a latency limit, with curves and data; without them there are no rivals.
        held: What it removes.
        steps: Steps of recovery that the result will go through.
        progress: Told that they are compared.
    """
    data = planner.calibration
    if planner.pace is None or data is None or not free(planner):
        return []
    samples = few(data, planner.dense.macs)
    looks = int(np.clip(WORK / (planner.dense.macs * sum(map(rows, samples))), *_RIVALS))
    judges = list(islice(data.samples, len(samples), 2 * len(samples))) or None
    progress("compare")
    own = lost(planner, held.units, samples, steps, judges=judges) if np.isnan(held.loss) else held.loss
    others = islice(_nearby(planner, planner.pace, held, _TRIES * looks), looks)
    found = [r._replace(loss=lost(planner, r.units, samples, steps, judges=judges)) for r in others]
    return sorted((r for r in found if r.loss < own), key=lambda r: r.loss)


def _nearby(planner: Planner, pace: Pace, held: Rival, tries: int) -> Iterator[Rival]:
    """What other limits and other curves lead to, as far as the predicted time is nearly the same."""
    removed, seen = planner.deps.cut(held.units).removed, {held.units.tobytes()}
    now, goal, curves = pace.predicted(removed), pace.goal, planner.curves or ()
    aims = {"macs": planner.cost.costs(removed).macs * max(goal / now, 1.0), LATENCY: goal}
    for name, times, off in _changes(held, len(curves), tries):
        other = copy(planner)
        other.limits = {n: v for n, v in planner.limits.items() if n != LATENCY}
        limit, factors = int(times * aims[name]), np.exp(off) * np.ones(len(curves))
        other.limits[name] = min(limit, other.limits.get(name, limit))
        other.curves = [replace(c, loss=c.loss * f) for c, f in zip(curves, factors, strict=True)]
        with suppress(InfeasibleError, NothingToPruneError):
            units = other.units()
            took = pace.predicted(planner.deps.cut(units).removed)
            if _WINDOW[0] * now <= took <= _WINDOW[1] * goal and units.tobytes() not in seen:
                seen.add(units.tobytes())
                yield Rival(units, off=off)


def _changes(held: Rival, curves: int, tries: int) -> Iterator[tuple[str, float, np.ndarray | float]]:
    """Limits, with the curves that led to what is held, then curves around them."""
    rng = np.random.default_rng(held.units)  # other curves for every parent
    yield from ((*limit, held.off) for limit in _LIMITS)
    for limit in islice(cycle(_LIMITS[:2]), tries):
        yield *limit, held.off + _OFF * rng.standard_normal(curves)
