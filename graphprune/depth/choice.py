"""Chooses between branches and widths: the model that loses least of those that leave out some branches and are cut.

Branches are ordered by what the outputs lose for what is saved. Then models without the first k of them are cut to the
target, each by the width solver on what remains, and the outputs of the results are compared with the original's on
the same inputs. So both kinds of removal are judged by one figure, measured together. k = 0 is among them: the result
is not worse than widths alone, by this figure. Where there is data, each candidate is recovered on a part of it first:
much more of a branch can be made up for than its absence alone shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from graphprune.algebra.axis import Ids
from graphprune.budget.planner import Planner
from graphprune.cost.branches import Branches
from graphprune.coupling.groups import analyze
from graphprune.data.parts import divided
from graphprune.depth.allowed import allowed_branches
from graphprune.depth.carried import carried, carried_mask, completed, take_over
from graphprune.depth.option import Depth
from graphprune.depth.order import Step, Trials, ordered
from graphprune.errors import InfeasibleError, InputError, NothingToPruneError
from graphprune.graph.bypass import bypassed, main_nodes
from graphprune.graph.model import Array, Graph
from graphprune.graph.run import random_feeds
from graphprune.importance.obs import Grams, read_grams
from graphprune.recover.contest import few, lost
from graphprune.recover.evidence import Evidence
from graphprune.recover.steps import AUTOMATIC
from graphprune.rewrite.onnx import rewrite

_DRAWN = 8  # random inputs per size where there is no data
_WORK = 2e10  # multiply-accumulates of one comparison on them, about
_NOTE = "--depth: "
_POINTS = 5  # numbers of branches that are tried at first


@dataclass(frozen=True)
class Candidate:
    """A model without the first branches, cut to the target.

    Attributes:
        count: How many branches are left out.
        planner: What plans it.
        units: What is removed beside them.
        error: Squared error of the outputs relative to their variance.
    """

    count: int
    planner: Planner
    units: Ids
    error: float


class Chooser:
    """Tries numbers of branches.

    Args:
        base: Plans the widths of the model as it is: the original, or what bypasses some branches already.
        options: Options of the planner.
        depth: What may be done.
        progress: Called with what is being looked at.
        recover: What will be done for the accuracy of the result.
    """

    def __init__(
        self,
        base: Planner,
        options: Mapping[str, Any],
        depth: Depth,
        progress: Callable[[str], None],
        recover: Sequence[str] = AUTOMATIC,
    ) -> None:
        self.base, self._depth, self._progress = base, depth, progress
        self._recover = recover
        if not base.limits:
            raise InputError("--depth needs a cost to save: give --macs, --params, --size, --memory or --latency")
        self._options, calibration = dict(options), base.calibration
        self._grams: Grams | None = None
        if calibration is not None:
            self._options["data"] = calibration
        if depth.widths and base.by_curves and base.curves is None:  # the data could not be used
            self._options["criterion"] = base.recipe["criterion"]
        if base.curves is not None and calibration is not None:
            self._grams = read_grams(base.deps, calibration.over(divided(calibration.samples)[0]))
        self._samples = few(calibration, base.dense.macs) if calibration is not None else []
        self._feeds = self._samples or _drawn(base.deps.source.origin, base.dense.macs)
        self.trials = Trials(base.deps.source, self._feeds)
        self._known: dict[int, Candidate | None] = {}
        self.missed: InfeasibleError | None = None
        self.steps = self._ordered()

    def _ordered(self) -> list[Step]:
        deps, limits = self.base.deps, self.base.limits
        branches = Branches(deps)
        branches.found = allowed_branches(deps, branches.found, self.base.constraints)
        dense = self.base.cost.costs(np.zeros(deps.state.store.count, bool))
        costs = {"macs": dense.macs, "params": dense.params, "bytes": dense.bytes}
        needed = {n: float(c - limits[n]) for n, c in costs.items() if limits.get(n, c) < c}
        if not needed and limits.keys() <= costs.keys():
            return []  # it fits already
        needed = needed or {"macs": float(dense.macs)}  # memory and latency follow the MACs, more or less
        most = None if self._depth.most is None else self._depth.most - len(deps.source.bypassed)
        return ordered(branches, self.trials, needed, most=most, progress=self._progress)

    def best(self) -> Candidate:
        """The best model.

        Raises:
            InfeasibleError: None meets the target.
        """
        last = len(self.steps)
        grid = range(last + 1) if last < _POINTS else np.unique(np.linspace(0, last, _POINTS).round().astype(int))
        for count in grid:
            self._candidate(int(count))
        while True:
            if self.tried:
                best = min(self.tried, key=lambda c: (c.error, c.count))
                around = [k for k in (best.count - 1, best.count + 1) if 0 <= k <= last and k not in self._known]
            else:
                around = [k for k in range(last, -1, -1) if k not in self._known][:1]
            if not around:
                break
            for count in around:
                self._candidate(count)
        if self.tried:
            return best
        if self.missed is None:
            raise NothingToPruneError(f"{self.base.deps.source.name}: nothing can be left out under these constraints")
        raise self.missed

    @property
    def tried(self) -> list[Candidate]:
        """All models that meet the target."""
        return [c for c in self._known.values() if c is not None]

    def _candidate(self, count: int) -> None:
        self._progress(f"{count} of {len(self.steps)} branches left out")
        try:
            planner = self.planner(count)
            units = planner.units()
            error = self._error(planner, units)
            self._known[count] = Candidate(count, planner, units, error)
        except NothingToPruneError:
            self._known[count] = None
        except InfeasibleError as error:
            self._known[count] = None
            self.missed = error

    def planner(self, count: int) -> Planner:
        """The planner of the model without the first branches."""
        base = self.base
        if not count:
            return base
        less = bypassed(base.deps.source, [s.branch.bypass for s in self.steps[:count]])
        deps = analyze(less, base.deps.allow_io)
        planner = Planner.from_options(deps, self._options, whole=base.whole or base)
        planner.recipe = {**planner.recipe, **base.recipe}
        planner.allowed &= ~carried_mask(base.deps, ~base.allowed, planner.deps)
        if not self._depth.widths:
            planner.allowed[:] = False
        elif base.curves is not None and self._grams is not None:
            evidence = partial(Evidence, planner.deps, self._grams, self._feeds)
            mine = carried(base.deps, base.curves, planner.deps)
            planner.curves = completed(planner.deps, mine, self._grams, evidence)
        if base.gone is not None:
            take_over(planner, carried_mask(base.deps, base.gone, planner.deps))
        return planner

    def _error(self, planner: Planner, units: Ids) -> float:
        """What the outputs lose, with what can be made up for."""
        if self._samples and self._recover:
            return lost(planner, units, self._samples, self._recover)
        return self.trials.error(rewrite(planner.folding.folded(planner.deps.cut(units))))


def deepened(
    base: Planner,
    options: Mapping[str, Any],
    depth: Depth,
    progress: Callable[[str], None] = lambda _: None,
    recover: Sequence[str] = AUTOMATIC,
) -> Planner:
    """A planner of the model without the branches that are better left out than widths cut.

    Args:
        base: Plans the widths of the model as it is.
        options: Options of the planner.
        depth: What may be done.
        progress: Called with what is being looked at.
        recover: Steps of recovery that the result will go through.

    Raises:
        InputError: There is no cost to save, or the model is no ONNX model.
        InfeasibleError: The target cannot be met.
        NothingToPruneError: There is nothing to leave out and no widths are to be cut.
    """
    graph = base.deps.source
    if not main_nodes(graph):
        raise InputError(f"{graph.name}: --depth works on ONNX files; export the module")
    if not depth.widths:
        base.allowed[:] = False
    chooser = Chooser(base, options, depth, progress, recover)
    if not chooser.steps and not graph.bypassed:
        if not depth.widths:
            raise NothingToPruneError(f"{graph.name}: no branch can be left out, and --depth only cuts no widths")
        note = f"{_NOTE}the model has no branch that could be left out; widths alone were cut"
        base.notes[:] = dict.fromkeys([*base.notes, note])
        return base
    best = chooser.best()
    planner = best.planner
    notes = [n for n in (*base.notes, *planner.notes) if not n.startswith(_NOTE)]
    planner.notes[:] = dict.fromkeys([*notes, _said(best, chooser)])
    return planner


def _said(best: Candidate, chooser: Chooser) -> str:
    count = len(best.planner.deps.source.bypassed)
    text = f"{_NOTE}{count} branches left out, error of the outputs {best.error:.3g}"
    alone = next((c for c in chooser.tried if not c.planner.deps.source.bypassed and c is not best), None)
    return text + (f" instead of {alone.error:.3g} with widths alone" if alone is not None else "")


def _drawn(graph: Graph, macs: int) -> list[dict[str, Array]]:
    """Random inputs."""
    return random_feeds(graph, int(np.clip(_WORK / max(macs, 1), 2, _DRAWN)), 0)
