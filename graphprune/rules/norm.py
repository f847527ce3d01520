"""Normalisations: per-channel parameters, and statistics restricted to what is kept."""

from __future__ import annotations

from graphprune.rules.context import Relate
from graphprune.rules.edit import Edit
from graphprune.rules.kinds import parameters, statistics
from graphprune.rules.registry import rule


@rule("BatchNormalization", kind="PARAM")
def batch_norm(r: Relate) -> None:
    """Scale, bias, mean and variance belong to axis 1; a training one normalises what is kept.

    Before opset 9 they may lie along all axes but the batch (``spatial`` 0).
    """
    axes = r.axes(0)
    for slot in (1, 2, 3, 4):
        if r.rank(slot) == 1:
            parameters(r, (slot,), axes[1] if len(axes) > 1 else r.frozen(1, "an axis of one position"))
        else:
            for a in range(r.rank(slot)):
                r.tie(slot, a, axes[1 + a])
    version = r.node.version
    if r.attr("training_mode", 0) if version >= 14 else version < 7 and not r.attr("is_test", 0):
        statistics(r, 0, [a for a in range(len(axes)) if a != 1])
    r.out(axes)
    for slot in range(1, len(r.node.outputs)):
        if r.node.outputs[slot]:
            r.out([r.axis(1, a) for a in range(r.rank(1))], slot)


@rule("InstanceNormalization", kind="STAT", level="restricted")
def instance_norm(r: Relate) -> None:
    """Statistics over the spatial axes, parameters on axis 1."""
    axes = r.axes(0)
    parameters(r, (1, 2), axes[1])
    statistics(r, 0, range(2, len(axes)))
    r.out(axes)


def norm_groups(e: Edit) -> None:
    """Whole groups leave together; the others keep their number."""
    groups = int(e.attr("num_groups"))
    kept = e.kept(0, 1)
    if kept is not None:
        per_group = e.in_shape(0)[1] // groups
        e.change.attrs["num_groups"] = len(set((kept // per_group).tolist()))


@rule("GroupNormalization", kind="STAT", edit=norm_groups, level="restricted")
def group_norm(r: Relate) -> None:
    """Channels are (group, offset); scale and bias are per group before opset 21, per channel since."""
    axes = r.axes(0)
    groups = int(r.attr("num_groups"))
    outer, _ = r.split(axes[1], groups, axes[1].n // groups)
    parameters(r, (1, 2), outer if r.node.version < 21 else axes[1])
    statistics(r, 0, range(1, len(axes)))
    r.out(axes)


@rule(
    "LayerNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
    kind="STAT",
    level="restricted",
)
def layer_norm(r: Relate) -> None:
    """Statistics over the last axes, from ``axis`` on; scale and bias lie along them."""
    axes = r.axes(0)
    start = int(r.attr("axis", -1)) % len(axes)
    for slot in (1, 2):
        if r.has(slot):
            for a in range(1, r.rank(slot) + 1):
                if r.shape(slot)[-a] != 1:
                    r.tie(slot, -a, axes[-a])
    statistics(r, 0, range(start, len(axes)))
    r.out(axes)
    for slot in range(1, len(r.node.outputs)):
        r.out([*axes[:start], *(r.frozen(1, "an axis of one position") for _ in axes[start:])], slot)


@rule("LpNormalization", "MeanVarianceNormalization", kind="STAT", level="restricted")
def lp_norm(r: Relate) -> None:
    """Statistics over the listed axes."""
    axes = r.axes(0)
    default = [0, 2, 3] if r.node.op == "MeanVarianceNormalization" else [int(r.attr("axis", -1))]
    for a in r.attr("axes") or default:
        statistics(r, 0, range(a % len(axes), a % len(axes) + 1))
    r.out(axes)


@rule("Softmax", "LogSoftmax", "Hardmax", kind="STAT")
def softmax(r: Relate) -> None:
    """Positions that are summed to one cannot leave without changing the others."""
    axes = r.axes(0)
    old = r.node.version < 13
    start = int(r.attr("axis", 1 if old else -1)) % len(axes)
    for a in range(start, len(axes) if old else start + 1):
        r.freeze(0, a, "its values are normalised to sum to one")
    r.out(axes)
