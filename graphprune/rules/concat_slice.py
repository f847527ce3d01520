"""Joining, cutting, padding, repeating and resizing along axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphprune.algebra import Axis
from graphprune.graph.model import Array
from graphprune.rules.context import Relate
from graphprune.rules.edit import Edit, new_positions
from graphprune.rules.kinds import no_labels
from graphprune.rules.registry import rule
from graphprune.rules.reshape import sizes_const

INT_MAX = int(np.iinfo(np.int64).max)


@rule("Concat", kind="REINDEX")
def concat(r: Relate) -> None:
    """One after the other along ``axis``; the other axes are tied."""
    slots = [s for s in range(len(r.node.inputs)) if r.has(s)]
    axis = int(r.attr("axis")) % r.rank(0)
    lead = min(slots, key=r.unlabelled)
    axes = r.axes(lead)
    for slot in slots:
        if slot != lead:
            for a in range(len(axes)):
                if a != axis:
                    r.tie(slot, a, axes[a])
    axes[axis] = r.concat([r.axis(s, axis) for s in slots])
    r.out(axes)


def split_sizes(e: Edit) -> None:
    """Every part gets its new size; equal parts were only implied when no sizes were given."""
    axis = int(e.attr("axis", 0)) % len(e.in_shape(0))
    outputs = [s for s, name in enumerate(e.node.outputs) if name]
    if e.kept(0, axis) is None:
        return
    sizes = np.array([e.out_sizes(s)[axis] for s in outputs], np.int64)
    if e.node.version < 13:
        e.change.attrs["split"] = sizes.tolist()
    else:
        e.change.consts[1] = sizes
        e.change.attrs["num_outputs"] = None


@rule("Split", kind="REINDEX", edit=split_sizes)
def split(r: Relate) -> None:
    """Consecutive parts of an axis."""
    axis = int(r.attr("axis", 0)) % r.rank(0)
    start = 0
    for slot, name in enumerate(r.node.outputs):
        if not name:
            continue
        shape = r.output(slot).shape
        assert shape is not None
        axes = r.axes(0)
        axes[axis] = r.index(axes[axis], np.arange(start, start + shape[axis]))
        if shape[axis] == 1:
            r.store.freeze(axes[axis], r.why("a single position is cut out"))
        start += shape[axis]
        r.out(axes, slot)


@dataclass(frozen=True, slots=True)
class _Cut:
    """One sliced axis: its bounds as given, and the positions they read."""

    start: int
    end: int
    step: int
    positions: Array


def _slices(operands: list[Array | None], attrs: Mapping[str, Any], shape: tuple[int, ...]) -> dict[int, _Cut] | None:
    """Sliced axes; None when the bounds are not fixed."""
    starts, ends, axes, steps = operands
    if "starts" in attrs:
        starts, ends = np.array(attrs["starts"]), np.array(attrs["ends"])
        axes = np.array(attrs["axes"]) if attrs.get("axes") else None
    if starts is None or ends is None:
        return None
    which = range(starts.size) if axes is None else [int(a) % len(shape) for a in axes.ravel()]
    hops = np.ones(starts.size, np.int64) if steps is None else steps.ravel()
    return {
        a: _Cut(int(s), int(e), int(h), np.arange(shape[a])[slice(*_bounds(int(s), int(e), int(h), shape[a]))])
        for a, s, e, h in zip(which, starts.ravel(), ends.ravel(), hops, strict=True)
    }


def _bounds(start: int, end: int, step: int, n: int) -> tuple[int | None, int | None, int]:
    """Bounds as numpy takes them: an end before the first element of a backward slice is open."""
    if step < 0 and end < -n:
        return start, None, step
    return start, end, step


def _slice_inputs(has: list[bool], const: list[Array | None]) -> list[Array | None] | None:
    """Bounds, or None when one is given but not fixed."""
    if any(h and c is None for h, c in zip(has, const, strict=True)):
        return None
    return const


def slice_bounds(e: Edit) -> None:
    """New bounds where the kept positions are an interval, an index otherwise."""
    operands = [e.const(s) for s in range(1, 5)]
    cut = _slices(operands, dict(e.node.attrs), e.in_shape(0))
    if cut is None:
        return
    bounds: list[tuple[int, int, int, int]] = []
    for a, old in cut.items():
        source, kept = e.kept(0, a), e.kept_out(a)
        if source is None:
            bounds.append((old.start, old.end, a, old.step))
            continue
        index = new_positions(source, e.in_shape(0)[a])[old.positions if kept is None else old.positions[kept]]
        if not len(index):
            bounds.append((0, 0, a, 1))
            continue
        step = int(index[1] - index[0]) if len(index) > 1 else 1
        if not (np.diff(index) == step).all():
            e.change.gathers.append((0, a, index))
            continue
        last = int(index[-1]) + (1 if step > 0 else -1)
        bounds.append((int(index[0]), last if last >= 0 else -INT_MAX, a, step))
    if all(e.kept(0, a) is None for a in cut):
        return
    bounds = bounds or [(0, INT_MAX, 0, 1)]  # everything went into gathers: what is left is a whole slice
    starts, ends, axes, steps = (list(column) for column in zip(*bounds, strict=True))
    if "starts" in e.node.attrs:
        e.change.attrs.update(starts=starts, ends=ends, axes=axes)
    else:
        for slot, vector in enumerate((starts, ends, axes, steps), 1):
            e.change.consts[slot] = np.array(vector, np.int64)


@rule("Slice", kind="REINDEX", edit=slice_bounds)
def slice_(r: Relate) -> None:
    """Every axis is read at fixed positions."""
    axes = r.axes(0)
    operands = _slice_inputs([r.has(s) for s in range(1, 5)], [r.const(s) for s in range(1, 5)])
    cut = None if operands is None else _slices(operands, dict(r.node.attrs), r.shape(0))
    out = r.output().shape
    assert out is not None
    if cut is None:
        named = r.ints(3)
        for a in range(len(axes)) if named is None else [x % len(axes) for x in named]:
            r.freeze(0, a, "it is sliced at positions that are not fixed")
            axes[a] = r.frozen(out[a], "it is sliced at positions that are not fixed")
        r.out(axes)
        return
    for a, one in cut.items():
        positions = one.positions
        if len(positions) == axes[a].n and (positions == np.arange(axes[a].n)).all():
            continue
        picked = r.index(axes[a], positions)
        if len(positions) == 1:
            r.store.freeze(picked, r.why("a single position is cut out"))
        axes[a] = picked
    r.out(axes)


def pad_counts(e: Edit) -> None:
    """Removed padding positions are simply not added."""
    pads, axes = _pads(e.const(1), e.attr("pads"), e.const(3), len(e.in_shape(0)))
    if pads is None or all(e.kept_out(a) is None for a in range(len(e.in_shape(0)))):
        return
    new = [list(p) for p in pads]
    for a, (before, after) in enumerate(pads):
        kept = e.kept_out(a)
        if kept is not None:
            n = e.out_shape()[a]
            new[a] = [int((kept < before).sum()), int((kept >= n - max(after, 0)).sum())] if min(before, after) >= 0 else new[a]
    listed = [new[a] for a in axes]
    flat = [p[0] for p in listed] + [p[1] for p in listed]
    if e.has(1):
        e.change.consts[1] = np.array(flat, np.int64)
    else:
        e.change.attrs["pads"] = flat


def _pads(
    operand: Array | None, attr: list[int] | None, named: Array | None, rank: int
) -> tuple[list[tuple[int, int]] | None, list[int]]:
    """(before, after) per axis, and the axes in the order the node lists them."""
    flat = [int(p) for p in (attr if attr is not None else ([] if operand is None else operand.ravel()))]
    axes = list(range(rank)) if named is None else [int(a) % rank for a in named.ravel()]
    if not flat:
        return None, axes
    pads = [(0, 0)] * rank
    for i, a in enumerate(axes):
        pads[a] = (flat[i], flat[i + len(axes)])
    return pads, axes


@rule("Pad", kind="REINDEX", edit=pad_counts)
def pad(r: Relate) -> None:
    """Constant padding adds positions that may be left out again; other modes repeat positions that must stay."""
    axes = r.axes(0)
    fixed_axes = r.const(3) if r.has(3) else None
    pads, _ = _pads(r.const(1), r.attr("pads"), fixed_axes, len(axes))
    out = r.output().shape
    assert out is not None
    constant = r.attr("mode", "constant") in ("constant", b"constant")
    for a in range(len(axes)):
        before, after = pads[a] if pads is not None else (0, 0)
        if pads is not None and before == after == 0:
            continue
        if pads is None or r.value(0).dynamic[a] or not (constant or max(before, after) <= 0) or axes[a].frozen:
            r.freeze(0, a, "it is padded")
            axes[a] = r.frozen(out[a], "it is padded")
            continue
        body = r.index(axes[a], np.arange(max(-before, 0), axes[a].n - max(-after, 0)))
        parts = [body]
        if before > 0:
            parts.insert(0, _new_positions(r, before, min(before, after) >= 0))
        if after > 0:
            parts.append(_new_positions(r, after, min(before, after) >= 0))
        axes[a] = r.concat(parts)
    r.out(axes)


def _new_positions(r: Relate, n: int, removable: bool) -> Axis:  # noqa: FBT001
    return r.store.fresh(n) if removable else r.frozen(n, "it is padded")


def expand_target(e: Edit) -> None:
    """The shape operand names the new sizes."""
    sizes_const(e, 1)


@rule("Expand", kind="EXPAND", edit=expand_target)
def expand(r: Relate) -> None:
    """An axis of one position is repeated into free positions; the others pass."""
    out = r.output()
    assert out.shape is not None
    axes = [r.fresh(n) if not d else r.frozen(n, "its size changes") for n, d in zip(out.shape, out.dynamic, strict=True)]
    offset = len(axes) - r.rank(0)
    for a in range(r.rank(0)):
        if r.shape(0)[a] != 1 or r.value(0).dynamic[a]:
            axes[offset + a] = r.axis(0, a)
    r.out(axes)


def tile_repeats(e: Edit) -> None:
    """Repeats of an axis of one position follow its new size."""
    repeats = e.const(1)
    if repeats is None:
        return
    new = repeats.astype(np.int64).copy()
    for a, size in enumerate(e.in_shape(0)):
        if size == 1 and e.kept_out(a) is not None:
            new[a] = e.out_sizes()[a]
    if not np.array_equal(new, repeats):
        e.change.consts[1] = new


@rule("Tile", kind="EXPAND", edit=tile_repeats)
def tile(r: Relate) -> None:
    """Whole copies one after the other; a number of copies that follows the input is a dynamic factor."""
    axes = r.axes(0)
    out = r.output()
    assert out.shape is not None
    repeats = r.const(1)
    counts = (repeats, repeats) if repeats is not None else r.graph.varying.get(r.node.inputs[1])
    for a in range(len(axes)):
        if counts is None:
            r.freeze(0, a, "it is repeated a number of times that depends on data")
            axes[a] = r.frozen(out.shape[a], "it is repeated a number of times that depends on data")
            continue
        times, other = int(counts[0].ravel()[a]), int(counts[1].ravel()[a])
        if times != other:
            copies = r.frozen(times, "copies that follow the input size")
            axes[a] = r.product([(copies, True), (axes[a], r.value(0).dynamic[a])])
        elif times > 1:
            axes[a] = r.fresh(times) if axes[a].n == 1 else r.merge(r.frozen(times, "copies"), axes[a])
    r.out(axes)


def resize_sizes(e: Edit) -> None:
    """Sizes given outright follow the new widths."""
    if e.has(3) and e.attr("axes") is None:
        sizes_const(e, 3)


@rule("Resize", "Upsample", kind="REINDEX", edit=resize_sizes)
def resize(r: Relate) -> None:
    """Axes that keep their size pass; the resized ones stay as they are."""
    axes = r.axes(0)
    out = r.output()
    assert out.shape is not None
    named = r.attr("axes")
    for a in range(len(axes)):
        touched = a >= 2 if r.value(0).dynamic[a] else out.shape[a] != axes[a].n
        if touched or (named is not None and a in [x % len(axes) for x in named]):
            r.freeze(0, a, "it is interpolated")
            axes[a] = r.frozen(out.shape[a], "it is interpolated")
    r.out(axes)


def fill_shape(e: Edit) -> None:
    """The shape operand names the new sizes."""
    sizes_const(e, 0)


@rule("ConstantOfShape", kind="EXPAND", edit=fill_shape)
def constant_of_shape(r: Relate) -> None:
    """A fill is as wide as its shape operand says: fixed axes are free."""
    out = r.output()
    assert out.shape is not None
    r.out([r.frozen(n, "its size changes") if d else r.fresh(n) for n, d in zip(out.shape, out.dynamic, strict=True)])


def shape_entries(e: Edit) -> None:
    """What the model computes from its sizes stays what it was: entries of cut axes keep the original size."""
    rank = len(e.in_shape(0))
    entries = range(rank)[slice(int(e.attr("start", 0)), int(e.attr("end", rank)))]
    for position, a in enumerate(entries):
        if e.kept(0, a) is not None:
            e.change.fixed[position] = e.in_shape(0)[a]


rule("Shape", kind="SIZES", edit=shape_entries)(no_labels)
rule("Range", "EyeLike", "RandomNormal", "RandomUniform", kind="SIZES")(no_labels)


@rule("Size", kind="SIZES")
def size(r: Relate) -> None:
    """The number of elements enters the computation: where it is not a constant, nothing may leave."""
    if r.node.outputs[0] not in r.graph.constants:
        r.freeze_all(0, "its number of elements is computed")
    r.out_frozen(0, "computed from sizes")
