"""Operators that lay the same elements out in other axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphprune.algebra import Axis
from graphprune.graph.fuse import PERMUTE
from graphprune.graph.model import Value
from graphprune.rules.context import Relate
from graphprune.rules.edit import COMPUTED, Edit, new_positions
from graphprune.rules.registry import rule

Sizes = tuple[tuple[int, bool], ...]


def reshaped(r: Relate, axes: Sequence[Axis], start: Value, end: Value) -> list[Axis]:
    """Labels after a reshape: input and output axes are matched in groups of equal products, left to right."""
    assert start.shape is not None
    assert end.shape is not None
    flat = [factor for a, d in zip(axes, start.dynamic, strict=True) for factor in (a.parts or [(a, d)])]
    old = [(a.n, d, a) for a, d in flat if a.n != 1 or d]
    new = [(i, n, d) for i, (n, d) in enumerate(zip(end.shape, end.dynamic, strict=True)) if n != 1 or d]
    out = [r.frozen(max(n, 0), "it has one position, or is made of axes that cannot be cut") for n in end.shape]
    for left, right in _matched([(n, d) for n, d, _ in old], [(n, d) for _, n, d in new]):
        mine = [old[i][2] for i in left]
        theirs = [new[j] for j in right]
        if len(mine) == 1 and len(theirs) == 1:
            out[theirs[0][0]] = mine[0]
            continue
        if any(old[i][1] for i in left) or any(d for _, _, d in theirs):
            _peel(r, [(old[i][2], old[i][1]) for i in left], theirs, out)
            continue
        sizes = [n for _, n, _ in theirs]
        merged = r.merge(*mine)
        if merged.n != int(np.prod(sizes, dtype=np.int64)):
            _freeze_dynamic(r, mine)
            continue
        for (j, _, _), axis in zip(theirs, r.split(merged, *sizes), strict=True):
            out[j] = axis
    return out


def matched_axes(start: Value, end: Value) -> list[tuple[list[int], list[int]]]:
    """Minimal runs of input and output axes with equal products, left to right; axes of one position are left out."""
    assert start.shape is not None
    assert end.shape is not None
    old = [(a, n, d) for a, (n, d) in enumerate(zip(start.shape, start.dynamic, strict=True)) if n != 1 or d]
    new = [(a, n, d) for a, (n, d) in enumerate(zip(end.shape, end.dynamic, strict=True)) if n != 1 or d]
    runs = _matched([(n, d) for _, n, d in old], [(n, d) for _, n, d in new])
    return [([old[i][0] for i in left], [new[j][0] for j in right]) for left, right in runs]


def _peel(r: Relate, left: list[tuple[Axis, bool]], right: list[tuple[int, int, bool]], out: list[Axis]) -> None:
    """Match a run with a dynamic size from its static ends, right before left; what remains becomes one product."""
    right = list(right)
    while len(right) > 1 and left and not left[-1][1] and not right[-1][2]:
        (axis, _), (j, size, _) = left.pop(), right.pop()
        while axis.n < size and size % axis.n == 0 and left and not left[-1][1]:
            axis = r.merge(left.pop()[0], axis)
        if axis.n % size:
            _freeze_dynamic(r, [axis])
            break
        if axis.n > size:
            outer, axis = r.split(axis, axis.n // size, size)
            left.append((outer, False))
        out[j] = axis
    while len(right) > 1 and left and not left[0][1] and not right[0][2] and left[0][0].n % right[0][1] == 0:
        (axis, _), (j, size, _) = left.pop(0), right.pop(0)
        if axis.n > size:
            axis, inner = r.split(axis, size, axis.n // size)
            left.insert(0, (inner, False))
        out[j] = axis
    if len(right) == 1 and right[0][1] == int(np.prod([a.n for a, _ in left], dtype=np.int64)):
        out[right[0][0]] = r.product(left)
    else:
        _freeze_dynamic(r, [a for a, _ in left])


def _freeze_dynamic(r: Relate, axes: Sequence[Axis]) -> None:
    for axis in axes:
        if not axis.frozen:
            r.store.freeze(axis, r.why("it is reshaped together with an axis whose size changes"))


def _matched(old: Sequence[tuple[int, bool]], new: Sequence[tuple[int, bool]]) -> list[tuple[range, range]]:
    """Minimal runs of old and new sizes with equal products.

    A dynamic size only equals the same dynamic size; a run that starts with one side dynamic takes in
    everything up to the next position where plain sizes agree from the right.
    """
    groups: list[tuple[range, range]] = []
    i = j = 0
    while i < len(old) and j < len(new):
        i0, j0 = i, j
        if old[i] == new[j]:
            i, j = i + 1, j + 1
        else:
            i, j = _run(old, new, i, j)
        groups.append((range(i0, i), range(j0, j)))
    if groups and (i < len(old) or j < len(new)):
        (left, right) = groups.pop()
        groups.append((range(left.start, len(old)), range(right.start, len(new))))
    return groups


def _run(old: Sequence[tuple[int, bool]], new: Sequence[tuple[int, bool]], i: int, j: int) -> tuple[int, int]:
    """Ends of the shortest run from (i, j) whose products agree and whose dynamic flags agree."""
    left, right = old[i][0], new[j][0]
    moving_left, moving_right = old[i][1], new[j][1]
    i, j = i + 1, j + 1
    while left != right or moving_left != moving_right:
        if (left < right and i < len(old)) or (j == len(new) and i < len(old)):
            left, moving_left, i = left * old[i][0], moving_left or old[i][1], i + 1
        elif j < len(new):
            right, moving_right, j = right * new[j][0], moving_right or new[j][1], j + 1
        else:
            break
    return i, j


def sizes_const(e: Edit, slot: int, *, infer: bool = False) -> None:
    """Set a shape operand to the new sizes; dynamic entries keep what the operand says for them.

    Args:
        e: The edit.
        slot: Input that holds the sizes.
        infer: Whether the operator accepts one -1, "whatever is left".
    """
    sizes, dynamic = e.out_sizes(), e.out_dynamic()
    moved = [e.moved_out(a) for a in range(len(sizes))]
    if not any(moved) and all(e.kept_out(a) is None for a in range(len(sizes))):
        return
    given = e.const(slot)
    literal = e.graph.varying.get(e.node.inputs[slot], (None,))[0] if e.has(slot) else None
    entries = list(sizes)
    for a in np.flatnonzero(dynamic):
        if given is not None and len(given) == len(sizes):
            entries[a] = int(given[a])
        elif infer and sum(dynamic) == 1:
            entries[a] = -1
        else:
            entries[a] = COMPUTED
            if moved[a] and not (literal is not None and literal[a] == -1):
                e.change.scaled[slot, int(a)] = e.out_ratio(int(a))
    e.change.consts[slot] = np.array(entries, np.int64)


def reshape_target(e: Edit) -> None:
    """The target names the new sizes; attribute before opset 5."""
    sizes_const(e, 1, infer=True)
    if not e.has(1) and 1 in e.change.consts:
        e.change.attrs["shape"] = [int(v) for v in e.change.consts.pop(1)]


@rule("Reshape", kind="REINDEX", edit=reshape_target)
def reshape(r: Relate) -> None:
    """The same elements in C order."""
    r.out(reshaped(r, r.axes(0), r.value(0), r.output()))


@rule("Flatten", kind="REINDEX")
def flatten(r: Relate) -> None:
    """Two axes: everything before ``axis`` and everything from it on."""
    r.out(reshaped(r, r.axes(0), r.value(0), r.output()))


def squeezed_axes(e: Edit) -> None:
    """Without a list all axes of one position leave; that must not take in what a removal left of an axis."""
    if e.has(1) or e.attr("axes") is not None:
        return
    shape = e.in_shape(0)
    if any(e.kept(0, a) is not None for a in range(len(shape))):
        axes = np.flatnonzero(np.array(shape) == 1)
        if e.node.version < 13:
            e.change.attrs["axes"] = axes.tolist()
        else:
            e.change.consts[1] = axes


@rule("Squeeze", kind="REINDEX", edit=squeezed_axes)
def squeeze(r: Relate) -> None:
    """Axes of one position leave."""
    unsqueeze(r)


@rule("Unsqueeze", kind="REINDEX")
def unsqueeze(r: Relate) -> None:
    """Axes of one position come."""
    r.out(reshaped(r, r.axes(0), r.value(0), r.output()))


@rule("Transpose", kind="REINDEX")
def transpose(r: Relate) -> None:
    """Axes in another order."""
    rank = r.rank(0)
    r.out([r.axis(0, int(p)) for p in r.attr("perm") or range(rank)[::-1]])


def permute_gather(e: Edit) -> None:
    """A permutation of what is kept is no longer a shuffle of equal blocks: read it through an index."""
    axis, perm = int(e.attr("axis")), e.attr("perm")
    kept, source = e.kept_out(axis), e.kept(0, axis)
    e.change.op = ("Gather", (0,))
    e.change.attrs.update(axis=axis, perm=None)
    e.change.consts[1] = perm if kept is None or source is None else new_positions(source, len(perm))[perm[kept]]


@rule(f"graphprune.{PERMUTE}", kind="REINDEX", edit=permute_gather)
def axis_permute(r: Relate) -> None:
    """Output position p of the axis reads input position perm[p]."""
    axes = r.axes(0)
    axis = int(r.attr("axis"))
    axes[axis] = r.index(axes[axis], r.attr("perm"))
    r.out(axes)


def _channel_first(r: Relate) -> bool:
    """Whether blocks are behind the channel they belong to: CRD mode."""
    return r.attr("mode", "DCR") in ("CRD", b"CRD")


@rule("DepthToSpace", kind="REINDEX")
def depth_to_space(r: Relate) -> None:
    """Channels are (block, block, C) in DCR mode and (C, block, block) in CRD mode; whole C leave."""
    b = int(r.attr("blocksize"))
    axes = r.axes(0)
    keep = axes[1].n // (b * b)
    crd = _channel_first(r)
    parts = r.split(axes[1], keep, b, b) if crd else r.split(axes[1], b, b, keep)
    channel = parts[0] if crd else parts[2]
    for block in parts[1:] if crd else parts[:2]:
        r.store.freeze(block, r.why("sub-pixel positions cannot leave"))
    for a in (2, 3):
        r.freeze(0, a, "sub-pixel positions are interleaved with it")
    out = r.output().shape
    assert out is not None
    r.out([axes[0], channel, *(r.frozen(n, "sub-pixel positions are interleaved with it") for n in out[2:])])


@rule("SpaceToDepth", kind="REINDEX")
def space_to_depth(r: Relate) -> None:
    """Channels become (block, block, C) in DCR mode and (C, block, block) in CRD mode."""
    b = int(r.attr("blocksize"))
    block, channel = r.frozen(b, "sub-pixel positions cannot leave"), r.axis(0, 1)
    crd = _channel_first(r)
    for a in (2, 3):
        r.freeze(0, a, "it is cut into blocks")
    out = r.output().shape
    assert out is not None
    r.out(
        [
            r.axis(0, 0),
            r.merge(channel, block, block) if crd else r.merge(block, block, channel),
            *(r.frozen(n, "cut into blocks") for n in out[2:]),
        ]
    )
