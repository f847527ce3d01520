"""How much less a limit on the time can lose than one on the MACs, and how much plans of equal time differ anyhow.

    python -m benchmarks.latency_gain [--only resnet20] [--write]

By the solver's own curves and the predicted times, so nothing of a measured time comes in: seven limits on the time
around the target, seven on the MACs, and the lines through the logarithms of what they lose. Beside it what plans of
the same predicted time lose when they are cut and re-fitted, to which curves a fifth off lead: a gain far below their
spread cannot be seen in single plans.
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
from graphprune.budget.planner import Planner
from graphprune.cost.latency import NAME as LATENCY
from graphprune.coupling.groups import DependencyGraph
from graphprune.data import given_samples
from graphprune.recover.contest import few, lost
from graphprune.search import prepared

AROUND = np.linspace(0.97, 1.03, 7)
NEIGHBOURS, TRIES, OFF = 6, 60, 0.2


class Sides:
    """One network under limits of both kinds.

    Args:
        deps: The dependency graph.
        planner: Plans under a latency limit, with a curve per group.
    """

    def __init__(self, deps: DependencyGraph, planner: Planner) -> None:
        assert planner.pace is not None
        self._deps, self.planner, self._pace = deps, planner, planner.pace
        self._whole = self._pace.predicted(np.zeros(deps.state.store.count, bool))
        self.limit = planner.limits[LATENCY]

    def units(self, limit: str, amount: float, off: float | np.ndarray = 0.0) -> Ids:
        """What the solver removes under one limit, with curves that are off by some power of e."""
        curves = self.planner.curves
        assert curves is not None
        other = copy(self.planner)
        other.limits = {limit: int(amount)}
        factors = np.exp(off) * np.ones(len(curves))
        other.curves = [replace(c, loss=c.loss * f) for c, f in zip(curves, factors, strict=True)]
        return other.units()

    def shares(self, units: Ids) -> tuple[float, float]:
        """MACs and predicted time that stay."""
        removed = self.planner.deps.cut(units).removed
        macs = self.planner.cost.costs(removed).macs / self.planner.dense.macs
        return macs, self._pace.predicted(removed) / self._whole

    def loss(self, units: Ids) -> float:
        """Sum of the curves."""
        gone = np.isin(np.arange(self._deps.state.store.count), units)
        groups, curves = self.planner.deps.groups, self.planner.curves or ()
        return float(sum(c.loss[int(gone[g.units].sum())] for g, c in zip(groups, curves, strict=True)))

    def rates(self) -> Iterator[float]:
        """Time over MACs that leave with half of a group, each as a share of the whole network's."""
        block = 16
        for group in self.planner.deps.groups:
            half = group.units[: group.size // 2 // block * block]
            macs, took = self.shares(half)
            if macs < 1:
                yield (1 - took) / (1 - macs)

    def line(self, limit: str, amounts: Iterable[float], at: float) -> float:
        """What is lost at a share of the time, by the line through plans under a limit."""
        found = [self.units(limit, amount) for amount in amounts]
        times, losses = [self.shares(u)[1] for u in found], [np.log(self.loss(u)) for u in found]
        return float(np.exp(np.polyval(np.polyfit(times, losses, 1), at)))

    def neighbours(self) -> Iterator[Ids]:
        """Different plans of about the same predicted time."""
        rng, seen = np.random.default_rng(0), set[bytes]()
        for _ in range(TRIES):
            off = OFF * rng.standard_normal(len(self.planner.curves or ()))
            units = self.units(LATENCY, self.limit, off)
            if units.tobytes() not in seen and self.shares(units)[1] > 0.99 * self.limit / self._whole:
                seen.add(units.tobytes())
                yield units


def measured(name: str, share: str) -> Row:
    """Both gains and the spread of one network."""
    task = NETWORKS[name]
    graph = gp.load(task.path())
    deps = gp.analyze(graph)
    data = given_samples(task.calibration(SAMPLES[name], 0), graph, None, 0, None, None)
    planner = prepared(deps, {"latency": share, "threads": 1, "data": data, "allocation": "solver"})
    assert planner.calibration is not None
    sides = Sides(deps, planner)
    plain = sides.units(LATENCY, sides.limit)
    macs, took = sides.shares(plain)
    by_time = sides.line(LATENCY, sides.limit * AROUND, took)
    by_macs = sides.line("macs", macs * planner.dense.macs * AROUND, took)
    samples, judges = few(planner.calibration, planner.dense.macs), [task.calibration(SAMPLES[name], HELD)]
    errors = [lost(planner, u, samples, ("refit",), judges=judges) for u in islice(sides.neighbours(), NEIGHBOURS)]
    row: Row = {"model": name, "target": share, "macs": macs, "predicted": took, "rates": list(sides.rates())}
    row |= {"by time": by_time, "by macs": by_macs, "errors": errors}
    print(row, flush=True)
    return row


def line(row: Row) -> list[str]:
    """A row as text."""
    errors = np.array(row["errors"])
    spread = f"{errors.std(ddof=1) / errors.mean():.1%} of {len(errors)}" if len(errors) > 1 else "-"
    rates = f"{min(row['rates']):.2f} to {max(row['rates']):.2f}"
    losses = [f"{row[k]:.4g}" for k in ("by macs", "by time")]
    gain = f"{1 - row['by time'] / row['by macs']:.1%}"
    return [row["model"], f"latency {row['target']}", f"{row['macs']:.1%}", rates, *losses, gain, spread]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(AT), default=list(AT))
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    rows = [measured(name, share) for name in given.only for share in AT[name]]
    names = ["model", "target", "MACs left", "time per MAC of groups", "lost by MACs", "lost by time", "gain"]
    text = header("What a limit on the time can gain over one on the MACs")
    text += "\nLosses are sums of the solver's curves at the same predicted time, one thread, the default alignment.\n"
    text += "Spread: standard deviation of the errors of re-fitted plans that are predicted to take the same time.\n\n"
    text += table([line(r) for r in rows], [*names, "spread of the errors"]) + "\n"
    print(text)
    if given.write:
        write_results("latency-gain", text, rows)


if __name__ == "__main__":
    main()
