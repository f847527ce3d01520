"""Other widths than the solver's that are about as fast: which of them lose less once the model is recovered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from itertools import islice

import numpy as np

from graphprune.algebra.axis import Ids
from graphprune.budget.pace import Pace
from graphprune.budget.planner import Planner
from graphprune.cost.latency import NAME as LATENCY
from graphprune.data.parts import rows
from graphprune.errors import InfeasibleError, NothingToPruneError
from graphprune.recover.contest import WORK, few, free, lost

_LIMITS = (  # of rivals, as shares of what the solver's widths cost
    *(("macs", 1.0), (LATENCY, 1.03), ("macs", 1.04), ("macs", 0.97)),
    *((LATENCY, 1.06), ("macs", 1.08)),
)
_OFF = 0.4  # by what factor curves are changed, as a power of e
_WINDOW = (0.97, 1.07)  # predicted times of rivals, as shares of the solver's
_RIVALS = (3, 20)  # least and most that are looked at; between, as many as fit into WORK


def rivals(
    planner: Planner, units: Ids, steps: Sequence[str], progress: Callable[[str], None] = lambda _: None
) -> list[Ids]:
    """Other widths of nearly the same predicted time that lose less once they are recovered, the least loss first.

    The solver prefers widths whose time is predicted too low and whose losses add up to too little. What limits on
    the MACs alone lead to, or curves that are somewhat off, errs otherwise.

    Args:
        planner: Plans under a latency limit, with curves and data; without them there are no rivals.
        units: What it removes.
        steps: Steps of recovery that the result will go through.
        progress: Told that they are compared.
    """
    data = planner.calibration
    if planner.pace is None or data is None or not free(planner):
        return []
    samples = few(data, planner.dense.macs)
    looks = WORK / (planner.dense.macs * sum(map(rows, samples)))
    judges = list(islice(data.samples, len(samples), 2 * len(samples))) or None
    progress("compare")
    own = lost(planner, units, samples, steps, judges=judges)
    others = list(islice(_nearby(planner, planner.pace, units), int(np.clip(looks, *_RIVALS))))
    losses = [lost(planner, u, samples, steps, judges=judges) for u in others]
    return [others[k] for k in np.argsort(losses, kind="stable") if losses[k] < own]


def _nearby(planner: Planner, pace: Pace, units: Ids) -> Iterator[Ids]:
    """What other limits and other curves lead to, as far as the predicted time is nearly the same."""
    removed, seen = planner.deps.cut(units).removed, {units.tobytes()}
    now = {"macs": planner.cost.costs(removed).macs, LATENCY: pace.predicted(removed)}
    for k, (name, times) in enumerate(_LIMITS * 4):
        other, limit = copy(planner), int(times * now[name])
        other.limits = {n: v for n, v in planner.limits.items() if n != LATENCY}
        other.limits[name] = min(limit, other.limits.get(name, limit))
        if k >= len(_LIMITS) and planner.curves is not None:
            off = np.exp(_OFF * np.random.default_rng(k).standard_normal(len(planner.curves)))
            other.curves = [replace(c, loss=c.loss * o) for c, o in zip(planner.curves, off, strict=True)]
        with suppress(InfeasibleError, NothingToPruneError):
            found = other.units()
            share = pace.predicted(planner.deps.cut(found).removed) / now[LATENCY]
            if _WINDOW[0] <= share <= _WINDOW[1] and found.tobytes() not in seen:
                seen.add(found.tobytes())
                yield found
