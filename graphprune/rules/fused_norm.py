"""onnxruntime's norms that add, look up or activate as well."""

from __future__ import annotations

from graphprune.rules.context import Relate
from graphprune.rules.edit import Edit
from graphprune.rules.kinds import broadcast, statistics
from graphprune.rules.registry import rule


@rule(
    "com.microsoft.SkipLayerNormalization",
    "com.microsoft.SkipSimplifiedLayerNormalization",
    kind="STAT",
    level="restricted",
)
def skip_norm(r: Relate) -> None:
    """Input + skip + bias, normalised over the last axis; the sum comes out as the fourth output."""
    axes = broadcast(r, range(len(r.node.inputs)))
    plain = r.node.op == "SkipLayerNormalization"  # with an offset after the scale
    for slot in (0, 1, 4 if plain else 3):
        statistics(r, slot, [-1])
    r.out(axes, 0)
    one = r.frozen(1, "an axis of one position")
    for slot in (1, 2):
        r.out([*axes[:-1], one], slot)
    r.out(axes, 3)


@rule("com.microsoft.EmbedLayerNormalization", kind="STAT", level="restricted")
def embed_norm(r: Relate) -> None:
    """Word, position and segment tables looked up, added and normalised: one width."""
    width = r.axis(2, 1)
    for slot in (2, 3, 4):
        if r.has(slot):
            r.freeze(slot, 0, "it is read at computed indices")
            r.tie(slot, 1, width)
    for slot in (5, 6):
        if r.has(slot):
            r.tie(slot, 0, width)
    for slot in (0, 1, 7, 8):
        if r.has(slot):
            r.freeze_all(slot, "its values are indices")
    for slot in (2, 3, 4):
        statistics(r, slot, [1])
    for slot in (0, 2):
        if slot < len(r.node.outputs) and r.node.outputs[slot]:
            r.out([*r.axes(0), width], slot)
    r.out_frozen(1, "it counts tokens")


def norm_groups(e: Edit) -> None:
    """Whole groups leave together; the others keep their number."""
    axis = len(e.in_shape(0)) - 1 if e.attr("channels_last", 1) else 1
    kept = e.kept(0, axis)
    if kept is not None:
        per_group = e.in_shape(0)[axis] // int(e.attr("groups"))
        e.change.attrs["groups"] = len(set((kept // per_group).tolist()))


@rule("com.microsoft.GroupNorm", "com.microsoft.SkipGroupNorm", kind="STAT", edit=norm_groups, level="restricted")
def group_norm(r: Relate) -> None:
    """Channels, last unless told otherwise, are (group, offset); a skip tensor and a bias are added first."""
    axes = r.axes(0)
    axis = len(axes) - 1 if r.attr("channels_last", 1) else 1
    groups = int(r.attr("groups"))
    r.split(axes[axis], groups, axes[axis].n // groups)
    for slot in (1, 2, 4):
        if r.has(slot):
            r.tie(slot, 0, axes[axis])
    if r.has(3):
        r.tie(3, r.rank(3) - 1 if r.rank(3) == 2 else axis, axes[axis])
        for a in range(1 if r.rank(3) == 2 else r.rank(3)):
            if a != axis and r.shape(3)[a] == axes[a].n:
                r.tie(3, a, axes[a])
    statistics(r, 0, range(1, len(axes)))
    if r.has(3):  # added before the statistics, as the bias is
        statistics(r, 3, range(1, r.rank(3)))
    statistics(r, 4)
    for slot in range(len(r.node.outputs)):
        r.out(axes, slot)
