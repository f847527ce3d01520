"""Measures every group at every ratio, with what is known already left out and what is found kept at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from graphprune.algebra.axis import Ids
from graphprune.budget.record import make_plan
from graphprune.coupling.groups import DependencyGraph
from graphprune.errors import GraphPruneError, InputError
from graphprune.importance.curve import Curve
from graphprune.plan import Plan
from graphprune.recover.evidence import counts
from graphprune.sweep.cache import Results
from graphprune.sweep.curves import GroupCurve, Measured
from graphprune.sweep.tasks import Outcome, Task
from graphprune.sweep.workers import Lost, Run

RATIOS = (0.25, 0.5, 0.75)
Progress = Callable[[str], None]
Work = Callable[[Task], Outcome]


def checked_ratios(ratios: Iterable[float]) -> tuple[float, ...]:
    """Ratios in ascending order, each once.

    Raises:
        InputError: There are none, or one of them does not lie between 0 and 1.
    """
    found = tuple(sorted(set(ratios)))
    bad = next((r for r in found if not 0 < r < 1), None)
    if bad is not None or not found:
        said = "" if bad is None else f" {bad:g}"
        raise InputError(f"--ratios{said}: the shares that leave lie between 0 and 1, such as 25%,50%,75%")
    return found


def tasks_of(deps: DependencyGraph, curves: Sequence[Curve], ratios: Sequence[float]) -> list[list[Task]]:
    """Per group what is to be measured, the units of its curve leaving in their order."""
    return [
        [_task(deps, group.name, curve.order[:m]) for m in counts(group.size, ratios)]
        for group, curve in zip(deps.groups, curves, strict=True)
    ]


def _task(deps: DependencyGraph, name: str, units: Ids) -> Task:
    whole = make_plan(deps, units, recipe={}, before={}, after={})
    plan = Plan(groups=whole.groups, weights=whole.weights, io=whole.io, blocks=whole.blocks)
    return Task(name, len(units), plan.model_dump_json(exclude_defaults=True))


class Sweep:
    """Carries tasks out and keeps what comes.

    Args:
        results: Where results are kept; what is known there already is not done again.
        run: Carries out tasks, in any order.
        work: What is done with each.
        progress: Called with the name of each group.
    """

    def __init__(self, results: Results, run: Run, work: Work, progress: Progress) -> None:
        self._results, self._run, self._work, self._progress = results, run, work, progress
        self._bad: dict[str, str] = {}
        self._ended = self._count = 0

    def __call__(self, tasks: Sequence[Task]) -> dict[str, float]:
        """Errors by the keys of tasks.

        A worker that dies takes nothing along but the tasks it had; each of these is tried once more, on its own.

        Raises:
            GraphPruneError: A group could not be measured, although it was tried twice; all other results are kept.
        """
        todo = [t for t in {t.key: t for t in tasks}.values() if t.key not in self._results.known]
        self._count, self._ended = len(tasks), len(tasks) - len(todo)
        alone: list[Task] = []
        while todo:
            suspects, todo = self._together(todo)
            alone += suspects
        for task in alone:
            try:
                for found in self._run(self._work, [task]):
                    self._keep(found)
            except Lost:
                self._bad[task.group] = f"its worker died twice, with {task.removed} units removed"
        if self._bad:
            said = "; ".join(f"group {name}: {text}" for name, text in self._bad.items())
            raise GraphPruneError(f"{said}; all other results are kept")
        return self._results.known

    def _together(self, tasks: Sequence[Task]) -> tuple[list[Task], list[Task]]:
        """Carry out tasks until all are done or a worker dies: those that it may have died of, and those left."""
        sent: list[Task] = []
        seen: set[str] = set()
        try:
            for found in self._run(self._work, _noted(tasks, sent)):
                seen.add(found.key)
                self._keep(found)
        except Lost as error:
            suspects = [t for t in sent if t.key not in seen]
            if not suspects:
                raise GraphPruneError(f"the workers died: {error}; results so far are kept") from None
            over = seen | {t.key for t in suspects}
            return suspects, [t for t in tasks if t.key not in over]
        return [], []

    def _keep(self, found: Outcome) -> None:
        self._ended += 1
        self._progress(f"{found.group} {self._ended}/{self._count}")
        if found.failed:
            self._bad[found.group] = found.failed
        else:
            self._results.put(found)


def _noted(tasks: Iterable[Task], sent: list[Task]) -> Iterator[Task]:
    """The tasks, each noted when a worker gets it."""
    for task in tasks:
        sent.append(task)
        yield task


def group_curves(
    deps: DependencyGraph, curves: Sequence[Curve], tasks: Sequence[Sequence[Task]], errors: dict[str, float]
) -> tuple[GroupCurve, ...]:
    """What was measured, group by group."""
    out = []
    for group, curve, mine in zip(deps.groups, curves, tasks, strict=True):
        place = {int(u): i for i, u in enumerate(group.units)}
        points = tuple(map(partial(_point, group.size, errors), mine))
        order = tuple(place[int(u)] for u in curve.order)
        shape = tuple(float(f"{x:.6g}") for x in curve.loss / max(float(curve.loss[-1]), 1e-30))
        out.append(
            GroupCurve(name=group.name, kind=group.kind, size=group.size, order=order, shape=shape, points=points)
        )
    return tuple(out)


def _point(size: int, errors: dict[str, float], task: Task) -> Measured:
    error = errors[task.key]
    return Measured(removed=task.removed, ratio=task.removed / size, error=error if error < float("inf") else None)
