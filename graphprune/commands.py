"""What each verb of the command line does: read, call the API, write, report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import onnx_ir as ir

from graphprune import api
from graphprune.data import given_samples, samples
from graphprune.errors import InputError, VerificationError
from graphprune.family import family, members, outputs
from graphprune.graph.model import Array, Graph
from graphprune.graph.onnx import external_files
from graphprune.importance.base import wants_data
from graphprune.plan import Plan
from graphprune.recipe import Recipe
from graphprune.recipe_values import parse_shapes
from graphprune.report.checkpoints import CheckpointReport, FieldChange
from graphprune.report.depth import bypassed_infos
from graphprune.report.latency import timed
from graphprune.report.models import (
    AnalysisReport,
    FamilyReport,
    PruneReport,
    VerifyReport,
)
from graphprune.report.profile import ProfileReport
from graphprune.report.profile import profile as _profile
from graphprune.report.quality import measured
from graphprune.report.recovery import regained
from graphprune.report.summary import analysis, blocked_axes, checked, cost, disk_bytes, group_cuts, io_cuts
from graphprune.rewrite.checkpoint import is_checkpoint, shrink
from graphprune.rewrite.files import check_output, save, staged
from graphprune.search import fitted

Step = Callable[[str], None]
DONE = "done"  # the step after which every file is in place
_RUNS = 20
_COMPARED = 64  # samples of the data read by verify


def prune(
    model: Path, output: Path, recipe: Recipe, step: Step, *, given: Path | None = None
) -> PruneReport | FamilyReport:
    """Prune a file and write the result, its plan, its report and its recipe, all or nothing; so for each of a family.

    Args:
        model: The original.
        output: Where the result goes.
        recipe: The options.
        step: Called with the name of each step.
        given: The file that the recipe came from; it is never overwritten.
    """
    options, shapes = recipe.options(), recipe.input_shapes()
    targets = members(options)
    paths = outputs(output, targets) if len(targets) > 1 else [output]
    for path in paths:
        check_output(path, model)
    step("load")
    graph = api.load(model, input_shapes=shapes)
    options |= {"check": not recipe.no_verify, "progress": step, **recipe.data_options()}
    results = family(graph, **options) if len(targets) > 1 else [api.prune(graph, **options)]
    step("write")
    reports = []
    for path, result in zip(paths, results, strict=True):
        with staged(path, partial(step, DONE)) as folder:
            reports.append(_written("prune", model, path, result, folder))
            stem = path.name.removesuffix(".onnx")
            _text(folder / f"{stem}.plan.json", result.plan.to_json())
            if given is None or given.resolve() != (path.parent / f"{stem}.recipe.yaml").resolve():
                _text(folder / f"{stem}.recipe.yaml", recipe.effective(result.plan.recipe, path.parent))
            _text(folder / f"{stem}.report.json", reports[-1].model_dump_json(indent=1) + "\n")
    return reports[0] if len(reports) == 1 else FamilyReport(model=str(model), members=tuple(reports))


def apply(
    plan: Path, model: Path, output: Path, *, data: str | None, input_shape: tuple[str, ...], verify: bool, step: Step
) -> PruneReport | CheckpointReport:
    """Carry out a plan on a file and write the result and its report."""
    if is_checkpoint(model):
        if data is not None or input_shape or not verify:
            raise InputError(f"{model}: a checkpoint cannot be run; leave out --data, --input-shape and --no-verify")
        return apply_checkpoint(plan, model, output, step)
    check_output(output, model, plan)
    ready = Plan.read(plan)
    step("load")
    graph = api.load(model, input_shapes=parse_shapes(input_shape))
    result = api.prune(graph, check=verify, data=data, progress=step, from_plan=ready)
    step("write")
    with staged(output, partial(step, DONE)) as folder:
        report = _written("apply", model, output, result, folder)
        stem = output.name.removesuffix(".onnx")
        _text(folder / f"{stem}.report.json", report.model_dump_json(indent=1) + "\n")
    return report


def apply_checkpoint(plan: Path, source: Path, output: Path, step: Step) -> CheckpointReport:
    """Carry out a plan on a checkpoint and write the result; into a folder the plan goes along."""
    if not source.is_dir():
        check_output(output, plan)
    ready = Plan.read(plan)
    step("write")
    made = shrink(ready, source, output, partial(step, DONE))
    fields = (*made.fields.changed, *made.fields.left)
    return CheckpointReport(
        model=str(source),
        output=str(output),
        tensors=len(made.before),
        cut=len(made.cut),
        params=made.params,
        bytes=(made.bytes_before, made.bytes_after),
        config=tuple(FieldChange(name=f.name, old=f.old, new=f.new, reason=f.reason) for f in fields),
        notes=made.notes,
        files=made.files,
    )


def plan(model: Path, output: Path, recipe: Recipe, step: Step) -> PruneReport:
    """Write the plan of a prune; nothing is verified."""
    check_output(output, model)
    options = recipe.options()
    if len(members(options)) > 1:
        raise InputError("plan makes one plan; prune takes several targets and writes a plan for each")
    step("load")
    graph = api.load(model, input_shapes=recipe.input_shapes())
    step("analyze")
    deps = api.analyze(graph, allow_io=options.pop("allow_io", ()))
    if recipe.data is not None and not wants_data(recipe.criterion or "l2"):
        raise InputError("plan verifies nothing: --data belongs to prune, apply and verify, or to a criterion on data")
    options["data"] = given_samples(
        recipe.data, graph, recipe.samples, recipe.seed or 0, recipe.preprocess, recipe.labels
    )
    step("plan")
    made = api.plan(deps, **options)
    deps, made = fitted(deps, made)
    step("write")
    with staged(output, partial(step, DONE)) as folder:
        _text(folder / output.name, made.to_json())
    return PruneReport(
        verb="plan",
        model=str(model),
        output=str(output),
        recipe=made.recipe,
        before=cost(made.before),
        after=cost(made.after),
        check=None,
        bypassed=bypassed_infos(deps.source),
        groups=group_cuts(deps, made),
        blocked=blocked_axes(deps),
        io=io_cuts(deps.source, made),
    )


def analyze(
    model: Path, *, explain: Sequence[str], input_shape: tuple[str, ...], allow_io: tuple[str, ...] = (), step: Step
) -> AnalysisReport:
    """Groups, blockers and costs; writes nothing."""
    step("load")
    graph = api.load(model, input_shapes=parse_shapes(input_shape))
    step("analyze")
    deps = api.analyze(graph, allow_io=allow_io)
    texts = {name: deps.explain(name) for name in explain}
    return analysis(deps, disk_bytes(model, graph.source)).model_copy(update={"explanations": texts})


def verify(
    model: Path,
    pruned: Path,
    plan: Path,
    *,
    data: str | None,
    input_shape: tuple[str, ...],
    samples: int,
    seed: int,
    step: Step,
) -> VerifyReport:
    """Compare a pruned file with the masked original.

    Raises:
        VerificationError: They differ.
    """
    if samples < 1 or seed < 0:
        raise InputError(f"--samples {samples} --seed {seed}: at least one sample, and a seed of 0 or more")
    shapes, ready = parse_shapes(input_shape), Plan.read(plan)
    step("load")
    graph, small = api.load(model, input_shapes=shapes), api.load(pruned, input_shapes=shapes)
    step("verify")
    verdict = api.verify(graph, small, ready, feeds=_feeds(data, graph), samples=samples, seed=seed)
    if not verdict.passed:
        raise VerificationError(f"{pruned} {verdict.text}")
    return VerifyReport(model=str(model), pruned=str(pruned), check=checked(verdict))


def profile(model: Path, *, latency: bool, threads: int, input_shape: tuple[str, ...], step: Step) -> ProfileReport:
    """Costs and, where asked for, time per operator."""
    step("load")
    graph = api.load(model, input_shapes=parse_shapes(input_shape))
    step("analyze")
    deps = api.analyze(graph)
    return _profile(deps, size=disk_bytes(model, graph.source), runs=_RUNS if latency else 0, threads=threads)


def _feeds(data: str | None, graph: Graph) -> list[dict[str, Array]]:
    return samples(data, graph, limit=_COMPARED).head(2, batch=8) if data is not None else []


def _written(verb: str, model: Path, output: Path, result: api.Result, folder: Path) -> PruneReport:
    """Write the model into ``folder``; the report with the sizes on disk."""
    original: ir.Model = result.deps.source.origin.source
    check_output(Path(f"{output}.data"), *external_files(original))
    save(result.model, folder / output.name, like=original)
    size = sum(p.stat().st_size for p in folder.iterdir())
    return PruneReport(
        verb=verb,
        model=str(model),
        output=str(output),
        recipe=result.plan.recipe,
        before=cost(result.before, disk_bytes(model, original)),
        after=cost(result.after, size),
        check=checked(result.verdict),
        folded=result.folded,
        quality=measured(result.quality),
        recovery=regained(result.recovery),
        given_up=result.frozen,
        notes=result.notes,
        latency=timed(result.timing),
        bypassed=bypassed_infos(result.deps.source),
        groups=group_cuts(result.deps, result.plan),
        blocked=blocked_axes(result.deps),
        io=io_cuts(result.deps.source, result.plan),
    )


def _text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
