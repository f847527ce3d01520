"""Reports as plain data: what the tables show and what is written as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from pydantic import BaseModel, ConfigDict

import graphprune
from graphprune.algebra import Reason
from graphprune.cost.model import CostModel, Costs
from graphprune.coupling.groups import DependencyGraph, Group
from graphprune.graph.onnx import external_files
from graphprune.plan import Plan
from graphprune.verify.compare import Verdict

_MOST = 400  # groups whose own savings are worked out
_SIZES = "fix the input sizes: --input-shape, or export with fixed sizes"
_MENDS = (
    ("no rule for", "replace the operator with standard ones, or fold it into a function the exporter knows"),
    ("changes with the input size", _SIZES),
    ("whose size changes", _SIZES),
    ("not fixed", _SIZES),
    ("rank of", "add shapes to the file (onnx.shape_inference), or give --input-shape"),
)


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class Cost(_Value):
    """What a model costs.

    Attributes:
        macs: Multiply-accumulates of one run.
        params: Stored elements.
        bytes: Size on disk where there is a file, else of the stored elements.
    """

    macs: int
    params: int
    bytes: int


class Check(_Value):
    """Outcome of the verification.

    Attributes:
        status: "verified", "FAILED", or "UNVERIFIED" when it was switched off.
        error: Largest relative difference from the masked original.
        tolerance: What was allowed.
        inputs: Number of inputs compared.
        text: One line about it.
    """

    status: Literal["verified", "FAILED", "UNVERIFIED"]
    error: float | None = None
    tolerance: float | None = None
    inputs: int = 0
    text: str = "not compared with the original, as asked"


class GroupCut(_Value):
    """What one group lost.

    Attributes:
        name: Name of the group.
        size: Units before.
        kept: Units after.
        macs: MACs that this cut alone saves.
        params: Parameters that this cut alone saves.
    """

    name: str
    size: int
    kept: int
    macs: int
    params: int


class GroupInfo(_Value):
    """A group that can be cut.

    Attributes:
        name: Name of the group.
        size: Number of its units.
        axes: Weight axes it cuts, with the positions per unit.
    """

    name: str
    size: int
    axes: tuple[tuple[str, int, int], ...]


class BlockedAxis(_Value):
    """A weight axis that cannot be cut, or not in whole.

    Attributes:
        tensor: Name of the weight.
        axis: Axis number.
        positions: How many of its positions are frozen.
        size: Length of the axis.
        params: Elements of the weight at these positions.
        op: Operator that froze most of them.
        node: Its name.
        reason: Why.
        mend: How to unblock it, empty where there is no way.
    """

    tensor: str
    axis: int
    positions: int
    size: int
    params: int
    op: str
    node: str
    reason: str
    mend: str


class PruneReport(_Value):
    """What ``prune``, ``apply`` and ``plan`` report.

    Attributes:
        graphprune: Version of this package.
        verb: What was done.
        model: The original.
        output: What was written.
        recipe: The options, as the plan notes them.
        before: Costs of the original.
        after: Costs of the result.
        check: The verification, None for a plan.
        given_up: Groups left whole because their removal did not verify.
        groups: What the groups lost, largest savings first.
        blocked: What could not be cut, largest first.
    """

    graphprune: str = graphprune.__version__
    verb: str
    model: str
    output: str
    recipe: dict[str, Any]
    before: Cost
    after: Cost
    check: Check | None
    given_up: tuple[str, ...] = ()
    groups: tuple[GroupCut, ...]
    blocked: tuple[BlockedAxis, ...]


class AnalysisReport(_Value):
    """What ``analyze`` reports.

    Attributes:
        graphprune: Version of this package.
        model: The model.
        cost: What it costs.
        input_shapes: Input sizes at each probe; the costs are those of the first.
        prunable_macs: Share of the MACs in operators with at least one axis that can be cut.
        granularity: Share of distinct rows that can be removed one by one, weighted by size.
        units: Number of removable units.
        groups: All groups, in graph order.
        blocked: What cannot be cut, largest first.
        opaque: Operators that freeze all they touch, with the reason.
        explanations: Texts asked for, by name.
    """

    graphprune: str = graphprune.__version__
    model: str
    cost: Cost
    input_shapes: tuple[dict[str, tuple[int, ...]], ...]
    prunable_macs: float
    granularity: float
    units: int
    groups: tuple[GroupInfo, ...]
    blocked: tuple[BlockedAxis, ...]
    opaque: dict[str, str]
    explanations: dict[str, str] = {}


class VerifyReport(_Value):
    """What ``verify`` reports."""

    graphprune: str = graphprune.__version__
    model: str
    pruned: str
    check: Check


# -- making them -----------------------------------------------------------------------------------------


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
    found = costs if isinstance(costs, Mapping) else {k: getattr(costs, k) for k in Cost.model_fields}
    return Cost(macs=found["macs"], params=found["params"], bytes=found["bytes"] if size is None else size)


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
                size=p.size,
                kept=p.size - len(p.removed),
                macs=dense.macs - alone.macs,
                params=dense.params - alone.params,
            )
        )
    return tuple(sorted(cuts, key=lambda c: (-c.macs, -c.params, c.name)))


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
            mend=_mend(b.reason),
        )


def _mend(reason: Reason) -> str:
    return reason.mend or next((mend for part, mend in _MENDS if part in reason.text), "")


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
        blocked=blocked_axes(deps),
        opaque=dict(deps.state.opaque),
    )


def _info(group: Group) -> GroupInfo:
    return GroupInfo(name=group.name, size=group.size, axes=tuple((m.tensor, m.axis, m.rows) for m in group.members))


def disk_bytes(path: Path, model: ir.Model) -> int:
    """Bytes of a model's file and of its external data."""
    return sum(p.stat().st_size for p in {path, *external_files(model)})
