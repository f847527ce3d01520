"""One level per choice, least loss under linear limits: a linear program, then a small integer program around it.

All but a few choices come out whole of the linear program, at most as many as there are limits that bind. Its prices
tell which levels cannot be part of a better solution; what is left without them is small enough for the integer
program, whatever the size of the whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_array, vstack

from graphprune.budget.landscape import Flat, Levels
from graphprune.budget.quiet import quiet
from graphprune.cost.measure import Numbers, Reals
from graphprune.coupling.cut import Mask

_CORE = 300  # entries that the integer program may choose from
_NODES = 30  # of its search tree
_GAP = 1e-3
_NOTHING = 1e-9


@dataclass(frozen=True)
class Relaxed:
    """What the linear program says.

    Attributes:
        levels: The deepest level that it takes a part of, for every choice: within the limits if costs fall with
            the level.
        price: What every entry costs, limits included, beyond the cheapest of its choice.
    """

    levels: Levels
    price: Reals


@dataclass(frozen=True)
class Knapsack:
    """Choose one entry per choice: least loss, ``change`` summed at most ``room``.

    Attributes:
        flat: The entries.
        change: What each entry adds to each sum, shape (sums, entries); zero at the start.
        room: What may be added, shape (sums,), none below zero.
        open: Entries that may be chosen.
        start: Levels that add nothing.
        seconds: Time limit of each program.
    """

    flat: Flat
    change: csr_array
    room: Reals
    open: Mask
    start: Levels
    seconds: float

    def relaxed(self) -> Relaxed | None:
        """Solve the linear program; None when time is up."""
        flat, at = self.flat, np.flatnonzero(self.open)
        one, choices = _one_each(flat.of[at])
        with quiet():
            found = linprog(
                flat.loss[at],
                A_ub=self.change[:, at],
                b_ub=self.room,
                A_eq=one,
                b_eq=np.ones(len(choices)),
                method="highs-ds",
                options={"time_limit": self.seconds},
            )
        if found.status != 0:
            return None
        some = np.where(found.x > _NOTHING, at - flat.start[flat.of[at]], -1)
        levels = self.start.copy()
        np.maximum.at(floor := np.full(len(levels), -1, np.int64), flat.of[at], some)
        levels[floor >= 0] = floor[floor >= 0]
        price = np.full(len(flat.of), np.inf)
        price[at] = flat.loss[at] - self.change[:, at].T @ found.ineqlin.marginals
        price -= np.minimum.reduceat(price, flat.start[:-1])[flat.of]
        return Relaxed(levels, price)

    def integer(self, price: Reals) -> Levels | None:
        """Solve the integer program over the entries with the lowest prices; None when it finds nothing.

        Choices of which one entry is left stay at it.
        """
        flat, keep = self.flat, np.zeros(len(self.open), bool)
        keep[np.argsort(np.where(self.open, price, np.inf), kind="stable")[: _CORE + len(flat.sizes)]] = True
        keep[flat.at(self.start)] = True
        keep &= self.open
        at = np.flatnonzero(keep)
        one, choices = _one_each(flat.of[at])
        rows = vstack([one, csr_array(self.change[:, at])])
        low = np.concatenate([np.ones(len(choices)), np.full(len(self.room), -np.inf)])
        high = np.concatenate([np.ones(len(choices)), self.room])
        options = {"node_limit": _NODES, "mip_rel_gap": _GAP, "time_limit": self.seconds, "disp": False}
        with quiet():
            found = milp(
                flat.loss[at],
                integrality=np.ones(len(at)),
                bounds=Bounds(0, 1),
                constraints=LinearConstraint(rows, low, high),
                options=options,
            )
        if found.x is None:
            return None
        chosen, levels = at[found.x > 0.5], self.start.copy()
        levels[flat.of[chosen]] = chosen - flat.start[flat.of[chosen]]
        return levels


def _one_each(of: Numbers) -> tuple[csr_array, Numbers]:
    """Rows that say "one entry of every choice", and the choices."""
    choices, row = np.unique(of, return_inverse=True)
    shape = len(choices), len(of)
    return csr_array((np.ones(len(of)), (row, np.arange(len(of)))), shape=shape), choices
