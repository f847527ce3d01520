"""Widths in, plan, costs and a quick measure out: what a search of one's own needs and nothing more.

    space = gp.Space(deps, macs="50%")
    for _ in range(100):
        widths = space.ask()
        space.tell(widths, space.error(widths))
    plan = space.plan(space.best)

Any optimiser can take the place of ``ask``: ``space.choices`` says what each group may keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from graphprune import api
from graphprune.budget.choices import Choice, choices
from graphprune.budget.curves import curves_of
from graphprune.budget.greedy import give_back, met, priced, ranked, uniform
from graphprune.budget.infeasible import out_of_reach
from graphprune.budget.landscape import Landscape, Levels
from graphprune.budget.targets import Targets
from graphprune.cost.model import Costs
from graphprune.coupling.cut import Cut
from graphprune.coupling.groups import DependencyGraph
from graphprune.data import Samples, given_samples
from graphprune.dialect import dialect_of
from graphprune.errors import InputError
from graphprune.graph.model import Array, Graph
from graphprune.graph.onnx import Source
from graphprune.graph.run import random_feeds
from graphprune.plan import Plan
from graphprune.search import prepared
from graphprune.verify.answers import Answers, answers

Widths = dict[str, int]
_AMOUNTS = tuple(f.name for f in fields(Targets))
_FEEDS = 4  # random inputs for the error where there is no data
_MUTATED = 0.2  # share of the groups that a proposal moves away from the best


class Space:
    """All models that the constraints allow.

    Args:
        source: Model or dependency graph.
        labels: What is right for each sample, see :func:`graphprune.samples`.
        data: Samples for the error and for criteria that want some, see :func:`graphprune.samples`.
        samples: How many of them to take.
        options: Constraints, criterion and targets as for :func:`graphprune.plan`; targets may be left out.

    Attributes:
        choices: For every group, under its name, the numbers of units it may keep, ascending. Groups of a class of
            equal width stand under the name of the first.
        dense: Costs of the original.
        limits: Upper limits by cost name.
        told: What has been told so far: widths and value.
    """

    def __init__(
        self,
        source: Source | Graph | DependencyGraph,
        *,
        data: Any = None,
        labels: Any = None,
        samples: int | None = None,
        **options: Any,
    ) -> None:
        deps = api.analyze(source, allow_io=options.pop("allow_io", ()))
        aimed = any(options.get(name) is not None for name in _AMOUNTS)
        self._samples: Samples | None = given_samples(data, deps.source, samples, options.get("seed", 0), None, labels)
        given = {**options, "data": self._samples} if aimed else {**options, "data": self._samples, "ratio": 0.5}
        self._planner = planner = prepared(deps, given)
        if not aimed:
            planner.ratio, planner.recipe = None, {k: v for k, v in planner.recipe.items() if k != "ratio"}
        self.deps = planner.deps
        curves = planner.curves or curves_of(self.deps, planner.scores)
        self._choices: Sequence[Choice] = choices(self.deps, curves, planner.constraints, planner.allowed)
        count = self.deps.state.store.count
        self._land = land = Landscape(self._choices, planner.cost, planner.limits, count)
        if not land.fits(land.floor):
            raise out_of_reach(self.deps, planner.cost, planner.limits, curves, planner.constraints, planner.allowed)
        self.choices = {c.groups[0].name: tuple(self._kept(c)[::-1]) for c in self._choices}
        self.dense, self.limits = planner.dense, dict(planner.limits)
        self.told: list[tuple[Widths, float]] = []
        self._rng = np.random.default_rng(options.get("seed", 0))
        self._asked = 0
        self._original: tuple[list[Mapping[str, Array]], list[list[Array]]] | None = None

    @staticmethod
    def _kept(choice: Choice) -> list[int]:
        return [int(n) for n in choice.groups[0].size - choice.removable[:, 0]]

    # -- widths in, figures out ------------------------------------------------------------------------------

    def costs(self, widths: Mapping[str, int]) -> Costs:
        """Exact costs of the model that keeps these widths."""
        return self._planner.cost.costs(self._cut(widths).removed)

    def fits(self, widths: Mapping[str, int]) -> bool:
        """Whether all targets hold."""
        return self._land.fits(self._levels(widths))

    def loss(self, widths: Mapping[str, int]) -> float:
        """What the criterion says is lost, the sum over all removed units; nothing is run."""
        return self._land.loss(self._levels(widths))

    def error(self, widths: Mapping[str, int]) -> float:
        """Relative error of the outputs against the original's, on the data or on random inputs; nothing is re-fitted.

        Returns:
            Norm of the difference over norm of the original, over all outputs of floats.

        Raises:
            CannotRun: The model does not run here.
        """
        cut = self._cut(widths)
        run: Answers = answers(self.deps.source, dialect_of(self.deps.source).rewrite(cut), cut)
        if self._original is None:
            feeds = self._feeds()
            whole = answers(self.deps.source)
            self._original = feeds, [whole(feed) for feed in feeds]
        off = norm = 0.0
        for feed, wanted in zip(*self._original, strict=True):
            for a, b in zip(wanted, run(feed), strict=True):
                if a.dtype.kind == "f" and a.shape == b.shape:
                    off += float(np.square(a.astype(np.float64) - b).sum())
                    norm += float(np.square(a.astype(np.float64)).sum())
        return float(np.sqrt(off / norm)) if norm else 0.0

    def _feeds(self) -> list[Mapping[str, Array]]:
        if self._samples is not None:
            return [feed for feed, _ in zip(self._samples, range(_FEEDS), strict=False)]
        return list(random_feeds(self.deps.source, _FEEDS, 0))

    def plan(self, widths: Mapping[str, int]) -> Plan:
        """The plan that keeps these widths, the least important units leave; for ``apply`` or ``prune(from_plan=)``."""
        return self._planner.write(np.flatnonzero(self._cut(widths).removed).astype(np.int32))

    def model(self, widths: Mapping[str, int]) -> Any:
        """The pruned model, not verified."""
        return api.apply(self.deps.source, self.plan(widths))

    def clipped(self, widths: Mapping[str, int]) -> Widths:
        """The nearest widths that may be taken, made smaller where that is cheapest until all targets hold."""
        levels = np.zeros(len(self._choices), np.int64)
        for v, choice in enumerate(self._choices):
            wanted = widths.get(choice.groups[0].name, choice.groups[0].size)
            levels[v] = int(np.abs(np.array(self._kept(choice)) - wanted).argmin())
        return self._widths(met(self._land, levels))

    # -- ask and tell --------------------------------------------------------------------------------------------

    def ask(self) -> Widths:
        """Widths to try next, all targets hold: simple allocations first, then variations of the best told so far."""
        self._asked += 1
        land, base = self._land, np.zeros(len(self._choices), np.int64)
        simple = (ranked, uniform, priced) if self.limits else ()
        if self._asked <= len(simple):
            return self._widths(simple[self._asked - 1](land, base))
        draw = self._rng.integers(0, land.flat.sizes) if len(base) else base
        if self.told:
            best = self._levels(self.best)
            draw = np.where(self._rng.random(len(base)) < max(_MUTATED, 1 / max(len(base), 1)), draw, best)
        levels = met(land, draw.astype(np.int64))
        return self._widths(give_back(land, levels, base) if self.limits else levels)

    def tell(self, widths: Mapping[str, int], value: float) -> None:
        """Note what a measure says of some widths, lower is better."""
        self._levels(widths)
        self.told.append((dict(widths), float(value)))

    @property
    def best(self) -> Widths:
        """The widths with the lowest value that meet all targets; the first of equals.

        Raises:
            InputError: None were told that do.
        """
        fits = [(value, i) for i, (widths, value) in enumerate(self.told) if self.fits(widths)]
        if not fits:
            raise InputError("nothing that meets the targets has been told")
        return dict(self.told[min(fits)[1]][0])

    # -- between widths and levels -------------------------------------------------------------------------------

    def _widths(self, levels: Levels) -> Widths:
        return {c.groups[0].name: self._kept(c)[k] for c, k in zip(self._choices, levels.tolist(), strict=True)}

    def _levels(self, widths: Mapping[str, int]) -> Levels:
        unknown = set(widths) - set(self.choices)
        if unknown:
            raise InputError(f"no group to choose for is called {', '.join(sorted(unknown))}; see Space.choices")
        levels = np.zeros(len(self._choices), np.int64)
        for v, choice in enumerate(self._choices):
            name, kept = choice.groups[0].name, self._kept(choice)
            wanted = widths.get(name, kept[0])
            if wanted not in kept:
                raise InputError(f"group {name} cannot keep {wanted}; it may keep {', '.join(map(str, kept[::-1]))}")
            levels[v] = kept.index(wanted)
        return levels

    def _cut(self, widths: Mapping[str, int]) -> Cut:
        removed = self._land.mask(self._levels(widths))
        while emptied := self._planner.cost.emptied(removed):
            for axis in emptied:
                assert axis.units is not None
                removed[axis.units.ravel()] = False
        return self.deps.cut(np.flatnonzero(removed).astype(np.int32))
