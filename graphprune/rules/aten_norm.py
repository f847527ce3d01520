"""PyTorch's normalisations: per-channel parameters, and statistics restricted to what is kept."""

from __future__ import annotations

from collections.abc import Iterable

from graphprune.rules.aten import aten, given, slot
from graphprune.rules.context import Relate
from graphprune.rules.edit import Edit
from graphprune.rules.kinds import parameters


def statistics(r: Relate, axes: Iterable[int]) -> None:
    """The node takes statistics over some axes of its first input."""
    for a in axes:
        if not r.axis(0, a).frozen:
            r.contract(0, a, "restrict")


@aten("batch_norm", "instance_norm", "native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
      "_native_batch_norm_legit", "_native_batch_norm_legit_functional", kind="PARAM")  # fmt: skip
def batch_norm(r: Relate) -> None:
    """Parameters and running statistics belong to axis 1; without running statistics those of the input are used."""
    axes = r.axes(0)
    at = 1 if len(axes) > 1 else 0
    parameters(r, given(r, "weight", "bias", "running_mean", "running_var"), axes[at])
    if "instance" in r.node.op:
        if r.attr("use_input_stats"):
            statistics(r, range(2, len(axes)))
    elif r.attr("training") or slot(r, "running_mean") < 0:
        statistics(r, (a for a in range(len(axes)) if a != at))
    r.out(axes)
    for k in range(1, len(r.node.outputs)):
        if r.node.outputs[k]:
            n = (r.output(k).shape or (0,))[0]
            r.out([axes[at] if n == axes[at].n else r.frozen(n, "statistics that are not kept")], k)


def norm_groups(e: Edit) -> None:
    """Whole groups leave together; the others keep their number."""
    kept = e.kept(0, 1)
    name = "num_groups" if "num_groups" in e.node.attrs else "group"
    groups = int(e.attr(name))
    if kept is not None:
        per_group = e.in_shape(0)[1] // groups
        left = len(set((kept // per_group).tolist()))
        if left != groups:
            e.change.attrs[name] = left


@aten("group_norm", kind="STAT", edit=norm_groups, level="restricted")
def group_norm(r: Relate) -> None:
    """Channels are (group, offset)."""
    axes = r.axes(0)
    groups = int(r.attr("num_groups"))
    r.split(axes[1], groups, axes[1].n // groups)
    parameters(r, given(r, "weight", "bias"), axes[1])
    statistics(r, range(1, len(axes)))
    r.out(axes)


def normalized_shape(e: Edit) -> None:
    """The normalised sizes follow the input."""
    listed = [int(n) for n in e.attr("normalized_shape")]
    new = e.out_sizes()[-len(listed) :]
    if new != listed:
        e.change.attrs["normalized_shape"] = new


@aten("layer_norm", "rms_norm", "native_layer_norm", "_fused_rms_norm", kind="STAT", edit=normalized_shape,
      level="restricted")  # fmt: skip
def layer_norm(r: Relate) -> None:
    """Statistics over the last axes; weight and bias lie along them."""
    axes = r.axes(0)
    start = len(axes) - len(r.attr("normalized_shape"))
    for s in given(r, "weight", "bias"):
        for a in range(1, r.rank(s) + 1):
            r.tie(s, -a, axes[-a])
    statistics(r, range(start, len(axes)))
    r.out(axes)
    for k in range(1, len(r.node.outputs)):
        r.out([*axes[:start], *(r.frozen(1, "an axis of one position") for _ in axes[start:])], k)


@aten("softmax", "log_softmax", "_softmax", "_log_softmax", "_safe_softmax", kind="STAT")
def softmax(r: Relate) -> None:
    """Positions that are summed to one cannot leave without changing the others."""
    axes = r.axes(0)
    r.freeze(0, int(r.attr("dim")) % max(len(axes), 1), "its values are normalised to sum to one")
    r.out(axes)


@aten("_weight_norm", "_weight_norm_interface", kind="STAT", level="restricted")
def weight_norm(r: Relate) -> None:
    """Directions v and lengths g, one for each position of ``dim``; the length of v is that of what is kept."""
    axes = r.axes(0)
    dim = int(r.attr("dim")) % len(axes)
    for a in range(r.rank(1)):
        if r.shape(1)[a] != 1:
            r.tie(1, a, axes[a])
    statistics(r, (a for a in range(len(axes)) if a != dim))
    r.out(axes)
    for k in range(1, len(r.node.outputs)):
        r.out(r.axes(1), k)
