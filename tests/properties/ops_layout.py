"""Random operators that only move positions: concat, split, slice, gather, reshape and their kin."""

from __future__ import annotations

import numpy as np

from tests.properties.registry import op
from tests.properties.state import MAX_AXIS, MAX_RANK, State, Value, divisors, fits, replace


def _others(s: State, v: Value) -> list[tuple[Value, int]]:
    """Tensors to put beside ``v``, and along which axis."""
    found = []
    for w in reversed(s.pool):
        for axis in s.axes(v) if w.rank == v.rank else []:
            shape = replace(v.shape, axis, v.shape[axis] + w.shape[axis])
            if replace(w.shape, axis, v.shape[axis]) == v.shape and fits(shape):
                found.append((w, axis))
    return found


@op(lambda s, v: bool(_others(s, v)), weight=2)
def concat(s: State, v: Value) -> Value:
    w, axis = s.pick(_others(s, v))
    shape = replace(v.shape, axis, v.shape[axis] + w.shape[axis])
    return s.add("Concat", v, w.name, shape=shape, degree=max(v.degree, w.degree), axis=axis)


@op(lambda s, v: bool(s.axes(v, 2)))
def split(s: State, v: Value) -> list[Value]:
    axis = s.pick(s.axes(v, 2))
    n = v.shape[axis]
    if n % 2 == 0 and s.flag():
        sizes, more, attrs = [n // 2] * 2, [], {"num_outputs": 2}
    else:
        cut = s.number(1, n - 1)
        sizes, attrs = [cut, n - cut], {}
        more = [s.b.ints(*sizes)]
    outs = s.b.ops("Split", v.name, *more, outputs=2, axis=axis, **attrs)
    return [Value(o, replace(v.shape, axis, m), v.degree) for o, m in zip(outs, sizes, strict=True)]


@op(lambda s, v: bool(s.axes(v, 2)))
def slice_(s: State, v: Value) -> Value:
    axis = s.pick(s.axes(v, 2))
    n = v.shape[axis]
    start, step = s.number(0, n - 1), s.pick([1, 2, -1])
    end = -n - 1 if step < 0 else s.number(start + 1, n)
    kept = len(range(start, -1 if step < 0 else end, step))
    return Value(s.b.slice(v.name, axis, start, end, step), replace(v.shape, axis, kept), v.degree)


@op(lambda s, v: bool(s.axes(v, 2)))
def gather(s: State, v: Value) -> Value:
    """Constant indices: a permutation, a choice with repeats, a box of 2 x m, or a scalar."""
    axis = s.pick(s.axes(v, 2))
    n, m = v.shape[axis], s.number(1, 6)
    rng = s.b.rng
    kinds = [rng.permutation(n), rng.integers(-n, n, m)]
    if v.rank > 1 + s.first:
        kinds.append(np.asarray(rng.integers(0, n)))
    if v.rank < MAX_RANK:
        kinds.append(rng.integers(0, n, (2, m)))
    index = s.pick(kinds)
    shape = replace(v.shape, axis, *index.shape)
    return s.add("Gather", v, s.b.const(index), shape=shape, axis=axis)


@op(lambda s, v: v.rank >= 2 + s.first, weight=2)
def transpose(s: State, v: Value) -> Value:
    perm = list(range(s.first)) + s.shuffled(range(s.first, v.rank))
    return s.add("Transpose", v, shape=tuple(v.shape[i] for i in perm), perm=perm)


def _layouts(s: State, v: Value) -> list[tuple[int, ...]]:
    """Other factorisations of the axes: merge two, cut one, or cut the product of two differently."""
    found = []
    for i in range(s.first, v.rank):
        n = v.shape[i]
        found += [replace(v.shape, i, d, n // d) for d in divisors(n)[1:-1]]
        if i + 1 < v.rank:
            merged, rest = n * v.shape[i + 1], v.shape[i + 2 :]
            found.append((*v.shape[:i], merged, *rest))
            found += [(*v.shape[:i], d, merged // d, *rest) for d in divisors(merged)[1:-1] if d != n]
    return [shape for shape in found if fits(shape)]


@op(lambda s, v: bool(_layouts(s, v)), weight=3)
def reshape(s: State, v: Value) -> Value:
    """Targets with plain sizes, or with one of them hidden as -1."""
    shape = s.pick(_layouts(s, v))
    target = list(s.target(shape))
    if s.flag():
        target[s.number(s.first, len(shape) - 1)] = -1
    return Value(s.b.reshape(v.name, *target), shape, v.degree)


@op(lambda s, v: v.rank >= 2 + s.first and 1 in v.shape[s.first :])
def squeeze(s: State, v: Value) -> Value:
    axis = s.pick([i for i in s.axes(v) if v.shape[i] == 1])
    return s.add("Squeeze", v, s.b.ints(axis), shape=replace(v.shape, axis))


@op(lambda s, v: v.rank < MAX_RANK)
def unsqueeze(s: State, v: Value) -> Value:
    axis = s.number(s.first, v.rank)
    return s.add("Unsqueeze", v, s.b.ints(axis), shape=(*v.shape[:axis], 1, *v.shape[axis:]))


@op(lambda s, v: bool(s.axes(v)) and max(v.shape) <= MAX_AXIS - 3)
def pad(s: State, v: Value) -> Value:
    axis, before, after = s.pick(s.axes(v)), s.number(0, 1), s.number(1, 2)
    shape = replace(v.shape, axis, v.shape[axis] + before + after)
    if not fits(shape):
        return s.add("Identity", v, shape=v.shape)
    pads = [0] * (2 * v.rank)
    pads[axis], pads[axis + v.rank] = before, after
    value = s.b.scalar(s.pick([0.0, 0.5]))
    return s.add("Pad", v, s.b.ints(*pads), value, shape=shape)


@op(lambda s, v: 1 in v.shape[s.first :])
def expand(s: State, v: Value) -> Value:
    axis = s.pick([i for i in s.axes(v) if v.shape[i] == 1])
    target = [1] * v.rank
    target[axis] = s.number(2, 6)
    shape = replace(v.shape, axis, target[axis])
    if not fits(shape):
        return s.add("Identity", v, shape=v.shape)
    return s.add("Expand", v, s.b.ints(*target), shape=shape)


@op(lambda s, v: any(fits(replace(v.shape, i, 2 * v.shape[i])) for i in s.axes(v)))
def tile(s: State, v: Value) -> Value:
    axis = s.pick([i for i in s.axes(v) if fits(replace(v.shape, i, 2 * v.shape[i]))])
    repeats = [1] * v.rank
    repeats[axis] = 2
    return s.add("Tile", v, s.b.ints(*repeats), shape=replace(v.shape, axis, 2 * v.shape[axis]))


@op(lambda s, v: v.rank == 4 and v.shape[1] % 4 == 0, weight=6)
def depth_to_space(s: State, v: Value) -> Value:
    n, c, h, w = v.shape
    mode = s.pick(["CRD", "DCR"])
    return s.add("DepthToSpace", v, shape=(n, c // 4, 2 * h, 2 * w), blocksize=2, mode=mode)


@op(lambda s, v: v.rank == 4 and v.shape[2] % 2 == v.shape[3] % 2 == 0 and v.shape[1] <= 12, weight=2)
def space_to_depth(s: State, v: Value) -> Value:
    n, c, h, w = v.shape
    return s.add("SpaceToDepth", v, shape=(n, 4 * c, h // 2, w // 2), blocksize=2)
