"""Exact costs of any set of levels, and exact costs of every single change to it, all changes at once.

Along each choice alone a cost is known exactly, whatever its shape; only how two changes act together is left to
the next look. Tables hold, for each pair of an axis and a choice, how long the axis is at every level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from graphprune.algebra.axis import Ids
from graphprune.budget.choices import Choice
from graphprune.cost.lengths import Lengths
from graphprune.cost.measure import Measure, Numbers, Reals
from graphprune.cost.model import CostModel
from graphprune.coupling.cut import Mask

Levels = NDArray[np.int64]


@dataclass(frozen=True)
class Flat:
    """All levels of all choices in one row: entry ``start[v] + k`` is level k of choice v.

    Attributes:
        sizes: Levels per choice.
        start: Where the levels of each choice begin, one entry more than there are choices.
        of: Choice of every entry.
        loss: Loss of every entry.
        totals: Units lost at every entry, over all groups of its choice.
    """

    sizes: Numbers
    start: Numbers
    of: Numbers
    loss: Reals
    totals: Reals

    @classmethod
    def of_choices(cls, choices: Sequence[Choice]) -> Flat:
        """The entries of some choices."""
        sizes = np.array([len(c.removable) for c in choices], np.intp)
        start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.intp)
        loss = np.concatenate([c.loss for c in choices]) if choices else np.zeros(0)
        totals = np.concatenate([c.totals.astype(np.float64) for c in choices]) if choices else np.zeros(0)
        return cls(sizes, start, np.repeat(np.arange(len(choices)), sizes), loss, totals)

    def at(self, levels: Levels) -> Numbers:
        """The entry of every choice's level."""
        return self.start[:-1] + levels

    def nearest(self, wanted: Reals) -> Levels:
        """For every choice the level with about the number of units lost that is wanted of it."""
        return self.lowest(np.abs(self.totals - wanted[self.of]))

    def lowest(self, values: Reals) -> Levels:
        """For every choice the level with the lowest value, the first of equals."""
        if not len(self.sizes):
            return np.zeros(0, np.int64)
        least = np.minimum.reduceat(values, self.start[:-1])
        hit = np.flatnonzero(values == least[self.of])
        _, first = np.unique(self.of[hit], return_index=True)
        return (hit[first] - self.start[:-1]).astype(np.int64)


@dataclass(frozen=True)
class Slopes:
    """Costs around some levels.

    Attributes:
        now: Every sum at these levels, in shares of its limit, shape (sums,).
        change: What each entry changes in each sum when its choice alone moves there, shape (sums, entries).
    """

    now: Reals
    change: csr_array


class Landscape:
    """Costs as functions of levels.

    Attributes:
        choices: What there is to decide.
        flat: Their levels in one row.
        limits: Upper limits by name of a measure.
        units_of: Units of the groups of each choice.
        leaves: When each unit leaves, as a share of the levels of its choice; infinite if it never does.
    """

    def __init__(self, choices: Sequence[Choice], cost: CostModel, limits: Mapping[str, float], count: int) -> None:
        self.choices = choices
        self.flat = Flat.of_choices(choices)
        self.limits = dict(limits)
        self.units_of = np.array([sum(g.size for g in c.groups) for c in choices], np.float64)
        self._count = count
        of, level = _leaving(choices, count)
        self.leaves = np.where(of >= 0, level / np.append(self.flat.sizes, 1.0)[of], np.inf)
        self._tables = _Tables(self.flat, cost.lengths, of, level)
        self._costs = [_Cost(cost.measures[name], limit, self._tables, self.flat) for name, limit in limits.items()]

    @property
    def floor(self) -> Levels:
        """The levels at which most is gone."""
        return self.flat.sizes.astype(np.int64) - 1

    def mask(self, levels: Levels) -> Mask:
        """Bool per unit id: True where it is removed."""
        removed = np.zeros(self._count, bool)
        for choice, level in zip(self.choices, levels.tolist(), strict=True):
            removed[choice.units(level)] = True
        return removed

    def units(self, levels: Levels) -> Ids:
        """Units removed at these levels."""
        return np.flatnonzero(self.mask(levels)).astype(np.int32)

    def loss(self, levels: Levels) -> float:
        """What is lost at these levels."""
        return float(self.flat.loss[self.flat.at(levels)].sum())

    def use(self, levels: Levels) -> Reals:
        """Every cost in shares of its limit, in the order of the limits."""
        lengths = self._tables.lengths(levels)
        return np.array([cost.measure.sums(lengths).max(initial=0.0) / cost.limit for cost in self._costs])

    def shared(self, levels: Levels) -> float:
        """The largest of the costs that are one sum over the whole model, in shares of its limit; 0 without any."""
        lengths = self._tables.lengths(levels)
        sums = [c.measure.sums(lengths)[0] / c.limit for c in self._costs if c.measure.rows is None]
        return float(max(sums, default=0.0))

    def fits(self, levels: Levels) -> bool:
        """Whether all limits hold."""
        lengths = self._tables.lengths(levels)
        return all(cost.measure.total(lengths) <= self.limits[cost.measure.name] for cost in self._costs)

    def sums(self, levels: Levels) -> Reals:
        """Every sum that may come to its limit, in shares of it."""
        lengths = self._tables.lengths(levels)
        return np.concatenate([cost.now(cost.measure.values(lengths)) for cost in self._costs])

    def slopes(self, levels: Levels) -> Slopes:
        """The sums at these levels, and after every single change to them."""
        lengths = self._tables.lengths(levels)
        moved = self._tables.moved(levels, lengths)
        parts = [cost.around(lengths, moved) for cost in self._costs]
        return Slopes(np.concatenate([p.now for p in parts]), csr_array(vstack([p.change for p in parts])))


