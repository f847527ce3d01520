"""Families: several targets, one analysis, and each plan takes away all that the one before took and more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from graphprune import api
from graphprune.budget.planner import Planner
from graphprune.budget.targets import Targets
from graphprune.coupling.groups import DependencyGraph
from graphprune.data import given_samples
from graphprune.depth.choice import deepened
from graphprune.depth.option import read_depth
from graphprune.errors import InputError, VerificationError
from graphprune.graph.checks import refuse_nan
from graphprune.graph.model import Graph
from graphprune.graph.onnx import Source
from graphprune.recover.steps import AUTO, step_names
from graphprune.rewrite.files import check_output
from graphprune.search import Progress, Result, prepared, recovered, search
from graphprune.verify.metric import Judge, Metric

_ROUNDS = 5
_AMOUNTS = tuple(f.name for f in fields(Targets))


def members(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The targets of every member of a family, as they were given; a single one when no target is a list.

    Args:
        options: Keyword options; a target may be a list, or text with commas.

    Raises:
        InputError: Lists of different lengths, or an empty entry.
    """
    lists: dict[str, list[Any]] = {}
    for name in _AMOUNTS:
        value = options.get(name)
        if isinstance(value, str) and "," in value:
            value = [part.strip() for part in value.split(",")]
        if isinstance(value, list | tuple):
            lists[name] = list(value)
            if not all(v not in (None, "") for v in value) or not value:
                raise InputError(f"--{name} {options[name]}: an entry of the list is empty")
    lengths = {len(v) for v in lists.values()}
    if len(lengths) > 1:
        said = ", ".join(f"--{name} has {len(v)}" for name, v in lists.items())
        raise InputError(f"the lists of targets have to be of one length: {said}")
    fixed = {name: options[name] for name in _AMOUNTS if options.get(name) is not None and name not in lists}
    return [{**fixed, **{name: v[i] for name, v in lists.items()}} for i in range(max(lengths, default=1))]


def outputs(pattern: str | Path, targets: Sequence[Mapping[str, Any]]) -> list[Path]:
    """A path for every member: what tells it apart in the place of {}, or behind the stem.

    Raises:
        InputError: Two members would get one path.
    """
    path = Path(pattern)
    first = next((n for n in targets[0] if len({str(t[n]) for t in targets}) == len(targets)), None)
    if first is None:
        raise InputError("two members of the family have the same targets")
    marks = [str(t[first]).removesuffix("%").replace("/", "-") for t in targets]
    names = [
        path.name.replace("{}", mark) if "{}" in path.name else f"{path.stem}-{mark}{path.suffix}" for mark in marks
    ]
    if len(set(names)) < len(names):
        raise InputError(f"{pattern}: two members of the family would be written to one file")
    return [path.with_name(name) for name in names]


