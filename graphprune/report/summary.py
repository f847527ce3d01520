"""Makes reports from what a run found and did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx_ir as ir

from graphprune.cost.model import CostModel, Costs
from graphprune.coupling.groups import DependencyGraph, Group
from graphprune.graph.model import Graph
from graphprune.graph.onnx import external_files
from graphprune.plan import Plan
from graphprune.report.depth import branch_infos
from graphprune.report.models import (
    AnalysisReport,
    BlockedAxis,
    Check,
    Cost,
    FibreInfo,
    GroupCut,
    GroupInfo,
    IoCut,
    OpaqueNode,
)
from graphprune.verify.compare import Verdict

_MOST = 400  # groups whose own savings are worked out
_SIZES = "export the model with fixed input sizes"
_MENDS = (
    ("laid out in blocks", "prune before the last optimisation, or optimise with the extended level, not all"),
    ("no rule for If", "keep the branch that runs (simplify the model with its inputs fixed)"),
    ("no rule for", "export it as standard operators, or say what it couples with graphprune.register"),
    ("changes with the input size", _SIZES),
    ("whose size changes", _SIZES),
    ("not fixed", _SIZES),
    ("rank of", "add shapes to the file with onnx.shape_inference"),
)


def checked(verdict: Verdict | None) -> Check:
    """A verdict as data."""
    if verdict is None:
        return Check(status="UNVERIFIED")
    return Check(
        status="verified" if verdict.passed else "FAILED",
        error=verdict.error,
        tolerance=verdict.tolerance,
        inputs=verdict.samples,
        text=verdict.text,
    )


def cost(costs: Costs | Mapping[str, int], size: int | None = None) -> Cost:
    """Costs as data; ``size`` replaces the bytes of the elements by those on disk."""
    found = costs if isinstance(costs, Mapping) else asdict(costs)
    return Cost(**{**found, "bytes": found["bytes"] if size is None else size})


def group_cuts(deps: DependencyGraph, plan: Plan) -> tuple[GroupCut, ...]:
    """What each group lost, largest savings first."""
    model = CostModel(deps)
    none = np.zeros(deps.state.store.count, bool)
    dense = model.costs(none)
    by_name = {g.name: g for g in deps.groups}
    planned = [p for p in plan.groups if p.name in by_name]
    planned = sorted(planned, key=lambda p: -len(p.removed) * len(by_name[p.name].members))[:_MOST]
    cuts = []
    for p in planned:
        removed = none.copy()
        removed[by_name[p.name].units[list(p.removed)]] = True
        alone = model.costs(removed)
        cuts.append(
            GroupCut(
                name=p.name,
                kind=by_name[p.name].kind,
                size=p.size,
                kept=p.size - len(p.removed),
                macs=dense.macs - alone.macs,
                params=dense.params - alone.params,
            )
        )
    return tuple(sorted(cuts, key=lambda c: (-c.macs, -c.params, c.name)))


def io_cuts(graph: Graph, plan: Plan) -> tuple[IoCut, ...]:
    """Graph inputs and outputs that shrink."""
    return tuple(
        IoCut(
            name=name,
            role="input" if name in graph.inputs else "output",
            axis=axis,
            size=(size := (graph.values[name].shape or ())[axis]),
            kept=tuple(np.setdiff1d(np.arange(size), gone).tolist()),
        )
        for name, axes in plan.io.items()
        for axis, gone in axes.items()
    )


def blocked_axes(deps: DependencyGraph) -> tuple[BlockedAxis, ...]:
    """What cannot be cut, largest first."""
    return tuple(sorted(_blocked(deps), key=lambda b: (-b.params, b.tensor, b.axis)))


def _blocked(deps: DependencyGraph) -> Iterator[BlockedAxis]:
    for b in deps.blocked:
        elements = int(np.prod(deps.source.weights[b.tensor].shape, dtype=np.int64))
        yield BlockedAxis(
            tensor=b.tensor,
            axis=b.axis,
            positions=b.positions,
            size=b.size,
            params=elements * b.positions // b.size,
            op=b.reason.op,
            node=b.reason.node,
            reason=b.reason.text or "no operator cuts it",
            mend=b.reason.mend or _mend(b.reason.text),
        )


def _mend(reason: str) -> str:
    return next((mend for part, mend in _MENDS if part in reason), "")


def analysis(deps: DependencyGraph, size: int | None) -> AnalysisReport:
    """The report of ``analyze``."""
    model = CostModel(deps)
    return AnalysisReport(
        model=deps.source.name,
        cost=cost(model.costs(np.zeros(deps.state.store.count, bool)), size),
        input_shapes=tuple({k: tuple(v) for k, v in sizes.items()} for sizes in deps.source.input_shapes),
        prunable_macs=model.prunable_share(),
        granularity=deps.granularity(),
        units=deps.units,
        groups=tuple(_info(g) for g in deps.groups),
        fibres=tuple(FibreInfo(group=f.group, units=f.size, blocks=f.number) for f in deps.fibres.factors),
        pinned=dict(deps.fibres.pinned),
        branches=branch_infos(deps),
        blocked=blocked_axes(deps),
        opaque=tuple(OpaqueNode(node=n, reason=r, mend=_mend(r)) for n, r in deps.state.opaque.items()),
    )


def _info(group: Group) -> GroupInfo:
    axes = tuple((m.tensor, m.axis, m.rows) for m in group.members)
    return GroupInfo(name=group.name, kind=group.kind, size=group.size, axes=axes)


def disk_bytes(path: Path, model: ir.Model) -> int:
    """Bytes of a model's file and of its external data."""
    return sum(p.stat().st_size for p in {path, *external_files(model)})
