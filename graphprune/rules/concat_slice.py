"""Joining and cutting along axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphprune.graph.model import Array
from graphprune.rules.context import Relate, Unsupported
from graphprune.rules.edit import Edit, new_positions
from graphprune.rules.registry import rule

INT_MAX = int(np.iinfo(np.int64).max)


@rule("Concat", kind="REINDEX")
def concat(r: Relate) -> None:
    """All inputs one after the other."""
    join(r, [s for s in range(len(r.node.inputs)) if r.has(s)])


def join(r: Relate, slots: Sequence[int]) -> None:
    """Some inputs one after the other along ``axis``; their other axes are tied."""
    axis = int(r.attr("axis", 1)) % r.rank(slots[0])
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
    if e.kept(0, axis) is None:
        return
    sizes = np.array([e.out_sizes(s)[axis] for s in range(len(e.node.outputs))], np.int64)
    if e.node.version < 13 and not e.has(1):
        e.change.attrs["split"] = sizes.tolist()
    else:
        e.change.consts[1] = sizes
        e.change.attrs["num_outputs"] = None


@rule("Split", kind="REINDEX", edit=split_sizes)
def split(r: Relate) -> None:
    """Consecutive parts of an axis."""
    axis = int(r.attr("axis", 0)) % r.rank(0)
    if not all(r.node.outputs):
        raise Unsupported("outputs are left out, so nothing tells where the others begin")
    start = 0
    for slot in range(len(r.node.outputs)):
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


def sliced_positions(
    operands: list[Array | None], attrs: Mapping[str, Any], shape: tuple[int, ...]
) -> dict[int, Array] | None:
    """Positions that a Slice reads, by axis; None when its bounds are not fixed.

    Args:
        operands: Starts, ends, axes and steps, None where left out.
        attrs: Attributes, which hold the bounds before opset 10.
        shape: Sizes of the input.
    """
    cut = _slices(operands, attrs, shape)
    return None if cut is None else {a: c.positions for a, c in cut.items()}


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
