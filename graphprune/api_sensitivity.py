"""The verb sensitivity: what each group costs in the model's output when it alone is cut."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.api_read import analyze, graph_of
from graphprune.api_torch import is_torch
from graphprune.budget.planner import POSITIONS, Planner
from graphprune.calibration import Calibration
from graphprune.coupling.groups import DependencyGraph
from graphprune.data import Samples, given_samples
from graphprune.data.parts import divided
from graphprune.data.scripts import is_script
from graphprune.errors import InputError
from graphprune.graph.checks import refuse_nan
from graphprune.graph.custom import STANDARD
from graphprune.graph.model import Graph
from graphprune.graph.onnx import Source
from graphprune.importance.base import Criterion
from graphprune.sweep.cache import folder
from graphprune.sweep.curves import Sensitivity
from graphprune.sweep.measure import SAMPLES, Setting, measured
from graphprune.sweep.run import RATIOS, checked_ratios
from graphprune.sweep.tasks import Place
from graphprune.sweep.workers import Workers

_RUNTIMES_OWN = {*STANDARD, "ai.onnx.ml", "com.microsoft"}


def sensitivity(
    source: Source | Graph | DependencyGraph,
    data: Any,
    *,
    samples: int | None = None,
    ratios: Sequence[float] = RATIOS,
    criterion: str | Criterion = "auto",
    compensate: bool = False,
    seed: int = 0,
    preprocess: Mapping[str, Any] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    allow_io: Sequence[str] = (),
    jobs: int | None = None,
    backend: str = "processes",
    address: str | None = None,
    cache: str | Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Sensitivity:
    """Cut each group alone to some ratios, and measure how far the outputs move.

    Results are kept on disk as they come: what was measured once, on the same model, data and options, is not measured
    again, whatever stopped the sweep.

    Args:
        source: Path, ModelProto, ``onnx_ir.Model``, loaded graph or dependency graph.
        data: Samples without labels, from any source of :func:`graphprune.samples`.
        samples: How many of them to take (256).
        ratios: Shares of its units that each group loses.
        criterion: What orders the units of a group, see docs/criteria.md.
        compensate: Let the layers that read a group make up for what left, as recovery will; they learn from seven
            eighths of the samples, and outputs are compared on the others.
        seed: Seed of what is drawn.
        preprocess: How images become inputs.
        input_shapes: Sizes of inputs with dynamic axes.
        allow_io: Patterns of graph inputs and outputs whose axes may shrink.
        jobs: How many cuts are measured at once; with more than one in processes of their own.
        backend: "processes" of this machine, or a cluster: "dask", "ray".
        address: Where the cluster's scheduler answers.
        cache: Folder for results; below $GRAPHPRUNE_CACHE or ~/.cache/graphprune when None.
        progress: Called with the name of each step.

    Raises:
        InputError: Bad file, data or option; nobody answers at the address.
        NothingToPruneError: There is no group.
        GraphPruneError: A group could not be measured, for example because its worker died twice.
    """
    workers, ratios = Workers(jobs, backend, address), checked_ratios(ratios)
    folder(cache)
    if data is None:
        raise InputError("--sensitivity measures on samples: give some with --data")
    if is_torch(source):
        raise InputError("sensitivities are measured on ONNX files; export the module first")
    progress("load")
    deps = source if isinstance(source, DependencyGraph) else analyze(graph_of(source, input_shapes), allow_io=allow_io)
    graph = deps.source
    if not isinstance(graph.source, ir.Model):
        raise InputError("sensitivities are measured on ONNX files; export the module first")
    refuse_nan(graph)
    count = SAMPLES if samples is None else samples
    given = data if isinstance(data, Samples) else given_samples(data, graph, count, seed, preprocess)
    assert given is not None
    with ExitStack() as stack:
        run = stack.enter_context(workers.ready())
        setting = Setting(ratios, compensate, workers, cache)
        if not workers.here:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graphprune-")))
            place = _place(graph, source, data, given, home)
            place = replace(place, allow_io=tuple(deps.allow_io), seed=seed, threads=workers.threads)
            if place.samples is not None:
                place = replace(place, samples=count, preprocess=json.dumps(preprocess))
            setting = replace(setting, place=replace(place, grams=str(home / "grams") if compensate else ""))
        kept = setting.place.grams if setting.place is not None and compensate else None
        learn, judges = divided(given) if compensate else (given, given)
        statistics = Calibration(deps, learn, seed=seed, positions=POSITIONS, cache=kept, threads=workers.threads)
        options = {"ratio": 0.5, "criterion": criterion, "seed": seed, "data": statistics}
        return measured(Planner.from_options(deps, options), judges, setting, run, progress)


def _place(graph: Graph, source: Any, data: Any, given: Samples, home: Path) -> Place:
    """Where workers find the model and the data; what is no file yet is written into ``home``.

    Raises:
        InputError: The model has operators that only this process knows.
    """
    foreign = {n.domain for n in graph.source.graph.all_nodes()} - _RUNTIMES_OWN
    if foreign:
        raise InputError(f"{graph.name}: operators of {', '.join(sorted(foreign))} are known here alone; use --jobs 1")
    if isinstance(source, str | Path):
        model = Path(source).resolve()
    else:
        model = home / "model.onnx"
        ir.save(graph.source.clone(), model, external_data="model.data")
    sizes = graph.input_shapes[0] if graph.input_shapes else {}
    shapes = tuple((name, tuple(shape)) for name, shape in sizes.items())
    place = Place(str(model), "", shapes, (), "", "", None, 0)
    if isinstance(data, str | os.PathLike) and not is_script(os.fspath(data)):
        path = os.fspath(data)
        return replace(place, data=path if path == "random" else str(Path(path).resolve()), samples=0)
    spool = home / "data"
    spool.mkdir()
    for number, feed in enumerate(given):
        arrays = {n: a.astype(str) if a.dtype == object else a for n, a in feed.items()}
        np.savez(spool / f"{number:08}.npz", **arrays)  # type: ignore[arg-type]
    return replace(place, data=str(spool))
