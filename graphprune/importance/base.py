"""What a criterion is, and how its raw scores become comparable across groups."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from graphprune.coupling.groups import DependencyGraph
from graphprune.errors import InputError
from graphprune.importance import magnitude, random
from graphprune.importance.activation_attention import activation_attention
from graphprune.importance.activation_mean import activation_mean
from graphprune.importance.activation_variance import activation_variance
from graphprune.importance.apoz import apoz
from graphprune.importance.bn_scale import bn_scale
from graphprune.importance.correlation import correlation
from graphprune.importance.dimap import dimap
from graphprune.importance.entropy import entropy
from graphprune.importance.fpgm import fpgm
from graphprune.importance.gradient_criteria import GRADIENTS
from graphprune.importance.lamp import lamp
from graphprune.importance.obs import obs
from graphprune.importance.similarity import similarity
from graphprune.importance.slices import AGGREGATES, Scores, Slices
from graphprune.importance.spectral import spectral
from graphprune.importance.wanda import wanda

if TYPE_CHECKING:
    from graphprune.calibration import Calibration

Criterion = Callable[..., Any]
"""A function (deps, seed) or (deps, calibration) that gives scores per unit id, NaN where it has nothing to say, or
:class:`Slices`; the name of its second parameter says what it is called with."""

CRITERIA: Mapping[str, Criterion] = {
    "l1": magnitude.l1,
    "l2": magnitude.l2,
    "lamp": lamp,
    "bn-scale": bn_scale,
    "fpgm": fpgm,
    "dimap": dimap,
    "spectral": spectral,
    "similarity": similarity,
    "random": random.random,
}
"""Criteria that look at the weights alone: functions (deps, seed)."""

MEASURED: dict[str, Criterion] = {
    "wanda": wanda,
    "activation-mean": activation_mean,
    "activation-variance": activation_variance,
    "activation-attention": activation_attention,
    "apoz": apoz,
    "correlation": correlation,
    "entropy": entropy,
    **GRADIENTS,
    "obs": obs,
}
"""Criteria that look at data: functions (deps, calibration)."""

OWN_SCALE = frozenset({"lamp", "dimap"})
"""Criteria whose scores already compare groups with each other: they are not normalised unless that is asked for."""

NORMALISATIONS: Mapping[str, Callable[[Scores], float]] = {
    "mean": lambda raw: float(raw.mean()),
    "max": lambda raw: float(raw.max()),
    "sum": lambda raw: float(raw.sum()),
    "none": lambda raw: 1.0,  # noqa: ARG005
}
"""What the scores of a group are divided by."""


def named(criterion: str) -> Criterion:
    """The criterion of a name, in which _ may stand for -.

    Raises:
        InputError: There is none.
    """
    known = {**CRITERIA, **MEASURED}
    found = known.get(criterion.replace("_", "-")) or known.get(criterion)
    if found is None:
        raise InputError(f"unknown criterion {criterion!r}; there are {', '.join(known)}")
    return found


def wants_data(criterion: str | Criterion) -> bool:
    """Whether a criterion looks at data: its second parameter is called ``calibration``.

    Raises:
        InputError: There is no criterion of that name.
    """
    function = named(criterion) if isinstance(criterion, str) else criterion
    try:
        parameters = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # a builtin, or a callable without a signature
        return False
    return parameters[1:2] == ["calibration"]


def raw_scores(
    deps: DependencyGraph,
    criterion: str | Criterion,
    seed: int,
    *,
    calibration: Calibration | None = None,
    aggregate: str = "sum",
    notes: list[str] | None = None,
) -> Scores:
    """What a criterion says of every unit id, in its own measure.

    A group of which it says nothing is ranked by l2, at the level of the groups it does judge.

    Args:
        deps: The dependency graph.
        criterion: Name in CRITERIA or MEASURED, or a function.
        seed: Seed for criteria that draw.
        calibration: Statistics over data, for criteria that look at data.
        aggregate: What is made of the coupled slices of a unit: "sum", "mean" or "max".
        notes: Where it is noted what was ranked by l2 instead.

    Raises:
        InputError: The criterion or aggregate is unknown, the seed is negative, or data is missing.
    """
    if seed < 0:
        raise InputError(f"--seed {seed}: must be zero or more")
    if aggregate not in AGGREGATES:
        raise InputError(f"--aggregate {aggregate}: there are {', '.join(AGGREGATES)}")
    name = criterion if isinstance(criterion, str) else getattr(criterion, "__name__", "custom")
    function = named(criterion) if isinstance(criterion, str) else criterion
    data = wants_data(criterion)
    if data and calibration is None:
        raise InputError(f"criterion {name} looks at activations: give samples with --data")
    made = function(deps, calibration if data else seed)
    raw = made.scores(deps.state.store.count, aggregate) if isinstance(made, Slices) else np.asarray(made, np.float64)
    if len(raw) < deps.state.store.count:
        return raw
    return _completed(deps, raw, name, aggregate, notes if notes is not None else [])


def _completed(deps: DependencyGraph, raw: Scores, name: str, aggregate: str, notes: list[str]) -> Scores:
    """The scores with l2 where the criterion says nothing of a group, 0 for units of no group."""
    grouped = np.zeros(len(raw), bool)
    silent = [g for g in deps.groups if not np.isfinite(raw[g.units]).all()]
    for group in deps.groups:
        grouped[group.units] = True
    judged = grouped.copy()
    for group in silent:
        judged[group.units] = False
    out = np.where(judged, raw, 0.0)
    if not silent:
        return out
    if name != "l2":
        level = float(out[judged].mean()) if judged.any() else 1.0
        substitute = np.nan_to_num(magnitude.l2(deps, 0).scores(len(raw), aggregate))
        for group in silent:
            mean = float(substitute[group.units].mean())
            out[group.units] = substitute[group.units] * (level / mean) if mean > 0 else level
        notes.append(_note(name, [g.name for g in silent], len(deps.groups)))
    return out


def _note(name: str, silent: list[str], total: int) -> str:
    some = ", ".join(silent[:3]) + (", …" if len(silent) > 3 else "")
    if len(silent) == total:
        return f"{name} has nothing to say about any group: all are ranked by l2"
    return f"{name} has nothing to say about {len(silent)} of {total} groups, ranked by l2 instead: {some}"


def score(
    deps: DependencyGraph,
    criterion: str | Criterion,
    seed: int,
    *,
    calibration: Calibration | None = None,
    aggregate: str = "sum",
    normalise: str = "auto",
    notes: list[str] | None = None,
) -> Scores:
    """Score of every unit, normalised in its group so that one global ranking makes sense.

    Args:
        deps: The dependency graph.
        criterion: Name in CRITERIA or MEASURED, or a function (deps, seed) or (deps, calibration) → raw scores per
            unit id.
        seed: Seed for criteria that draw.
        calibration: Statistics over data, for criteria that look at data.
        aggregate: What is made of the coupled slices of a unit: "sum", "mean" or "max".
        normalise: What the scores of a group are divided by: its "mean", its "max", its "sum", or "none"; "auto" is
            "none" for criteria whose scores compare groups by themselves, else "mean".
        notes: Where it is noted what was ranked by l2 instead.

    Returns:
        float64 array over unit ids; divided by the mean, 1.0 is the average unit of a group.

    Raises:
        InputError: An option is unknown, the seed is negative, or data is missing.
    """
    if normalise == "auto":
        normalise = "none" if isinstance(criterion, str) and criterion in OWN_SCALE else "mean"
    if normalise not in NORMALISATIONS:
        raise InputError(f"--normalise {normalise}: there are auto, {', '.join(NORMALISATIONS)}")
    raw = raw_scores(deps, criterion, seed, calibration=calibration, aggregate=aggregate, notes=notes)
    out = np.zeros_like(raw)
    for group in deps.groups:
        scale = NORMALISATIONS[normalise](raw[group.units])
        out[group.units] = raw[group.units] / scale if scale > 0 else 1.0
    return out
