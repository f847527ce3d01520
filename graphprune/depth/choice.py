"""Chooses between branches and widths: the model that loses least of those that leave out some branches and are cut.

Branches are ordered by what the outputs lose for what is saved. Then models without the first k of them are cut to the
target, each by the width solver on what remains, and the outputs of the results are compared with the original's on
the same inputs. So both kinds of removal are judged by one figure, measured together. k = 0 is among them: the result
is not worse than widths alone, by this figure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from graphprune.algebra.axis import Ids
from graphprune.budget.planner import Planner
from graphprune.calibration import Calibration
from graphprune.cost.branches import Branches
from graphprune.coupling.groups import DependencyGraph, analyze
from graphprune.depth.allowed import allowed_branches
from graphprune.depth.carried import carried, completed
from graphprune.depth.option import Depth
from graphprune.depth.order import Step, Trials, ordered
from graphprune.errors import InfeasibleError, InputError, NothingToPruneError
from graphprune.graph.bypass import bypassed, main_nodes
from graphprune.graph.model import Array, Graph
from graphprune.graph.run import random_feeds
from graphprune.importance.obs import Grams, read_grams
from graphprune.recover.evidence import Evidence
from graphprune.rewrite.onnx import rewrite

Plain = Callable[[DependencyGraph, Mapping[str, Any]], Planner]
"""Makes the planner that cuts widths alone."""

_SAMPLES = 128  # that models are compared on, about
_DRAWN = 8  # random inputs per size where there is no data
_WORK = 2e11  # multiply-accumulates of one comparison, about
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
        deps: The dependency graph of the original.
        options: Options of the planner, without depth.
        depth: What may be done.
        plain: Makes the planner of the original.
        progress: Called with what is being looked at.
    """

    def __init__(
        self,
        deps: DependencyGraph,
        options: Mapping[str, Any],
        depth: Depth,
        plain: Plain,
        progress: Callable[[str], None],
    ) -> None:
        self._deps, self._depth, self._progress = deps, depth, progress
        self.whole = plain(deps, options) if depth.widths else Planner.from_options(deps, options)
        if not self.whole.limits:
            raise InputError("--depth needs a cost to save: give --macs, --params, --size, --memory or --latency")
        self._options = dict(options)
        self._grams: Grams | None = None
        calibration = self.whole.calibration
        if calibration is not None:
            self._options["data"] = calibration
        if depth.widths and self.whole.by_curves and self.whole.curves is None:  # the data could not be used
            self._options["criterion"] = self.whole.recipe["criterion"]
        if self.whole.curves is not None and calibration is not None:
            self._grams = read_grams(self.whole.deps, calibration)
        self._feeds = _feeds(deps.source, calibration, self.whole.dense.macs)
        self.trials = Trials(deps.source, self._feeds)
        self._known: dict[int, Candidate | None] = {}
        self.missed: InfeasibleError | None = None
        self.steps = self._ordered()

    def _ordered(self) -> list[Step]:
        branches = Branches(self._deps)
        branches.found = allowed_branches(self._deps, branches, self.whole.constraints)
        dense, limits = self.whole.dense, self.whole.limits
        costs = {"macs": dense.macs, "params": dense.params, "bytes": dense.bytes}
        needed = {n: float(c - limits[n]) for n, c in costs.items() if n in limits}
        if not needed:  # memory and latency follow the MACs, more or less
            needed = {"macs": float(dense.macs)}
        return ordered(branches, self.trials, needed, most=self._depth.most, progress=self._progress)

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
            raise NothingToPruneError(f"{self._deps.source.name}: nothing can be left out under these constraints")
        raise self.missed

    @property
    def tried(self) -> list[Candidate]:
        """All models that meet the target."""
        return [c for c in self._known.values() if c is not None]

    def _candidate(self, count: int) -> None:
        self._progress(f"{count} of {len(self.steps)} branches left out")
        if not self._depth.widths and not count:
            self._known[count] = None
            return
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
        if not count:
            return self.whole
        less = bypassed(self._deps.source, [s.branch.bypass for s in self.steps[:count]])
        deps = analyze(less, self._deps.allow_io)
        planner = Planner.from_options(deps, self._options, whole=self.whole)
        if not self._depth.widths:
            planner.allowed[:] = False
        elif self.whole.curves is not None and self._grams is not None:
            evidence = Evidence(planner.deps, self._grams, self._feeds)
            mine = carried(self.whole.deps, self.whole.curves, planner.deps)
            planner.curves = completed(planner.deps, mine, self._grams, evidence)
        return planner

    def _error(self, planner: Planner, units: Ids) -> float:
        """What the outputs lose, with what the layers behind a cut can make up for by themselves."""
        if self._grams is not None and units.size:
            return Evidence(planner.deps, self._grams, self._feeds).measure(units)
        return self.trials.error(rewrite(planner.folding.folded(planner.deps.cut(units))))


def deepened(
    deps: DependencyGraph,
    options: Mapping[str, Any],
    depth: Depth,
    plain: Plain,
    progress: Callable[[str], None] = lambda _: None,
) -> Planner:
    """A planner of the model without the branches that are better left out than widths cut.

    Args:
        deps: The dependency graph of the original.
        options: Options of the planner, without depth.
        depth: What may be done.
        plain: Makes the planner of the original.
        progress: Called with what is being looked at.

    Raises:
        InputError: There is no cost to save, or the model is no ONNX model.
        InfeasibleError: The target cannot be met.
        NothingToPruneError: There is nothing to leave out and no widths are to be cut.
    """
    if not main_nodes(deps.source):
        raise InputError(f"{deps.source.name}: --depth works on ONNX files; export the module")
    chooser = Chooser(deps, options, depth, plain, progress)
    if not chooser.steps:
        if not depth.widths:
            raise NothingToPruneError(f"{deps.source.name}: no branch can be left out, and --depth only cuts no widths")
        chooser.whole.notes.append("--depth: the model has no branch that could be left out; widths alone were cut")
        return chooser.whole
    best = chooser.best()
    planner = best.planner
    planner.notes[:] = dict.fromkeys([*chooser.whole.notes, *planner.notes, _said(best, chooser)])
    return planner


def _said(best: Candidate, chooser: Chooser) -> str:
    tried = [c for c in chooser.tried if c.count != best.count]
    text = f"--depth: {best.count} of {len(chooser.steps)} branches left out, error of the outputs {best.error:.3g}"
    alone = next((c for c in tried if not c.count), None)
    return text + (f" instead of {alone.error:.3g} with widths alone" if alone is not None else "")


def _feeds(graph: Graph, calibration: Calibration | None, macs: int) -> Sequence[Mapping[str, Array]]:
    """Inputs to compare models on."""
    if calibration is None:
        return random_feeds(graph, int(np.clip(_WORK / 10 / max(macs, 1), 2, _DRAWN)), 0)
    samples = calibration.samples
    per_feed = max((len(a) for a in next(iter(samples)).values() if a.ndim), default=1)
    wanted = int(np.clip(_WORK / max(macs, 1), 16, _SAMPLES))
    return list(islice(samples, max(1, min(len(samples), wanted // max(per_feed, 1)))))