def family(
    source: Source | Graph | DependencyGraph,
    output: str | Path | None = None,
    *,
    example_inputs: Any = None,
    check: bool = True,
    data: Any = None,
    labels: Any = None,
    samples: int | None = None,
    preprocess: Mapping[str, Any] | None = None,
    metric: Metric | str | None = None,
    recover: str | Sequence[str] = AUTO,
    progress: Progress = lambda _: None,
    allow_io: Sequence[str] = (),
    **options: Any,
) -> list[Result]:
    """Prune to several targets from one analysis; each result loses all that the one before it lost.

    Args:
        source: Model or dependency graph.
        output: Where the models of files go, "small-{}.onnx"; without braces the target is put behind the stem.
        example_inputs: What a module takes.
        check: Verify every member; groups that do not verify in one are left whole in all.
        data: Samples for criteria, verification and agreement with the original.
        labels: What is right for each sample, see :func:`graphprune.samples`.
        samples: How many of them to take.
        preprocess: How images become inputs.
        metric: A measure of one's own.
        recover: What fits the weights to the data afterwards, see :func:`graphprune.prune`.
        progress: Called with the name of each step.
        allow_io: Patterns of graph inputs and outputs whose axes may shrink.
        options: As for :func:`graphprune.plan`; targets are lists, ``macs=["75%", "50%", "25%"]``, all of one length,
            or single amounts that hold for every member.

    Returns:
        The results in the order of the targets given.

    Raises:
        InputError: Bad file or option, or targets that no nested plans can meet.
        InfeasibleError: A target cannot be met.
        NothingToPruneError: No unit can be removed.
        VerificationError: A result could not be proved right; nothing was written.
    """
    targets = members(options)
    paths = outputs(output, targets) if output is not None and len(targets) > 1 else [output] * len(targets)
    for path in paths:
        if path is not None:
            check_output(Path(path), *([Path(source)] if isinstance(source, str | Path) else []))
    progress("load")
    deps = api.analyze(source, example_inputs=example_inputs, allow_io=allow_io)
    step_names(recover)
    refuse_nan(deps.source)
    given = given_samples(data, deps.source, samples, options.get("seed", 0), preprocess, labels)
    rest = {k: v for k, v in options.items() if k not in _AMOUNTS}
    progress("analyze")
    depth = read_depth(rest.pop("depth", None))
    if depth is not None:  # where blocks choose for themselves, models of other depth would choose otherwise
        rest["shared_offsets"] = True
    planner = prepared(deps, {**rest, **targets[0], "data": given}, progress)
    if depth is not None:
        planner.recipe["depth"] = options["depth"]
    order = _order(planner, targets)
    feeds = given.head(2, batch=8) if given is not None and check else ()

    def deeper(planner: Planner, target: Mapping[str, Any]) -> Planner:
        return deepened(planner, {**rest, **target}, depth, progress, step_names(recover)) if depth else planner

    found = _nested(planner, [targets[i] for i in order], check, feeds, progress, deeper)
    found = [recovered(r, given, recover, progress, seed=options.get("seed", 0)) for r in found]
    progress("measure")
    judge = Judge(deps.source, given if check else None, metric, given)
    results: list[Result] = [found[order.index(i)] for i in range(len(targets))]
    results = [replace(r, quality=judge(r.deps, r.plan, r.model)) for r in results]
    progress("write")
    for path, result in zip(paths, results, strict=True):
        if path is not None:
            api.save(result.model, path, like=deps.source.source)
    return results


def _order(planner: Planner, targets: Sequence[Mapping[str, Any]]) -> list[int]:
    """The members from the largest to the smallest.

    Raises:
        InputError: Of two members neither is the smaller one in every target.
    """
    rows = []
    for target in targets:
        planner.aim(Targets(**target))
        rows.append((*planner.limits.values(), -(planner.ratio or 0.0)))
    order = sorted(range(len(rows)), key=lambda i: rows[i], reverse=True)
    for a, b in pairwise(order):
        if any(y > x for x, y in zip(rows[a], rows[b], strict=True)):
            raise InputError(
                f"{targets[a]} and {targets[b]}: neither is the smaller in every target, so that their plans"
                " cannot be nested"
            )
    return order


def _nested(
    start: Planner,
    targets: Sequence[Mapping[str, Any]],
    check: bool,  # noqa: FBT001 - passed on
    feeds: Sequence[Any],
    progress: Progress,
    deeper: Callable[[Planner, Mapping[str, Any]], Planner],
) -> list[Result]:
    """Results from the largest to the smallest; all over again without the groups that one of them gives up.

    Each member may be planned on a model that bypasses more branches than the one before.
    """
    recipe = {k: v for k, v in start.recipe.items() if k not in _AMOUNTS}
    frozen: tuple[str, ...] = ()
    for _ in range(_ROUNDS):
        start.gone, results, again, planner = None, [], False, start
        for target in targets:
            planner.aim(Targets(**target))
            planner = deeper(planner, target)
            planner.recipe = {**target, **recipe}
            result = search(planner.deps, {}, check, feeds, 1, progress, planner=planner)
            results.append(replace(result, frozen=(*frozen, *result.frozen)))
            frozen = results[-1].frozen
            again |= bool(result.frozen) and len(results) > 1
            removed = planner.deps.cut(planner.removed(result.plan)).removed
            if planner.gone is not None and (planner.gone & ~removed).any():
                again = True
            planner.gone = removed
        if not again:
            return results
        start.give_up([g for g in start.deps.groups if g.name in frozen])
    raise VerificationError(f"{start.deps.source.name}: no nested plans could be proved right; nothing was written")
