"""How much less a limit on the time can lose than one on the MACs, and how much plans of equal time differ anyhow.

    python -m benchmarks.latency_gain [--only resnet50] [--others 5] [--write]

By the solver's own curves and the predicted times, so nothing of a measured time comes in: seven limits on the time
around the target, seven on the MACs, and the lines through the logarithms of what they lose. The same for other curves,
as other weights may give: these times powers of e, drawn from a normal distribution. Beside it what plans of the same
predicted time lose when they are cut and re-fitted, to which curves a fifth off lead: a gain far below their spread
cannot be seen in single plans. Networks with few widths have few plans, and lines through them are rough.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import replace
from itertools import islice

import numpy as np

import graphprune as gp
from benchmarks.common import Row, header, table, write_results
from benchmarks.latency import NETWORKS
from benchmarks.latency_error import AT, HELD, SAMPLES
from graphprune.algebra.axis import Ids
from graphprune.budget.curves import Curve
from graphprune.budget.planner import Planner
from graphprune.cost.latency import NAME as LATENCY
from graphprune.data import given_samples
from graphprune.recover.contest import few, lost
from graphprune.search import prepared

AROUND = np.linspace(0.97, 1.03, 7)
BLOCK = 16  # channels, the multiple that the default alignment comes to here
NEIGHBOURS, TRIES = 6, 60  # plans of equal time that are measured, and drawn at most for that
OFF = 0.2  # by what factor their curves are off, as a power of e

Factors = float | np.ndarray  # logarithms of factors on the curves, one for each or for all


class Sides:
    """One network under limits of both kinds.

    Args:
        planner: Plans under a latency limit, with a curve per group.
    """

    def __init__(self, planner: Planner) -> None:
        assert planner.pace is not None
        self.planner, self._pace, self._count = planner, planner.pace, planner.deps.state.store.count
        self._whole = self._pace.predicted(np.zeros(self._count, bool))
        self.limit = planner.limits[LATENCY]

    def curves(self, off: Factors) -> list[Curve]:
        """Curves that are off by some power of e."""
        known = self.planner.curves or ()
        return [replace(c, loss=c.loss * f) for c, f in zip(known, np.exp(off) * np.ones(len(known)), strict=True)]

    def units(self, limit: str, amount: float, off: Factors = 0.0) -> Ids:
        """What the solver removes under one limit."""
        other = copy(self.planner)
        other.limits, other.curves = {limit: int(amount)}, self.curves(off)
        return other.units()

    def shares(self, units: Ids) -> tuple[float, float]:
        """MACs and predicted time that stay."""
        removed = self.planner.deps.cut(units).removed
        macs = self.planner.cost.costs(removed).macs / self.planner.dense.macs
        return macs, self._pace.predicted(removed) / self._whole

    def losses(self, off: Factors = 0.0) -> tuple[float, float]:
        """What limits on the MACs and on the time lose by the curves, at the same predicted time."""
        macs, took = self.shares(self.units(LATENCY, self.limit, off))
        by_macs = self._line("macs", macs * self.planner.dense.macs * AROUND, off, took)
        return by_macs, self._line(LATENCY, self.limit * AROUND, off, took)

    def _line(self, limit: str, amounts: Iterable[float], off: Factors, at: float) -> float:
        """The line through the logarithms of what plans under a limit lose, at a share of the time."""
        found = [self.units(limit, amount, off) for amount in amounts]
        times, losses = [self.shares(u)[1] for u in found], [np.log(self._loss(u, off)) for u in found]
        return float(np.exp(np.polyval(np.polyfit(times, losses, 1), at)))

    def _loss(self, units: Ids, off: Factors) -> float:
        gone = np.isin(np.arange(self._count), units)
        pairs = zip(self.planner.deps.groups, self.curves(off), strict=True)
        return float(sum(c.loss[int(gone[g.units].sum())] for g, c in pairs))

    def rates(self) -> Iterator[float]:
        """Time over MACs that leave with half of a group, each as a share of the whole network's."""
        for group in self.planner.deps.groups:
            half = group.units[: group.size // 2 // BLOCK * BLOCK]
            macs, took = self.shares(half)
            if macs < 1:
                yield (1 - took) / (1 - macs)

    def neighbours(self) -> Iterator[Ids]:
        """Different plans of about the same predicted time."""
        rng, seen = np.random.default_rng(0), set[bytes]()
        for _ in range(TRIES):
            off = OFF * rng.standard_normal(len(self.planner.curves or ()))
            units = self.units(LATENCY, self.limit, off)
            if units.tobytes() not in seen and self.shares(units)[1] > 0.99 * self.limit / self._whole:
                seen.add(units.tobytes())
                yield units


def measured(name: str, share: str, others: int) -> Row:
    """What both kinds of limits lose, by other curves too, and the spread of one network."""
    task = NETWORKS[name]
    graph = gp.load(task.path())
    data = given_samples(task.calibration(SAMPLES[name], 0), graph, None, 0, None, None)
    planner = prepared(gp.analyze(graph), {"latency": share, "threads": 1, "data": data, "allocation": "solver"})
    assert planner.calibration is not None
    sides = Sides(planner)
    macs, took = sides.shares(sides.units(LATENCY, sides.limit))
    by_macs, by_time = sides.losses()
    rng, size = np.random.default_rng(1), len(planner.curves or ())
    drawn = [sides.losses(rng.standard_normal(size)) for _ in range(others)]
    samples, judges = few(planner.calibration, planner.dense.macs), [task.calibration(SAMPLES[name], HELD)]
    errors = [lost(planner, u, samples, ("refit",), judges=judges) for u in islice(sides.neighbours(), NEIGHBOURS)]
    row: Row = {"model": name, "target": share, "macs": macs, "predicted": took, "rates": list(sides.rates())}
    row |= {"by time": by_time, "by macs": by_macs, "drawn": [1 - t / m for m, t in drawn], "errors": errors}
    print(row, flush=True)
    return row


def cells(row: Row) -> list[str]:
    """A row as text."""
    errors = np.array(row["errors"])
    spread = f"{errors.std(ddof=1) / errors.mean():.1%} of {len(errors)}" if len(errors) > 1 else "-"
    rates = f"{min(row['rates']):.2f} to {max(row['rates']):.2f}"
    losses = [f"{row[k]:.4g}" for k in ("by macs", "by time")]
    gain = f"{1 - row['by time'] / row['by macs']:.1%}"
    drawn = [f"{min(row['drawn']):.1%} to {max(row['drawn']):.1%}"] if row["drawn"] else []
    return [row["model"], f"latency {row['target']}", f"{row['macs']:.1%}", rates, *losses, gain, spread, *drawn]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(AT), default=list(AT))
    parser.add_argument("--others", type=int, default=0, help="other curves to compare both kinds of limits by")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    rows = [measured(name, share, given.others) for name in given.only for share in AT[name]]
    names = ["model", "target", "MACs left", "time per MAC of groups", "lost by MACs", "lost by time", "gain"]
    names += ["spread of the errors", *(["gain by other curves"] if given.others else [])]
    text = header("What a limit on the time can gain over one on the MACs")
    text += "\nLosses are sums of the solver's curves at the same predicted time, one thread, the default alignment.\n"
    text += "Spread: standard deviation of the errors of re-fitted plans that are predicted to take the same time.\n\n"
    text += table([cells(r) for r in rows], names) + "\n"
    print(text)
    if given.write:
        write_results("latency-gain", text, rows)


if __name__ == "__main__":
    main()