def _leaving(choices: Sequence[Choice], count: int) -> tuple[Numbers, Numbers]:
    """For every unit id its choice, -1 for none, and the first level at which it is gone, the last + 1 if never."""
    of, level = np.full(count, -1, np.intp), np.zeros(count, np.intp)
    for v, choice in enumerate(choices):
        for curve, removable in zip(choice.curves, choice.removable.T, strict=True):
            of[curve.order] = v
            level[curve.order] = np.searchsorted(removable, np.arange(len(curve.order)), side="right")
    return of, level


class _Tables:
    """Lengths of axes at levels.

    A pair is an axis with a choice that shortens it. Positions that a single choice can take are counted once and
    for all; positions that several can take (heads x dims) are looked at each time.
    """

    def __init__(self, flat: Flat, lengths: Lengths, of: Numbers, level: Numbers) -> None:
        self.n = np.append([float(a.n) for a in lengths.axes], 1.0)
        units, starts = lengths.positions if lengths.axes else (np.zeros((0, 1), np.int32), np.zeros(0, np.intp))
        axis = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(units))))
        place, column = np.nonzero((units > 0) & (of[units] >= 0))
        unit = units[place, column]
        choice, when = of[unit], level[unit]
        keep = when < flat.sizes[choice]
        place, choice, when = place[keep], choice[keep], when[keep]
        order = np.lexsort((when, choice, place))
        place, choice, when = place[order], choice[order], when[order]
        first = np.ones(len(place), bool)
        first[1:] = (np.diff(place) > 0) | (np.diff(choice) != 0)
        place, choice, when = place[first], choice[first], when[first]
        several = np.bincount(place, minlength=len(units))[place] > 1
        key = axis[place] * len(flat.sizes) + choice
        pairs, pair = np.unique(key, return_inverse=True)
        self.axis, self.choice = pairs // max(len(flat.sizes), 1), pairs % max(len(flat.sizes), 1)
        self.start = np.concatenate([[0], np.cumsum(flat.sizes[self.choice])]).astype(np.intp)
        self.gone = self._counted(pair[~several], when[~several])
        self._pair, self._when = pair[several], when[several]
        spots, self._spot = np.unique(place[several], return_inverse=True)
        self._spot_axis = axis[spots]

    def _counted(self, pair: Numbers, when: Numbers) -> Reals:
        """For every pair and level how many of some positions are gone."""
        at = np.bincount(self.start[pair] + when, minlength=int(self.start[-1])).astype(np.float64)
        running = np.cumsum(at)
        before = np.concatenate([[0.0], running])[self.start[:-1]]
        out: Reals = running - np.repeat(before, np.diff(self.start))
        return out

    def lengths(self, levels: Levels) -> Reals:
        """Kept length of every axis."""
        out = self.n.copy()
        gone = self.gone[self.start[:-1] + levels[self.choice]]
        out[:-1] -= np.bincount(self.axis, weights=gone, minlength=len(out) - 1)
        if len(self._pair):
            dead = np.bincount(self._spot, weights=self._when <= levels[self.choice[self._pair]]) > 0
            out[:-1] -= np.bincount(self._spot_axis, weights=dead, minlength=len(out) - 1)
        return out

    def moved(self, levels: Levels, lengths: Reals) -> Reals:
        """For every pair and level the length of the axis when the choice alone moves there."""
        gone = self.gone
        if len(self._pair):
            dead = self._when <= levels[self.choice[self._pair]]
            alone = np.bincount(self._spot, weights=dead)[self._spot] - dead == 0
            gone = gone + self._counted(self._pair[alone], self._when[alone])
        now = lengths[self.axis] + gone[self.start[:-1] + levels[self.choice]]
        out: Reals = np.repeat(now, np.diff(self.start)) - gone
        return out


