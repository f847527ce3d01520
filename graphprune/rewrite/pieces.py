"""A cut tensor piece by piece, so that little of it is in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod

import numpy as np

from graphprune.coupling.box import Box
from graphprune.graph.model import Array

PIECE = 32 << 20  # bytes read at a time, where rows are not longer
Read = Callable[[int, int], Array]


def pieces(read: Read, shape: tuple[int, ...], itemsize: int, box: Box) -> Iterator[Array]:
    """What is kept of a tensor, in C order.

    Args:
        read: Returns positions first to last (excluded) of axis 0, shape (last - first, ...).
        shape: Sizes of the tensor; at least one axis.
        itemsize: Bytes of an element.
        box: What to keep.

    Yields:
        Arrays whose bytes, one after the other, are those of the cut tensor. A tensor whose axis 0 differs from block
        to block comes in one.
    """
    rows = shape[0]
    step = rows if 0 in box.ragged else max(1, PIECE // max(1, prod(shape[1:]) * itemsize))
    kept = box.axes.get(0)
    for first in range(0, rows, step):
        last = min(first + step, rows)
        if kept is None or ((kept >= first) & (kept < last)).any():
            yield _part(box, first, last, rows).take(read(first, last))


def _part(box: Box, first: int, last: int, rows: int) -> Box:
    """What to keep of some positions of axis 0."""
    if first == 0 and last == rows:
        return box
    axes = dict(box.axes)
    if 0 in axes:
        axes[0] = axes[0][(axes[0] >= first) & (axes[0] < last)] - first
    ragged = {a: (b, k[first:last] if b == 0 else k) for a, (b, k) in box.ragged.items()}
    return Box(axes, {a: (b, np.ascontiguousarray(k)) for a, (b, k) in ragged.items()})
