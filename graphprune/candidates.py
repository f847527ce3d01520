"""The model for a choice of units; chosen again until its file and its time are what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from graphprune.algebra.axis import Ids
from graphprune.budget.planner import Planner
from graphprune.coupling.cut import Cut
from graphprune.dialect import dialect_of
from graphprune.errors import InfeasibleError
from graphprune.plan import Plan
from graphprune.recover.rivals import Rival, rivals

_ROUNDS = 5
_CLIMBS = 2  # how often a rival may take over


class Candidate(NamedTuple):
    """Units, the plan and the cut that remove them, and the model without them."""

    units: Ids
    plan: Plan
    cut: Cut
    model: Any


def rewritten(
    planner: Planner, units: Ids, steps: Sequence[str], progress: Callable[[str], None], *, check: bool
) -> Candidate:
    """Plan and model for a choice of units; chosen again where the file misses a size or a latency target.

    Args:
        planner: Chooses.
        units: Its first choice.
        steps: Steps of recovery that the model will go through.
        progress: Called with the name of each step.
        check: Whether the model will be verified, which it says of itself.

    Raises:
        InfeasibleError: The measurements say that a target is out of reach.
    """
    dialect = dialect_of(planner.deps.source)

    def made(units: Ids) -> Candidate:
        cut = planner.folding.folded(planner.deps.cut(units))
        model, plan = dialect.rewrite(cut), planner.write(units)
        dialect.stamp(model, plan, verified=check)
        return Candidate(units, plan, cut, model)

    progress("rewrite")
    best: Candidate | None = None
    for _ in range(_ROUNDS):
        latest = made(units)
        if not planner.tighten(partial(dialect.file_bytes, latest.model)):
            if planner.pace is None:
                return latest
            progress("measure")
            done = planner.timed(latest.model, latest.cut.removed)
            if best is None or planner.pace.leads:
                best = latest
            if done:
                break
        try:
            units = planner.units()
        except InfeasibleError:
            if planner.pace is None or planner.pace.timing.measured is None:
                raise
            if planner.pace.best.met:
                break
            raise InfeasibleError(planner.pace.out_of_reach()) from None
    return latest if best is None else _outdone(planner, best, steps, made, progress)


def _outdone(
    planner: Planner,
    best: Candidate,
    steps: Sequence[str],
    made: Callable[[Ids], Candidate],
    progress: Callable[[str], None],
) -> Candidate:
    """The rival of a candidate that loses least among those that are as fast, or the candidate."""
    held = Rival(best.units)
    for climb in range(_CLIMBS):
        found = next(_fast(planner, rivals(planner, held, steps, progress), made), None)
        if found is None:
            break
        if climb == 0:
            planner.notes.append("widths beside the solver's that take no longer than the target lose less: taken")
        held, best = found
    return best


def _fast(
    planner: Planner, others: Iterable[Rival], made: Callable[[Ids], Candidate]
) -> Iterator[tuple[Rival, Candidate]]:
    """Those that are measured to keep to the latency target."""
    original = planner.deps.source.origin.source
    for rival in others:
        found = made(rival.units)
        if planner.pace is not None and planner.pace.admits(original, found.model, found.cut.removed):
            yield rival, found