@dataclass(frozen=True)
class _Spread:
    """Pieces of a cost, each with one of the choices that change it, at all levels of that choice.

    Attributes:
        piece: Piece of every row.
        entry: Entry of every row.
        pair: Place of the tables' value for each of the piece's axes, -1 where the choice leaves the axis as it is.
    """

    piece: Numbers
    entry: Numbers
    pair: Numbers


class _Cost:
    """A cost with its limit."""

    def __init__(self, measure: Measure, limit: float, tables: _Tables, flat: Flat) -> None:
        self.measure = measure
        self.limit = max(float(limit), 1e-9)
        self._flat = flat
        self._spread = _spread(measure, tables, flat)
        self._rows = measure.rows
        if measure.rows is not None:  # sums that the original keeps below the limit hold whatever leaves
            binding = np.flatnonzero(measure.sums(tables.n) > self.limit)
            self._rows = measure.rows[binding if len(binding) else [0]]

    def around(self, lengths: Reals, moved: Reals) -> Slopes:
        """The cost at the given lengths, and after every single change."""
        spread, measure = self._spread, self.measure
        values = measure.values(lengths)
        args = lengths[measure.index[spread.piece]]
        held = spread.pair >= 0
        args[held] = moved[spread.pair[held]]
        change = (measure.function(spread.piece, args) - values[spread.piece]) / self.limit
        shape = len(values), len(self._flat.of)
        if self._rows is None:
            return Slopes(self.now(values), csr_array([np.bincount(spread.entry, weights=change, minlength=shape[1])]))
        some = change != 0
        every = csr_array((change[some], (spread.piece[some], spread.entry[some])), shape=shape)
        return Slopes(self.now(values), csr_array(self._rows @ every))

    def now(self, values: Reals) -> Reals:
        """The sums of some values of the pieces, in shares of the limit."""
        sums = np.atleast_1d(values.sum()) if self._rows is None else self._rows @ values
        return np.asarray(sums / self.limit, np.float64)


def _spread(measure: Measure, tables: _Tables, flat: Flat) -> _Spread:
    width = measure.index.shape[1]
    order = np.argsort(tables.axis, kind="stable")
    first = np.searchsorted(tables.axis[order], measure.index.ravel())
    number = np.searchsorted(tables.axis[order], measure.index.ravel(), side="right") - first
    cell = np.repeat(np.arange(measure.index.size), number)
    pair = order[np.repeat(first - (np.cumsum(number) - number), number) + np.arange(number.sum())]
    piece, column = cell // max(width, 1), cell % max(width, 1)
    key = piece * max(len(flat.sizes), 1) + tables.choice[pair]
    found, row = np.unique(key, return_inverse=True)
    table = np.full((len(found), width), -1, np.intp)
    table[row, column] = pair
    choice = found % max(len(flat.sizes), 1)
    sizes = flat.sizes[choice]
    step = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    wide = np.repeat(table, sizes, axis=0)
    return _Spread(
        np.repeat(found // max(len(flat.sizes), 1), sizes),
        np.repeat(flat.start[choice], sizes) + step,
        np.where(wide >= 0, tables.start[wide] + step[:, None], -1),
    )
