"""The same elements in other places."""

from __future__ import annotations

import numpy as np

from graphprune.folding.interval import MAX_POSITIONS, Interval, Unbounded
from graphprune.folding.step import Outcome, Step, bounds
from graphprune.graph.fuse import PERMUTE
from graphprune.graph.model import Value
from graphprune.rules.concat_slice import sliced_positions
from graphprune.rules.reshape import matched_axes


@bounds("Transpose")
def transpose(s: Step) -> Outcome:
    """Axes in another order."""
    x = s.x(0)
    perm = [int(p) for p in s.attr("perm") or range(len(x.shape))[::-1]]
    return Interval(x.lo.transpose(perm), x.hi.transpose(perm))


@bounds("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(s: Step) -> Outcome:
    """Runs of axes with equal products are laid out again; a run with a dynamic size is summed up."""
    return reshaped(s.x(0), s.graph.values[s.node.inputs[0]], s.graph.values[s.node.outputs[0]])


def reshaped(x: Interval, start: Value, end: Value) -> Interval:
    """Bounds after a reshape from one shape to another."""
    assert start.shape is not None
    if end.shape is None:
        raise Unbounded
    pattern = [1] * len(end.shape)
    runs = matched_axes(start, end)
    for a in set(range(len(start.shape))) - {a for left, _ in runs for a in left}:
        x = x.hull(a)
    for left, right in runs:
        others = x.lo.size // int(np.prod([x.shape[a] for a in left]))
        plain = all(x.shape[a] == 1 for a in left)
        moving = any(start.dynamic[a] for a in left) or any(end.dynamic[a] for a in right)
        size = int(np.prod([start.shape[a] for a in left], dtype=np.int64))
        whole = size == int(np.prod([end.shape[a] for a in right], dtype=np.int64))
        if plain or moving or not whole or size * others > MAX_POSITIONS:
            for a in left:
                x = x.hull(a)
            continue
        for a in left:
            x = x.wide(a, start.shape[a])
        for a in right:
            pattern[a] = end.shape[a]
    return Interval(np.ascontiguousarray(x.lo), np.ascontiguousarray(x.hi)).reshape(pattern)


@bounds("Concat")
def concat(s: Step) -> Outcome:
    """One after the other along the axis."""
    slots = [i for i in range(len(s.node.inputs)) if s.has(i)]
    axis = int(s.attr("axis")) % len(s.shape(slots[0]))
    if any(s.dynamic(i)[axis] for i in slots):
        found = [s.x(i).hull(axis) for i in slots]
        lo, hi = found[0].lo, found[0].hi
        for x in found[1:]:
            lo, hi = np.minimum(lo, x.lo), np.maximum(hi, x.hi)
        return Interval(lo, hi)
    parts = [s.x(i).wide(axis, s.shape(i)[axis]) for i in slots]
    pattern = [max(p.shape[a] for p in parts) for a in range(len(parts[0].shape))]
    for a, n in enumerate(pattern):
        if a != axis:
            parts = [p.wide(a, n) for p in parts]
    return Interval(np.concatenate([p.lo for p in parts], axis), np.concatenate([p.hi for p in parts], axis))


@bounds("Split")
def split(s: Step) -> Outcome:
    """Consecutive parts of an axis."""
    x, axis, start = s.x(0), int(s.attr("axis", 0)) % len(s.shape(0)), 0
    out: list[Interval | None] = []
    for slot, name in enumerate(s.node.outputs):
        if not name or s.dynamic(0)[axis]:
            raise Unbounded
        size = s.out_shape(slot)[axis]
        out.append(x.take(axis, np.arange(start, start + size)))
        start += size
    return out


@bounds("Slice")
def slice_(s: Step) -> Outcome:
    """Fixed positions of some axes; over a dynamic one only what holds everywhere is known."""
    x = s.x(0)
    operands = [s.graph.constant(s.node.inputs[i]) if s.has(i) else None for i in range(1, 5)]
    given = [s.has(i) for i in range(1, 5)]
    fixed = all(not g or o is not None for g, o in zip(given, operands, strict=True))
    cut = sliced_positions(operands, dict(s.node.attrs), s.shape(0)) if fixed else None
    for axis in range(len(x.shape)):
        if cut is not None and axis not in cut:
            continue
        x = x.hull(axis) if cut is None or s.dynamic(0)[axis] else x.take(axis, cut[axis])
    return x


@bounds("Gather")
def gather(s: Step) -> Outcome:
    """Fixed indices pick positions; computed ones may pick any."""
    x, axis = s.x(0), int(s.attr("axis", 0)) % len(s.shape(0))
    index = s.graph.constant(s.node.inputs[1])
    shape = s.shape(1)
    if index is None or s.dynamic(0)[axis] or x.shape[axis] == 1:
        x = x.hull(axis)
        return x.reshape([*x.shape[:axis], *(1 for _ in shape), *x.shape[axis + 1 :]])
    n = x.shape[axis]
    flat = np.asarray(index, np.int64).ravel()
    picked = x.take(axis, np.where(flat < 0, flat + n, flat))
    return picked.reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])


