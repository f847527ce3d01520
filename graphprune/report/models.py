"""Reports as plain data: what the tables show and what is written as JSON."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

import graphprune
from graphprune.report.depth import BranchInfo
from graphprune.report.latency import LatencyReport
from graphprune.report.quality import QualityReport
from graphprune.report.recovery import RecoveryReport
from graphprune.sweep.curves import Sensitivity


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class Cost(_Value):
    """What a model costs.

    Attributes:
        macs: Multiply-accumulates of one run.
        params: Stored elements.
        bytes: Size on disk where there is a file, else of the stored elements.
        memory: Bytes of activations alive at once at the peak; None when not worked out.
    """

    macs: int
    params: int
    bytes: int
    memory: int | None = None


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
        kind: What it is: heads, FFN width, channels ...
        size: Units before.
        kept: Units after.
        macs: MACs that this cut alone saves.
        params: Parameters that this cut alone saves.
    """

    name: str
    kind: str
    size: int
    kept: int
    macs: int
    params: int


class IoCut(_Value):
    """An axis of a graph input or output that shrank.

    Attributes:
        name: Name of the input or output.
        role: "input" or "output".
        axis: Axis number.
        size: Positions before.
        kept: Old index of every new position.
    """

    name: str
    role: Literal["input", "output"]
    axis: int
    size: int
    kept: tuple[int, ...]


class GroupInfo(_Value):
    """A group that can be cut.

    Attributes:
        name: Name of the group.
        kind: What it is: heads, FFN width, channels ...
        size: Number of its units.
        axes: Weight axes it cuts, with the positions per unit.
    """

    name: str
    kind: str
    size: int
    axes: tuple[tuple[str, int, int], ...]


class FibreInfo(_Value):
    """Units that every block may choose for itself.

    Attributes:
        group: The group they belong to.
        units: Number of units; the group's if it has no others.
        blocks: Number of blocks: groups of a convolution or norm, heads.
    """

    group: str
    units: int
    blocks: int


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


class OpaqueNode(_Value):
    """An operator that freezes all it touches.

    Attributes:
        node: Its name.
        reason: Why.
        mend: How to unblock it, empty where there is no way.
    """

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
        folded: Constants of removed channels that the layers reading them took over.
        given_up: Groups left whole because their removal did not verify.
        notes: What else to know.
        groups: What the groups lost, largest savings first.
        blocked: What could not be cut, largest first.
        io: Axes of graph inputs and outputs that shrank.
        quality: Metric and agreement with the original, None where neither was measured.
        latency: What became of a latency target, None without one.
        recovery: What was done for the accuracy once the cut was proved, None when nothing was.
        bypassed: Branches that were left out.
    """

    graphprune: str = graphprune.__version__
    verb: str
    model: str
    output: str
    recipe: dict[str, Any]
    before: Cost
    after: Cost
    check: Check | None
    folded: int = 0
    given_up: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    groups: tuple[GroupCut, ...]
    blocked: tuple[BlockedAxis, ...]
    io: tuple[IoCut, ...] = ()
    quality: QualityReport | None = None
    latency: LatencyReport | None = None
    recovery: RecoveryReport | None = None
    bypassed: tuple[BranchInfo, ...] = ()


class FamilyReport(_Value):
    """What ``prune`` reports of several targets.

    Attributes:
        graphprune: Version of this package.
        model: The original.
        members: The report of every member, in the order of the targets.
    """

    graphprune: str = graphprune.__version__
    model: str
    members: tuple[PruneReport, ...]


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
        fibres: Units that leave every block in equal number, but not the same ones everywhere.
        pinned: Groups that lie inside blocks and leave all of them alike, with the reason.
        branches: Branches that --depth may leave out.
        blocked: What cannot be cut, largest first.
        opaque: Operators that freeze all they touch.
        explanations: Texts asked for, by name.
        sensitivity: What each group costs when it alone is cut, None where that was not measured.
        plot: File with the curves, None without.
    """

    graphprune: str = graphprune.__version__
    model: str
    cost: Cost
    input_shapes: tuple[dict[str, tuple[int, ...]], ...]
    prunable_macs: float
    granularity: float
    units: int
    groups: tuple[GroupInfo, ...]
    fibres: tuple[FibreInfo, ...] = ()
    pinned: dict[str, str] = {}
    branches: tuple[BranchInfo, ...] = ()
    blocked: tuple[BlockedAxis, ...]
    opaque: tuple[OpaqueNode, ...]
    explanations: dict[str, str] = {}
    sensitivity: Sensitivity | None = None
    plot: str | None = None


class VerifyReport(_Value):
    """What ``verify`` reports."""

    graphprune: str = graphprune.__version__
    model: str
    pruned: str
    check: Check
