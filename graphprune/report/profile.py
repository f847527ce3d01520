"""Where a model spends its MACs, its bytes and its time."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
from pydantic import BaseModel, ConfigDict

import graphprune
from graphprune.cost.model import CostModel
from graphprune.coupling.groups import DependencyGraph
from graphprune.errors import InputError
from graphprune.graph.model import Graph
from graphprune.graph.run import CannotRun, Runner, random_feeds
from graphprune.report.models import Cost
from graphprune.report.summary import cost

_WARMUP = 3


class NodeCost(BaseModel):
    """What one operator costs.

    Attributes:
        name: Its name.
        op: Its type.
        macs: Multiply-accumulates.
        params: Elements of the weights it is the first to read.
        bytes: Bytes of them.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    op: str
    macs: int
    params: int
    bytes: int


class NodeTime(BaseModel):
    """Time of one operator as the runtime runs it, after its own fusions.

    Attributes:
        name: Its name in the runtime.
        op: Its type in the runtime.
        milliseconds: Median time of a run.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    op: str
    milliseconds: float


class ProfileReport(BaseModel):
    """What ``profile`` reports.

    Attributes:
        graphprune: Version of this package.
        model: The model.
        cost: What it costs.
        input_shapes: Input sizes the figures hold for.
        nodes: Costs per operator, most MACs first.
        milliseconds: Median time of a run, None when not measured.
        times: Time per operator, longest first; empty when not measured.
    """

    model_config = ConfigDict(frozen=True)

    graphprune: str = graphprune.__version__
    model: str
    cost: Cost
    input_shapes: dict[str, tuple[int, ...]]
    nodes: tuple[NodeCost, ...]
    milliseconds: float | None = None
    times: tuple[NodeTime, ...] = ()


def profile(deps: DependencyGraph, *, size: int | None = None, runs: int = 0, threads: int = 0) -> ProfileReport:
    """Costs per operator and, with ``runs``, measured time per operator.

    Args:
        deps: The dependency graph.
        size: Bytes on disk, None to count the stored elements.
        runs: Timed runs in onnxruntime; 0 measures nothing.
        threads: Threads of the runtime, 0 for its default.

    Raises:
        InputError: The model cannot be run.
    """
    model = CostModel(deps)
    none = np.zeros(deps.state.store.count, bool)
    total, times = _measure(deps.source, runs, threads) if runs else (None, ())
    return ProfileReport(
        model=deps.source.name,
        cost=cost(model.costs(none), size),
        input_shapes={k: tuple(v) for k, v in deps.source.input_shapes[0].items()},
        nodes=tuple(sorted(_nodes(deps.source, model.node_macs(none)), key=lambda n: (-n.macs, -n.bytes))),
        milliseconds=total,
        times=times,
    )


def _nodes(graph: Graph, macs: dict[str, int]) -> Iterator[NodeCost]:
    seen: set[str] = set()
    for node in graph.nodes:
        params = size = 0
        for name in (*node.inputs, *node.captures):
            weight = graph.weights.get(name)
            if weight is None or weight.origin == "fill" or weight.source in seen:
                continue
            seen.add(weight.source)
            count = int(np.prod(weight.shape, dtype=np.int64))
            params += count
            if weight.dtype != "string":
                size += int(count * ir.DataType[weight.dtype.upper()].itemsize)
        yield NodeCost(name=node.name, op=node.key, macs=macs.get(node.name, 0), params=params, bytes=size)


def _measure(graph: Graph, runs: int, threads: int) -> tuple[float, tuple[NodeTime, ...]]:
    """Median time of a run, and the median time per operator."""
    feed = random_feeds(graph, 1, 0)[0]
    try:
        plain = Runner(graph.source, threads=threads)
        spans = []
        for _ in range(_WARMUP + runs):
            start = time.perf_counter()
            plain(feed)
            spans.append(1e3 * (time.perf_counter() - start))
        with tempfile.TemporaryDirectory(prefix="graphprune-") as folder:
            traced = Runner(graph.source, threads=threads, trace=str(Path(folder) / "trace"))
            for _ in range(runs):
                traced(feed)
            events = json.loads(Path(traced.session.end_profiling()).read_bytes())
    except CannotRun as error:
        raise InputError(f"{graph.name}: cannot be timed: onnxruntime: {error}") from None
    return float(np.median(spans[_WARMUP:])), _node_times(events)


def _node_times(events: list[dict[str, object]]) -> tuple[NodeTime, ...]:
    micros: dict[tuple[str, str], list[float]] = {}
    for event in events:
        name, args, spent = str(event.get("name", "")), event.get("args"), event.get("dur")
        if event.get("cat") == "Node" and name.endswith("_kernel_time") and isinstance(args, dict):
            key = name.removesuffix("_kernel_time"), str(args.get("op_name", ""))
            micros.setdefault(key, []).append(float(spent) if isinstance(spent, int | float) else 0.0)
    times = [NodeTime(name=n, op=op, milliseconds=float(np.median(t)) / 1e3) for (n, op), t in micros.items()]
    return tuple(sorted(times, key=lambda t: -t.milliseconds))
