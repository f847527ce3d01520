"""From options to a plan: scores once, then solves as often as verification asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np

from graphprune.algebra.axis import Ids
from graphprune.budget.curves import Curve
from graphprune.budget.lossless import dead_units, lossless_units
from graphprune.budget.pace import Pace, paced
from graphprune.budget.record import make_plan
from graphprune.budget.selection import allowed_units
from graphprune.budget.solver import ALLOCATIONS, solve
from graphprune.budget.targets import Constraints, Targets
from graphprune.budget.timing import read_timing, recorded
from graphprune.calibration import Calibration
from graphprune.calibration.layers import norms
from graphprune.cost.model import CostModel, Costs, whole_costs
from graphprune.coupling.cut import Cut, Mask
from graphprune.coupling.explain import why_nothing
from graphprune.coupling.fibres import fibred
from graphprune.coupling.groups import DependencyGraph, Group
from graphprune.errors import InfeasibleError, InputError, NothingToPruneError
from graphprune.folding.analysis import Folding
from graphprune.importance.base import Criterion, score
from graphprune.importance.fibres import ranked
from graphprune.plan import Plan

AUTO, OBS = "auto", "obs"
_NO_DATA = (
    "channels are ranked by their weights alone; --data SAMPLES keeps far more accuracy, and where there are none"
    " --data synthetic, which makes samples from what the BatchNormalizations know"
)
_NEAR, _FINEST = 0.97, 4  # how close a limit should be met, and the alignment down to which more is tried for it
_ASKED_STEP = 0.5  # largest step of a group with an alignment that was asked for
POSITIONS = 40_000  # of a layer that Gram matrices are summed over


class Planner:
    """Scores once, then solves as often as verification asks for.

    Attributes:
        deps: The dependency graph, with the choices per block that the scores made.
        cost: Its cost model.
        dense: Costs of the original.
        limits: Upper limits by cost name.
        scores: Score per unit id.
        curves: A curve for every group, where something better is known than the sums of the scores.
        gone: Units that an earlier, larger solution removed; the next removes them as well.
        recipe: The options, for the plan.
        elastic: Whether the alignment is halved where it is too coarse for the limits.
    """

    def __init__(
        self,
        deps: DependencyGraph,
        targets: Targets,
        constraints: Constraints,
        criterion: str | Criterion,
        seed: int,
        *,
        lossless: bool = False,
        allocation: str = ALLOCATIONS[0],
        calibration: Calibration | None = None,
        aggregate: str = "sum",
        normalise: str = "auto",
        timing: Mapping[str, Any] | None = None,
        notes: Sequence[str] = (),
        whole: Planner | None = None,
        elastic: bool = False,
    ) -> None:
        if allocation not in ALLOCATIONS:
            raise InputError(f"unknown allocation {allocation!r}; there are {', '.join(ALLOCATIONS)}")
        self.deps = deps
        self.lossless = lossless
        self.cost = CostModel(deps)
        self.dense: Costs = whole.dense if whole is not None else whole_costs(deps)
        self.cost.original = asdict(self.dense)
        self.constraints, self.elastic = constraints, elastic
        self.allowed = allowed_units(deps, constraints.ignore, constraints.only)
        if not deps.groups and not deps.source.bypassed:
            raise NothingToPruneError(why_nothing(deps))
        given = {k: v for k, v in asdict(targets).items() if v is not None}
        if lossless:
            _check_lossless(deps, given)
        self.notes: list[str] = list(notes)
        self.pace: Pace | None = None
        self.whole = whole
        self._timing = timing or {}
        self.limits: dict[str, int] = {}
        if not lossless:
            self.aim(targets)
        if not any(self.allowed[g.units].any() for g in deps.groups) and not deps.source.bypassed:
            raise NothingToPruneError(f"{deps.source.name}: --ignore and --only leave no group to prune")
        self.allocation = allocation
        self.curves: Sequence[Curve] | None = None
        self.gone: Mask | None = None
        shared = fibred(deps, ())
        self.folding = Folding(shared)
        known: dict[str, Any] = {"calibration": calibration, "aggregate": aggregate}
        if criterion == AUTO and calibration is None and not lossless and next(norms(deps.source), None) is not None:
            self.notes.append(_NO_DATA)
        criterion = self._chosen(criterion, calibration)
        self.calibration, self.by_curves = calibration, criterion == OBS and not lossless
        name = criterion if isinstance(criterion, str) else getattr(criterion, "__name__", "custom")
        criterion = "l2" if self.by_curves else criterion
        self.deps = shared if lossless or constraints.shared_offsets else ranked(deps, criterion, seed, **known)
        self.scores = np.zeros(0)
        if not lossless:
            self.scores = score(self.deps, criterion, seed, **known, normalise=normalise, notes=self.notes)
            self.scores[self._dead()] = 0.0  # they cost nothing, whatever ranks them
        asked = {"lossless": True} if lossless else {**given, "criterion": name, "seed": seed}
        combined = {"aggregate": aggregate} if aggregate != "sum" else {}
        combined |= {"normalise": normalise} if normalise != "auto" else {}
        self.recipe = {**asked, **combined, **asdict(constraints), **recorded(self._timing)}
        if allocation != ALLOCATIONS[0]:
            self.recipe["allocation"] = allocation
        if deps.allow_io:
            self.recipe["allow_io"] = deps.allow_io

    @staticmethod
    def _chosen(criterion: str | Criterion, calibration: Calibration | None) -> str | Criterion:
        """The criterion that "auto" stands for."""
        if criterion == OBS and calibration is None:
            raise InputError("criterion obs looks at activations: give samples with --data")
        if criterion != AUTO:
            return criterion
        return OBS if calibration is not None else "l2"

    @classmethod
    def from_options(
        cls, deps: DependencyGraph, options: Mapping[str, Any], *, whole: Planner | None = None
    ) -> Planner:
        """A planner from keyword options, see :func:`graphprune.api.plan`.

        Args:
            deps: The dependency graph.
            options: The options.
            whole: For a model that bypasses branches a planner of the original, whose costs targets refer to.

        Raises:
            InputError: An option is unknown or cannot be read.
        """
        rest: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        targets = Targets(**{f.name: rest.pop(f.name, None) for f in fields(Targets)})
        criterion, seed = rest.pop("criterion", AUTO), rest.pop("seed", 0)
        scoring: dict[str, Any] = {k: rest.pop(k) for k in ("aggregate", "normalise", "allocation") if k in rest}
        data = rest.pop("data", None)
        calibration = data
        if data is not None and not isinstance(data, Calibration):
            calibration = Calibration(deps, data, seed=seed, positions=POSITIONS)
        lossless, notes = bool(rest.pop("lossless", False)), list[str]()
        if lossless:  # nothing speaks against the last dead channel
            rest = {"align": 1, "max_ratio": 1.0, **rest}
        elastic = rest.get("align", AUTO) == AUTO
        if not elastic:
            rest.setdefault("max_step", _ASKED_STEP)
        timing = read_timing(rest, targets.latency, notes.append)
        unknown = set(rest) - {f.name for f in fields(Constraints)}
        if unknown:
            raise InputError(f"unknown option {', '.join(sorted(unknown))}")
        constraints = Constraints(**rest)
        scoring |= {"lossless": lossless, "calibration": calibration, "timing": timing, "notes": notes, "whole": whole}
        return cls(deps, targets, constraints, criterion, seed, elastic=elastic and targets.latency is None, **scoring)

    def aim(self, targets: Targets) -> None:
        """Take other targets; all that was worked out before stays.

        Raises:
            InputError: A target cannot be read or is met already.
        """
        written = self.deps.source.origin.file_bytes
        self.limits = targets.limits(self.dense, written)
        self.size_limit = targets.size_limit(written)
        self.ratio = targets.removed_share()
        if targets.latency is None:
            self.pace = None
            return
        known = self.pace.known if self.pace is not None else None
        origin = self.whole.pace if self.whole is not None else None
        self.pace = paced(self.deps, self.cost, targets.latency, self._timing, self.notes.append, known, origin)
        self.limits |= self.pace.limits

    def timed(self, model: Any, removed: Mask) -> bool:
        """Measure a candidate where a latency is asked for; False when the limit was corrected and one more is due."""
        if self.pace is None or self.pace.measure(self.deps.source.origin.source, model, removed):
            return True
        self.limits |= self.pace.limits
        return False

    def part(self, cut: Cut) -> Cut:
        """A part of a cut as it would be made on its own: what only was dead beside the rest stays."""
        if self.lossless:
            cut = self.deps.cut(np.flatnonzero(self.folding.settle(cut.removed)).astype(np.int32))
        return self.folding.folded(cut)

    def _dead(self) -> Mask:
        """Dead units; a unit that stands for another offset in every block is not judged."""
        allowed = self.allowed.copy()
        for chosen in self.deps.chosen:
            allowed[chosen.factor.units] = False
        return dead_units(self.folding.deps, self.folding, allowed)

    def give_up(self, groups: Sequence[Group]) -> None:
        """Never remove anything of these groups again."""
        for group in groups:
            self.allowed[group.units] = False
        if self.pace is not None:
            self.pace.restart()

    def tighten(self, file_bytes: Callable[[], int]) -> bool:
        """Aim lower when the written file exceeds the size target; False when it holds."""
        if "bytes" not in self.limits:
            return False
        written = file_bytes()
        excess = written - self.size_limit
        if excess <= 0:
            return False
        self.limits["bytes"] -= excess + written // 1000
        return True

    def units(self) -> Ids:
        """Units to remove under the limits.

        Raises:
            NothingToPruneError: The widths allowed leave everything as it is.
        """
        if self.lossless:
            return lossless_units(self.deps, self.folding, self.cost, self.constraints, self.allowed)
        units = self._solved()
        while self._coarse(units) and self._finer():
            units = self._solved()
        if not units.size and not self.deps.source.bypassed:
            raise NothingToPruneError(
                f"{self.deps.source.name}: no group is wide enough to lose anything under these constraints;"
                " lower --align or raise the target"
            )
        return units

    def _solved(self) -> Ids:
        try:
            return solve(
                self.deps,
                self.scores,
                self.cost,
                self.limits,
                constraints=self.constraints,
                allowed=self.allowed,
                ratio=self.ratio,
                curves=self.curves,
                gone=self.gone,
                allocation=self.allocation,
            )
        except InfeasibleError:
            if not self._finer():
                raise
            return self._solved()

    def _coarse(self, units: Ids) -> bool:
        """Whether the widths allowed lead far below every limit, or nowhere, and finer ones may be tried."""
        if not self.elastic or not units.size:
            return self.elastic
        after = asdict(self.cost.costs(self.deps.cut(units).removed))
        return bool(self.limits) and all(after[k] < _NEAR * v for k, v in self.limits.items())

    def _finer(self) -> bool:
        """Halve an alignment that nobody asked for; False where that is not to be done."""
        align = self.constraints.align
        if not self.elastic or align <= _FINEST:
            return False
        self.constraints = replace(self.constraints, align=align // 2)
        self.recipe["align"] = align // 2
        self.notes.append(f"widths are multiples of {align // 2}, as those of {align} are too coarse here")
        return True

    def removed(self, plan: Plan) -> Ids:
        """The units that a plan of this planner removes."""
        gone = {g.name: list(g.removed) for g in plan.groups}
        parts = [g.units[gone[g.name]] for g in self.deps.groups if g.name in gone]
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def write(self, units: Ids) -> Plan:
        """The plan that removes these units."""
        after = self.cost.costs(self.deps.cut(units).removed)
        return make_plan(self.deps, units, recipe=self.recipe, before=asdict(self.dense), after=asdict(after))

    def plan(self) -> Plan:
        """The first solution, before anything is verified."""
        return self.write(self.units())


def _check_lossless(deps: DependencyGraph, given: Mapping[str, Any]) -> None:
    if given:
        raise InputError(f"--lossless removes exactly the dead channels; leave out --{', --'.join(given)}")
    if deps.allow_io:
        raise InputError("--lossless keeps every output as it is; leave out --allow-io")
