"""What is kept of a tensor: a list per axis, and on a ragged axis a list for each position of another axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphprune.algebra.axis import Ids
from graphprune.graph.model import Array
from graphprune.rules.edit import Kept


@dataclass(frozen=True, slots=True)
class Ragged:
    """Labels of an axis whose kept positions differ from block to block, in equal number.

    Attributes:
        block: Number of the axis of the same tensor that tells the blocks apart.
        units: int32 array of shape (positions of the block axis, positions of this axis, k), 0 meaning "no unit".
        heads: First position of every block on the block axis, ascending.

    The block axis may be a multiple as long, batch times heads: its rows repeat then.
    """

    block: int
    units: Ids
    heads: Kept


@dataclass(frozen=True, slots=True)
class Box:
    """The kept elements of a tensor.

    Attributes:
        axes: Kept positions per cut axis, ascending. On a ragged axis they are right in number only.
        ragged: For ragged axes the block axis and, for each of its positions, the kept positions: shape (n, m).
    """

    axes: Mapping[int, Kept]
    ragged: Mapping[int, tuple[int, Kept]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.axes)

    def shape(self, shape: Sequence[int]) -> list[int]:
        """Sizes of what is kept."""
        return [len(self.axes[a]) if a in self.axes else int(n) for a, n in enumerate(shape)]

    def key(self) -> tuple[Any, ...]:
        """Equal for equal boxes."""
        plain = tuple((a, k.tobytes()) for a, k in sorted(self.axes.items()) if a not in self.ragged)
        return plain + tuple((a, b, k.tobytes()) for a, (b, k) in sorted(self.ragged.items()))

    def take(self, array: Array) -> Array:
        """The kept elements; smallest axes first so that little is copied twice."""
        for axis, (block, kept) in sorted(self.ragged.items()):
            rows = kept[np.arange(array.shape[block]) % len(kept)]
            shape = [1] * array.ndim
            shape[block], shape[axis] = rows.shape
            index = rows if block < axis else rows.T
            array = np.take_along_axis(array, index.reshape(shape), axis=axis)
        plain = [(a, k) for a, k in self.axes.items() if a not in self.ragged]
        for axis, kept in sorted(plain, key=lambda item: len(item[1]) / array.shape[item[0]]):
            array = np.take(array, kept, axis=axis)
        return np.ascontiguousarray(array) if array.ndim else array
