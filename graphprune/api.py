"""The verbs: load, analyze, plan, apply, verify, prune, save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from graphprune.api_read import analyze, graph_of, load
from graphprune.api_torch import carried_out_inplace, check_destination, slice_optimizer, trace, traced_module
from graphprune.budget.targets import Amount
from graphprune.calibration import Calibration
from graphprune.checkpoints import apply_plan, as_plan, save_module
from graphprune.coupling.groups import DependencyGraph
from graphprune.data import Samples, given_samples
from graphprune.dialect import dialect_of
from graphprune.errors import InputError
from graphprune.graph.checks import refuse_nan
from graphprune.graph.model import Graph
from graphprune.graph.onnx import Source
from graphprune.importance.base import Criterion
from graphprune.plan import Plan, is_lossless
from graphprune.recover.steps import step_names
from graphprune.rewrite.checkpoint import is_checkpoint
from graphprune.rewrite.files import check_output
from graphprune.rewrite.files import save as _save
from graphprune.rewrite.shards import INDEX
from graphprune.search import Progress, Result, fitted, folded_cut, prepared, recovered, replay, search
from graphprune.verify.compare import Verdict
from graphprune.verify.metric import Judge, Metric

__all__ = ["Result", "analyze", "apply", "load", "plan", "prune", "save", "slice_optimizer", "trace", "verify"]


def plan(
    source: Source | Graph | DependencyGraph,
    *,
    example_inputs: Any = None,
    macs: Amount | None = None,
    params: Amount | None = None,
    size: Amount | None = None,
    memory: Amount | None = None,
    latency: Amount | None = None,
    threads: int | None = None,
    provider: str | None = None,
    latency_table: Any = None,
    ratio: Amount | None = None,
    criterion: str | Criterion = "auto",
    aggregate: str = "sum",
    normalise: str = "auto",
    data: Any = None,
    labels: Any = None,
    seed: int = 0,
    lossless: bool = False,
    align: int | str | None = None,
    min_channels: int = 1,
    max_ratio: float | None = None,
    max_step: float | None = None,
    ignore: Sequence[str] = (),
    only: Sequence[str] = (),
    allow_io: Sequence[str] = (),
    shared_offsets: bool = False,
    width: Sequence[str] = (),
    equal: Sequence[str] = (),
    allocation: str = "auto",
    depth: str | int | None = None,
    sensitivity: Any = None,
) -> Plan:
    """Decide what to remove.

    Args:
        source: Model or dependency graph.
        example_inputs: What a module takes: a tensor, a tuple, or a dictionary by keyword.
        macs: Limit on MACs, "50%" (what remains) or "1.2G".
        params: Limit on parameters.
        size: Limit on the bytes of the written file.
        memory: Limit on the bytes of activations alive at once, "8MB" or "60%".
        latency: Limit on the time of a run in onnxruntime, "60%" or "8ms"; predicted here, measured by ``prune``.
        threads: Threads that latency is measured with, 1; 0 for as many as there are.
        provider: Execution provider that latency is measured with.
        latency_table: Times from another device: a file, or a function, see :func:`graphprune.cost.table.load_table`.
        ratio: Share of channels that every group loses, 0.3 or "30%".
        criterion: A name, see docs/criteria.md, or a function (deps, seed) or (deps, calibration) → scores per unit.
        aggregate: What is made of the coupled slices of a unit: "sum", "mean" or "max".
        normalise: What the scores of a group are divided by: its "mean", "max" or "sum", "none", or what suits, "auto".
        data: Samples for criteria that look at activations: any source of :func:`graphprune.samples`, or a
            :class:`graphprune.calibration.Calibration`.
        labels: What is right for each sample, see :func:`graphprune.samples`.
        seed: Seed of criteria that draw.
        lossless: Remove the dead channels, all of them and nothing else, instead of meeting a target.
        align: Kept widths are multiples of this, or "auto", the default; 1 when lossless. See docs/budgets.md.
        min_channels: Units every group keeps at least.
        max_ratio: Largest share of units a group may lose; 0.9, or 1 when lossless.
        max_step: Largest share of a group between two widths; 0.25, or 0.5 with a number for ``align``.
        ignore: Patterns of nodes, weights and module paths that stay whole.
        only: Patterns outside which everything stays whole.
        allow_io: Patterns of graph inputs and outputs that may shrink; a dependency graph was made with its own.
        shared_offsets: Remove the same offsets from every convolution group, head or norm group in any case.
        width: How many units groups keep, "PATTERN=16:48" or "PATTERN=32", by their names or by "kind:heads".
        equal: Patterns whose groups keep the same width; with brackets, one class for each text captured.
        allocation: "solver" loses least under all limits, "global" ranks all units, "uniform" takes the same share of
            every group; "auto" is the solver where losses were measured, else the ranking.
        depth: Branches of residual sums may be left out, "auto", at most so many, or "only" they; see docs/depth.md.
        sensitivity: Curves for the solver: "auto" measures them; or what ``sensitivity`` found, or its file.

    Raises:
        InputError: An option cannot be read or a pattern matches nothing, or constraints contradict each other.
        InfeasibleError: The limits cannot be met.
        NothingToPruneError: No unit can be removed.
    """
    deps = analyze(source, example_inputs=example_inputs, allow_io=allow_io)
    refuse_nan(deps.source)
    if not isinstance(data, Calibration | Samples):
        data = given_samples(data, deps.source, None, seed, None, labels)
    targets = {"macs": macs, "params": params, "size": size, "memory": memory, "latency": latency, "ratio": ratio}
    timing = {"threads": threads, "provider": provider, "latency_table": latency_table}
    scoring = {"criterion": criterion, "aggregate": aggregate, "normalise": normalise, "data": data, "seed": seed}
    options: dict[str, Any] = targets | timing | scoring
    options |= {
        "lossless": lossless,
        "min_channels": min_channels,
        "ignore": tuple(ignore),
        "only": tuple(only),
        "shared_offsets": shared_offsets,
        "width": tuple(width),
        "equal": tuple(equal),
        "allocation": allocation,
        "depth": depth,
        "sensitivity": sensitivity,
    }
    given = {"align": align, "max_ratio": max_ratio, "max_step": max_step}
    options |= {k: v for k, v in given.items() if v is not None}
    return prepared(deps, options).plan()


def apply(source: Any, plan: Any, output: str | Path | None = None, *, example_inputs: Any = None) -> Any:
    """Carry out a plan; pure: the source is not changed, nothing is verified.

    Args:
        source: A model, module or loaded graph; or a checkpoint: path of a .safetensors, .safetensors.index.json, .pt
            or .pth file or of a Hugging Face folder, or a state dict. Source and plan may come in either order.
        plan: The plan, or its path.
        output: Where a smaller checkpoint goes.
        example_inputs: Inputs of a module.

    Returns:
        The pruned model or module; for the path of a checkpoint what became of it, for a state dict a new one.

    Raises:
        InputError: The plan does not fit, or a file cannot be read or written.
    """
    if isinstance(source, Plan | Result) or (isinstance(source, str | Path) and Path(source).suffix == ".json"):
        source, plan = (plan, source) if not str(source).endswith(INDEX) else (source, plan)
    if isinstance(source, Mapping) or (isinstance(source, str | Path) and is_checkpoint(Path(source))):
        return apply_plan(plan, source, output)
    if output is not None:
        raise InputError("a model is returned, not written: leave out the output and use save")
    ready = as_plan(plan)
    deps, ready = fitted(
        source if isinstance(source, DependencyGraph) else graph_of(source, None, example_inputs), ready
    )
    dialect = dialect_of(deps.source)
    model = dialect.rewrite(folded_cut(deps, ready))
    dialect.stamp(model, ready, verified=False)
    return model


def save(model: Any, path: str | Path, *, like: ir.Model | None = None) -> None:
    """Write a pruned model.

    Args:
        model: A pruned ``onnx_ir.Model``, written to a file; or a pruned module, written as safetensors and plan to a
            folder, from which :func:`graphprune.restore` makes it again. A result of ``prune`` stands for its model.
        path: The file or folder.
        like: The original ONNX model: its style of external data is kept, its files are safe.

    Raises:
        InputError: The folder cannot be written, or files of the original would be overwritten.
    """
    model = model.model if isinstance(model, Result) else model
    if isinstance(model, ir.Model):
        _save(model, path, like=like)
    else:
        save_module(model, path)


def verify(
    source: Source | Graph,
    pruned: Source | Graph,
    plan: Plan | str | Path,
    *,
    example_inputs: Any = None,
    feeds: Sequence[Any] = (),
    samples: int = 1,
    seed: int = 0,
) -> Verdict:
    """Compare a pruned model with the masked original, after a lossless plan with the original itself.

    Of a file whose weights were fitted to data the cut is compared, and that the file is this cut but for contents.

    Args:
        source: The original model.
        pruned: The pruned model, e.g. a file written earlier.
        plan: The plan that led from one to the other.
        example_inputs: What a module takes: a tensor, a tuple, or a dictionary by keyword.
        feeds: Inputs to use beside random ones.
        samples: Random inputs per input size.
        seed: Seed of the random inputs.

    Raises:
        InputError: A model or the plan cannot be read, or they do not fit each other.
    """
    ready = plan if isinstance(plan, Plan) else Plan.read(plan)
    deps, ready = fitted(graph_of(source, None, example_inputs), ready)
    model = pruned if traced_module(deps.source) is not None else graph_of(pruned).source
    cut, dialect = folded_cut(deps, ready), dialect_of(deps.source)
    return dialect.verify(cut, model, feeds=feeds, samples=samples, seed=seed, lossless=is_lossless(ready))


def prune(
    source: Source | Graph,
    output: str | Path | None = None,
    *,
    example_inputs: Any = None,
    inplace: bool = False,
    check: bool = True,
    data: Any = None,
    labels: Any = None,
    samples: int | None = None,
    preprocess: Mapping[str, Any] | None = None,
    recover: str | Sequence[str] = "auto",
    metric: Metric | str | None = None,
    feeds: Sequence[Any] = (),
    progress: Progress = lambda _: None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    from_plan: Plan | None = None,
    allow_io: Sequence[str] = (),
    **options: Any,
) -> Result:
    """Make a model smaller and prove that it is right.

    Args:
        source: Path, ModelProto, ``onnx_ir.Model``, PyTorch module, exported program, or a loaded or traced graph;
            never changed unless ``inplace``.
        output: Where to write the pruned model of a file; None only returns it.
        example_inputs: What a module takes: a tensor, a tuple, or a dictionary by keyword.
        inplace: Cut the module itself once all is proved; its parameters stay the same objects.
        check: Verify against the masked original; culprits are found by bisection, frozen, and planned around.
        data: Samples from any source of :func:`graphprune.samples`, for verification and agreement with the original.
        labels: What is right for each sample, for criteria and ``metric="accuracy"``; see :func:`graphprune.samples`.
        samples: How many of them to take (1024).
        preprocess: How images become inputs.
        recover: What is done for the accuracy once the cut is proved: "auto", "none", or steps such as "refit".
        metric: A measure of one's own: a function of ``run(feed) -> outputs``, for a module of the module itself.
        feeds: Inputs for verification beside random ones and the data.
        progress: Called with the name of each step.
        input_shapes: Sizes of inputs with dynamic axes.
        from_plan: Carry out this plan instead of making one.
        allow_io: Patterns of graph inputs and outputs whose axes may shrink.
        options: Targets and constraints, see :func:`plan`.

    Returns:
        The result; its ``model`` is what was written.

    Raises:
        InputError: Bad file, plan, data or option.
        InfeasibleError: The target cannot be met.
        NothingToPruneError: No unit can be removed.
        VerificationError: The result could not be proved right; nothing was written.
    """
    if output is not None:
        check_output(Path(output), *([Path(source)] if isinstance(source, str | Path) else []))
    progress("load")
    graph = graph_of(source, input_shapes, example_inputs)
    check_destination(graph, output, inplace=inplace)
    step_names(recover)
    refuse_nan(graph)
    given = given_samples(data, graph, samples, options.get("seed", 0), preprocess, labels)
    judge = Judge(graph, given if check else None, metric, given)
    feeds = [*feeds, *(given.head(2, batch=8) if given is not None and check else ())]
    progress("analyze")
    if from_plan:
        result = replay(*fitted(graph, from_plan), check, feeds, 1, progress)
    else:
        result = search(
            analyze(graph, allow_io=allow_io), {**options, "data": given, "recover": recover}, check, feeds, 1, progress
        )
    if not from_plan or recover != "auto":  # a plan carried out gives the same bytes each time
        result = recovered(result, given, recover, progress, seed=options.get("seed", 0))
    progress("measure")
    result = replace(result, quality=judge(result.deps, result.plan, result.model))
    if inplace:
        result = carried_out_inplace(result)
    if output is not None:
        progress("write")
        save(result.model, output, like=graph.source)
    return result
