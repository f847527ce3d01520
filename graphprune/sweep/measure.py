"""From a model and samples to curves, and from curves to a solver that minimises them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.budget.curves import curves_of
from graphprune.budget.planner import AUTO, Planner
from graphprune.calibration import Calibration
from graphprune.calibration.cache import model_key
from graphprune.coupling.cut import Mask
from graphprune.data import Samples
from graphprune.data.parts import Feeds, divided, first, rows
from graphprune.errors import InputError
from graphprune.graph.run import CannotRun
from graphprune.importance.base import CRITERIA, MEASURED, wants_data
from graphprune.importance.obs import read_grams
from graphprune.recover.evidence import SHARES
from graphprune.recover.judge import ordered
from graphprune.sweep.cache import Results, folder
from graphprune.sweep.curves import Sensitivity
from graphprune.sweep.run import RATIOS, Progress, Sweep, Work, group_curves, tasks_of
from graphprune.sweep.tasks import Bench, Place, attempt, content_of
from graphprune.sweep.workers import Run, Workers

SAMPLES = 256  # that outputs are compared on where no number is given


@dataclass(frozen=True)
class Setting:
    """How a sweep is made.

    Attributes:
        ratios: Shares of each group that leave.
        compensate: Whether the layers that read a group make up for what left.
        workers: Who does the work.
        cache: Folder for results, None for the usual one.
        place: Where other processes find model and data; None where all is done in this one.
    """

    ratios: Sequence[float] = RATIOS
    compensate: bool = False
    workers: Workers = field(default_factory=Workers)
    cache: str | Path | None = None
    place: Place | None = None


def measured(
    planner: Planner,
    data: Feeds,
    setting: Setting,
    run: Run,
    progress: Progress = lambda _: None,
    only: Mask | None = None,
    learned: Calibration | None = None,
) -> Sensitivity:
    """What each group of a planner costs when it alone is cut, its units in the order of the planner's criterion.

    Args:
        planner: Knows groups and criterion, and statistics over data.
        data: What outputs are compared on.
        setting: How.
        run: Carries out tasks.
        progress: Called with the name of each group.
        only: bool per unit id: groups that have no such unit are not measured.
        learned: Statistics that layers make up by for what left; those of the planner by default.

    Raises:
        InputError: The model does not run on the data, or a worker finds other files than these.
        GraphPruneError: A group could not be measured.
    """
    deps, notes = planner.deps, list(planner.notes)
    learned = learned or planner.calibration
    progress("calibrate")
    try:
        grams = read_grams(deps, learned) if learned and (setting.compensate or planner.by_curves) else {}
    except CannotRun as error:
        raise InputError(f"{deps.source.name}: does not run on the data: {error}") from None
    curves = ordered(deps, grams, planner.scores) if planner.by_curves else curves_of(deps, planner.scores)
    tasks = tasks_of(deps, curves, setting.ratios)
    if only is not None:
        tasks = [mine if only[g.units].any() else [] for mine, g in zip(tasks, deps.groups, strict=True)]
    digest, content = model_key(deps.source), content_of(data)
    key = [digest, content, *_compensation(learned, setting)]
    results = Results(folder(setting.cache), key, notes.append)
    flat = [t for mine in tasks for t in mine]
    work: Work
    if setting.place is None:
        work = _Here(lambda: Bench(deps, data, grams if setting.compensate else {}, setting.workers.threads))
    else:
        work = partial(attempt, replace(setting.place, digest=digest, content=content))
    errors = Sweep(results, run, work, progress)(flat)
    return Sensitivity(
        model=deps.source.name,
        digest=digest,
        data=str(getattr(data, "name", "the data")),
        samples=data.count if isinstance(data, Samples) else sum(rows(feed) for feed in data),
        criterion=str(planner.recipe["criterion"]),
        seed=int(planner.recipe["seed"]),
        compensated=setting.compensate,
        ratios=tuple(setting.ratios),
        groups=group_curves(deps, curves, tasks, errors),
        notes=tuple(notes),
    )


class _Here:
    """A bench in this process, made for the first task: with all results known none is needed."""

    def __init__(self, make: Callable[[], Bench]) -> None:
        self._make = make
        self._bench: Bench | None = None

    def __call__(self, task: Any) -> Any:
        self._bench = self._bench or self._make()
        return self._bench(task)


def _compensation(learned: Calibration | None, setting: Setting) -> list[str]:
    """What the weights of compensated cuts depend on."""
    if not setting.compensate or learned is None:
        return ["as it is"]
    return ["compensated", content_of(learned.samples), str(learned.seed)]


def asked(how: str | Path | Sensitivity, options: Mapping[str, Any]) -> tuple[Sensitivity | None, dict[str, Any]]:
    """The curves that are given, None where they are to be measured, and the options with their criterion.

    Raises:
        InputError: There is no such file, or the options ask for something else.
    """
    if options.get("lossless"):
        raise InputError("--lossless removes exactly the dead channels: leave out --sensitivity")
    if not isinstance(how, Sensitivity) and str(how) == AUTO:
        return None, dict(options)
    found = how if isinstance(how, Sensitivity) else Sensitivity.read(how)
    criterion = options.get("criterion") or AUTO
    if criterion not in (AUTO, found.criterion):
        raise InputError(
            f"--criterion {criterion}: the sensitivities were measured in the order of {found.criterion}; leave out"
            " --criterion, or measure again with it"
        )
    known = found.criterion in {*CRITERIA, *MEASURED} and (
        options.get("data") is not None or not wants_data(found.criterion)
    )
    return found, {**options, "criterion": found.criterion if known else AUTO}


def drive(planner: Planner, found: Sensitivity | None, name: str, progress: Progress = lambda _: None) -> None:
    """Let a planner minimise measured curves.

    Args:
        planner: The planner.
        found: The curves; None to measure them now.
        name: What the plan notes about where they come from.
        progress: Called with what is being measured.

    Raises:
        InputError: There is no data to measure on, or the curves belong to another graph.
    """
    if found is None:
        found = _now(planner, progress)
        planner.notes.extend(n for n in found.notes if n not in planner.notes)
    elif found.digest != model_key(planner.deps.source):
        planner.notes.append(f"the sensitivities were measured on other weights ({found.model})")
    planner.curves = found.curves(planner.deps)
    planner.recipe |= {"criterion": found.criterion, "sensitivity": name}


def _now(planner: Planner, progress: Progress) -> Sensitivity:
    calibration = planner.calibration
    if calibration is None:
        raise InputError("--sensitivity auto measures on samples: give some with --data")
    if not isinstance(planner.deps.source.source, ir.Model):
        raise InputError("--sensitivity works on ONNX files")
    learn, judges = divided(calibration.samples)
    feeds, learned, setting = first(judges, SAMPLES), calibration.over(learn), Setting(SHARES, compensate=True)
    with setting.workers.ready() as run:
        return measured(planner, feeds, setting, run, progress, _judged(planner), learned)


def _judged(planner: Planner) -> Mask:
    """Units that may leave."""
    out: Mask = np.asarray(planner.allowed, bool)
    return out
