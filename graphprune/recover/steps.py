"""What can be done for a pruned model with data alone, step by step, each kept only if the outputs come closer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphprune.coupling.cut import Cut
from graphprune.data.parts import Feeds, divided
from graphprune.errors import InputError
from graphprune.graph.model import Graph
from graphprune.graph.run import CannotRun
from graphprune.recover.batchnorm import reestimate
from graphprune.recover.distill import distill
from graphprune.recover.error import float_outputs, relative_error
from graphprune.recover.kinds import copied, model_of, runner
from graphprune.recover.merge import merge
from graphprune.recover.moments import correct_means, correct_moments
from graphprune.recover.paired import Job, LayerError
from graphprune.recover.refit import refit
from graphprune.verify.inner import box

NONE, AUTO = "none", "auto"


Step = Callable[[Job], list[LayerError]]
"""Exchanges contents of a pruned model's weights in place; what it did per layer."""

STEPS: Mapping[str, Step] = {
    "merge": merge,
    "mean": correct_means,
    "moments": correct_moments,
    "batchnorm": reestimate,
    "refit": refit,
    "distill": distill,
}
"""Steps by name."""

SLOW = "distill"
_ENOUGH = 0.02  # error of the outputs below which "auto" is content
AUTOMATIC = ("refit", SLOW)
"""What ``recover="auto"`` does where there is data."""


@dataclass(frozen=True)
class StepReport:
    """One step.

    Attributes:
        name: Its name.
        error: Squared error of the outputs relative to their variance, on held-back feeds, after it.
        kept: Whether it was kept: the error fell.
        layers: What it did per layer.
        failed: Why it could not be done, if so.
    """

    name: str
    error: float
    kept: bool
    layers: tuple[LayerError, ...] = ()
    failed: str = ""


@dataclass(frozen=True)
class Recovery:
    """What recovery did.

    Attributes:
        cut: Squared error of the outputs relative to their variance, on held-back feeds, right after the cut.
        error: The same at the end.
        steps: The steps in their order.
        feeds: Feeds that were learned from.
        held: Feeds that judged; 0 when there was only one, which did both.
    """

    cut: float
    error: float
    steps: tuple[StepReport, ...]
    feeds: int
    held: int


def step_names(recover: str | Sequence[str]) -> tuple[str, ...]:
    """Names of steps from an option: "auto", "none", names with commas, or a sequence.

    Raises:
        InputError: There is no such step.
    """
    names = [n.strip() for n in recover.split(",")] if isinstance(recover, str) else list(recover)
    if names == [AUTO]:
        return AUTOMATIC
    if names in ([NONE], []):
        return ()
    unknown = [n for n in names if n not in STEPS]
    if unknown:
        raise InputError(f"--recover {', '.join(unknown)}: there are {AUTO}, {NONE}, {', '.join(STEPS)}")
    return tuple(names)


def recover(
    cut: Cut,
    model: Any,
    samples: Feeds,
    names: Sequence[str],
    *,
    judges: Feeds | None = None,
    needed: bool = True,
    memory: int = 2 << 30,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Any, Recovery]:
    """A pruned model with other contents in its weights, and what that brought.

    Args:
        cut: The removal that led to the model.
        model: The pruned ``onnx_ir.Model`` or module; not changed.
        samples: Calibration data.
        names: Names of steps.
        judges: Feeds that judge; without them some of the samples do, which then are not learned from.
        needed: Whether every step is asked for; otherwise one that cannot be done is told in the report instead of an
            error, and distillation, which takes long, is left out where little is lost.
        memory: Bytes that a step may take.
        seed: Seed of what is drawn.
        progress: Called with the step and the layer.

    Raises:
        InputError: A step that is needed cannot be done.
    """
    alone = judges is None and len(samples) == 1
    train, judges = divided(samples) if judges is None else (samples, judges)
    source, example = cut.deps.source.origin, next(iter(samples))
    wanted = _wanted(cut, judges)
    small = copied(source, model, example)
    error = first = _error(source, small, judges, wanted)
    done = []
    for name in names:
        if name == SLOW and not needed and error < _ENOUGH:
            continue
        tried = copied(source, model_of(small), example)
        try:
            layers = STEPS[name](Job(cut, tried, train, memory, seed, progress))
        except (InputError, CannotRun) as problem:
            if needed:
                raise InputError(str(problem)) from None
            done.append(StepReport(name, error, kept=False, failed=str(problem)))
            continue
        after = _error(source, tried, judges, wanted)
        kept = after < error
        done.append(StepReport(name, after, kept=kept, layers=tuple(layers)))
        if kept:
            small, error = tried, after
    return model_of(small), Recovery(first, error, tuple(done), len(train), 0 if alone else len(judges))


def _wanted(cut: Cut, feeds: Feeds) -> list[list[np.ndarray]]:
    graph = cut.deps.source.origin
    run, places = runner(graph), float_outputs(graph)
    return [[box(cut, graph.outputs[i], np.asarray(made[i])) for i in places] for made in map(run, feeds)]


def _error(source: Graph, small: Graph, feeds: Feeds, wanted: Sequence[Sequence[np.ndarray]]) -> float:
    places = float_outputs(source)
    try:
        run = runner(small)
        return relative_error(wanted, [[np.asarray(made[i]) for i in places] for made in map(run, feeds)])
    except CannotRun:
        return float("inf")