@bounds(f"graphprune.{PERMUTE}")
def permute(s: Step) -> Outcome:
    """A fixed permutation of one axis."""
    return s.x(0).take(int(s.attr("axis")), np.asarray(s.attr("perm")))


@bounds("Expand", "Tile")
def repeat(s: Step) -> Outcome:
    """Copies; an axis of several positions that is repeated is summed up."""
    x, shape, out = s.x(0), s.shape(0), s.out_shape()
    lead = len(out) - len(shape)
    for a, n in enumerate(shape):
        if out[lead + a] != n or s.graph.values[s.node.outputs[0]].dynamic[lead + a]:
            x = x.hull(a)
    return x.reshape((1,) * lead + x.shape)


@bounds("Pad")
def pad(s: Step) -> Outcome:
    """New positions hold the padding value; the other modes repeat what is there."""
    x, shape, out = s.x(0), s.shape(0), s.out_shape()
    fill = s.content(2) if s.has(2) else np.asarray(s.attr("value", 0.0))
    if fill is None:
        raise Unbounded
    value = float(fill.ravel()[0]) if fill.size else 0.0
    constant = s.attr("mode", "constant") == "constant"
    pads = s.ints(1) if s.has(1) else s.attr("pads")
    for a in range(len(shape)):
        if pads is not None and not s.has(3) and not pads[a] and not pads[a + len(shape)]:
            continue
        if pads is None or s.has(3) or shape[a] != out[a] or pads[a] or s.dynamic(0)[a]:
            x = x.hull(a)
            x = x.union(value, value) if constant else x
    return x


@bounds("DepthToSpace", "SpaceToDepth")
def blocks(s: Step) -> Outcome:
    """Channels to places within a block and back: what holds for all the block's channels."""
    x, b = s.x(0), int(s.attr("blocksize"))
    for a in (2, 3):
        x = x.hull(a)
    if x.shape[1] == 1:
        return x
    n = x.shape[1]
    lead = x.shape[0]
    if s.node.op == "SpaceToDepth":
        return Interval(np.tile(x.lo, (1, b * b, 1, 1)), np.tile(x.hi, (1, b * b, 1, 1)))
    crd = s.attr("mode", "DCR") == "CRD"
    x = x.reshape((lead, n // (b * b), b * b)).hull(2) if crd else x.reshape((lead, b * b, n // (b * b))).hull(1)
    return x.reshape((lead, n // (b * b), 1, 1))


@bounds("Resize", "Upsample")
def resize(s: Step) -> Outcome:
    """Nearest and linear interpolation stay between what is there; cubic keeps constants."""
    if s.attr("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise Unbounded
    x = s.x(0)
    for a, (n, m) in enumerate(zip(s.shape(0), s.out_shape(), strict=True)):
        if n != m or s.dynamic(0)[a]:
            x = x.hull(a)
    if s.attr("mode", "nearest") == "cubic":
        return Interval(np.where(x.constant, x.lo, -np.inf), np.where(x.constant, x.hi, np.inf))
    return x
