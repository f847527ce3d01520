"""Bounds of a tensor: the least and the largest value each position can take, whatever the inputs are.

A bound holds in exact arithmetic, for inputs that leave every value finite. A position whose two bounds are equal
is constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphprune.graph.model import Array

Reals = NDArray[np.float64]
Flags = NDArray[np.bool_]

MAX_POSITIONS = 1 << 22  # larger patterns give up telling positions of an axis apart


class Unbounded(Exception):
    """Nothing is known of an operator's outputs."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Bounds over a pattern: an axis of the tensor is written out, or has one entry that holds for all its positions.

    Attributes:
        lo: Lower bounds, float64; as many axes as the tensor, each of the tensor's length or 1.
        hi: Upper bounds, same shape.
    """

    lo: Reals
    hi: Reals

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the pattern."""
        return self.lo.shape

    @property
    def constant(self) -> Flags:
        """True where the value is one finite number."""
        return np.asarray((self.lo == self.hi) & np.isfinite(self.lo))

    @property
    def empty(self) -> bool:
        """Whether nothing is known anywhere."""
        return bool(np.isinf(self.lo).all() and np.isinf(self.hi).all())

    def reshape(self, shape: Sequence[int]) -> Interval:
        """The same entries in another pattern."""
        return Interval(self.lo.reshape(shape), self.hi.reshape(shape))

    def hull(self, axis: int) -> Interval:
        """What holds for every position of an axis."""
        if self.lo.shape[axis] <= 1:
            return self
        return Interval(self.lo.min(axis=axis, keepdims=True), self.hi.max(axis=axis, keepdims=True))

    def wide(self, axis: int, size: int) -> Interval:
        """The axis written out.

        Raises:
            Unbounded: Its size is not known.
        """
        if size < 0:
            raise Unbounded("the size of an axis is unknown")
        shape = (*self.shape[:axis], size, *self.shape[axis + 1 :])
        return Interval(np.broadcast_to(self.lo, shape), np.broadcast_to(self.hi, shape))

    def take(self, axis: int, index: Array) -> Interval:
        """Positions of an axis; nothing changes where one entry holds for all of them."""
        if self.lo.shape[axis] == 1:
            return self
        return Interval(np.take(self.lo, index, axis=axis), np.take(self.hi, index, axis=axis))

    def put(self, axis: int, where: Flags, lo: float, hi: float) -> Interval:
        """Other bounds at some positions of an axis, ``where`` of its full length."""
        full = self.wide(axis, len(where))
        mask = where.reshape([-1 if a == axis else 1 for a in range(full.lo.ndim)])
        return Interval(np.where(mask, lo, full.lo), np.where(mask, hi, full.hi))

    def union(self, lo: float, hi: float) -> Interval:
        """Bounds that also hold for values in [lo, hi]."""
        return Interval(np.minimum(self.lo, lo), np.maximum(self.hi, hi))

    def along(self, axis: int, size: int) -> Interval:
        """Bounds per position of one axis, shape (size,): what holds over all the others.

        Raises:
            Unbounded: Its size is not known.
        """
        if size < 0:
            raise Unbounded("the size of an axis is unknown")
        out = self
        for a in range(len(self.shape)):
            if a != axis % len(self.shape):
                out = out.hull(a)
        return Interval(np.broadcast_to(out.lo.ravel(), (size,)), np.broadcast_to(out.hi.ravel(), (size,)))


def exact(array: Array) -> Interval:
    """Bounds of a known tensor; where it is large, its longest axes are summed up."""
    values = np.asarray(array, np.float64)
    finite = np.isfinite(values)
    out = Interval(values, values)
    if not finite.all():
        out = Interval(np.where(finite, values, -np.inf), np.where(finite, values, np.inf))
    for axis in sorted(range(values.ndim), key=lambda a: -values.shape[a]):
        if out.lo.size > MAX_POSITIONS:
            out = out.hull(axis)
    return out


def unknown(rank: int) -> Interval:
    """No bounds."""
    shape = (1,) * rank
    return Interval(np.full(shape, -np.inf), np.full(shape, np.inf))


def made(lo: Reals, hi: Reals) -> Interval:
    """Bounds from a computation in which an undefined bound means none."""
    return Interval(np.where(np.isnan(lo), -np.inf, lo), np.where(np.isnan(hi), np.inf, hi))


def rounded(middle: Reals, radius: Reals, dtype: str) -> Interval:
    """Middle ± radius; one number where the radius is lost when it is rounded to the tensor's type.

    Args:
        middle: Middle of the interval.
        radius: Half its width, 0 where it is a constant, may be infinite.
        dtype: Element type of the tensor.
    """
    digits = {"float16": 11, "bfloat16": 8, "double": 53}.get(dtype, 24)
    step = np.ldexp(1.0, np.frexp(np.abs(middle))[1] - digits - 2)  # a quarter of the smallest step at this size
    lost = (radius < step) & (middle != 0)
    return Interval(np.where(lost, middle, middle - radius), np.where(lost, middle, middle + radius))
