"""Factors: units that label the inner positions of blocks, such as the offsets inside the groups of a convolution."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from graphprune.algebra import Axis
from graphprune.algebra.axis import Ids

Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a factor lies on a tensor.

    Attributes:
        tensor: Name of the tensor.
        axis: The axis that holds the factor.
        block: The axis that holds the blocks; the same one where the axis is their product.
    """

    tensor: str
    axis: int
    block: int

    @property
    def merged(self) -> bool:
        """Whether one axis holds blocks and factor."""
        return self.axis == self.block


@dataclass(frozen=True)
class Factor:
    """Units of which every block has to lose the same number, not the same ones.

    Attributes:
        group: Name of the group they belong to.
        units: Ids, shape (n,), in the group's order.
        blocks: Units that tell the blocks apart, per kind of them, in order.
        places: Every axis that holds the factor.
        types: Labels of all axes of the tensors in ``places``, by tensor; of a product with a dynamic factor those of
            its last, static one, which repeat.
        count: Number of unit ids.
    """

    group: str
    units: Ids
    blocks: tuple[Ids, ...]
    places: tuple[Place, ...]
    types: dict[str, tuple[Axis | None, ...]]
    count: int

    @property
    def size(self) -> int:
        """Units of one block."""
        return len(self.units)

    @property
    def number(self) -> int:
        """Number of blocks."""
        return len(self.codes)

    @cached_property
    def _local(self) -> Places:
        return numbered(self.units, self.count)

    @cached_property
    def codes(self) -> Places:
        """Codes of the blocks that occur, ascending: the order in which blocks are counted."""
        found = {id(axis): self._codes(axis) for axis in self._block_axes()}
        return np.unique(np.concatenate([c[c >= 0] for c in found.values()]))

    def _block_axes(self) -> list[Axis]:
        return [axis for p in self.places if (axis := self.types[p.tensor][p.block]) is not None]

    def _codes(self, axis: Axis) -> Places:
        """Block code of every position, -1 where there is none."""
        assert axis.units is not None
        code = np.zeros(axis.n, np.intp)
        for members in self.blocks:
            local = numbered(members, self.count)[axis.units].max(axis=1)
            code = np.where((local < 0) | (code < 0), -1, code * len(members) + local)
        return code

    def block_of(self, axis: Axis) -> Places:
        """Number of the block of every position of an axis that holds the blocks, -1 where there is none."""
        code = self._codes(axis)
        place = np.minimum(np.searchsorted(self.codes, code), len(self.codes) - 1)
        return np.where(self.codes[place] == code, place, -1)

    def offsets(self, axis: Axis) -> tuple[Places, Places, Places]:
        """Rows and columns of an axis' units that hold the factor, and which of its units stands there."""
        assert axis.units is not None
        local = self._local[axis.units]
        rows, columns = np.nonzero(local >= 0)
        return rows, columns, local[rows, columns]


def numbered(units: Ids, count: int) -> Places:
    """Place in ``units`` of every unit id below ``count``, -1 for others."""
    out = np.full(count, -1, np.intp)
    out[units] = np.arange(len(units))
    return out


def even(axis: Axis, mine: NDArray[np.bool_], local: NDArray[np.intp], chunks: NDArray[np.intp] | None = None) -> bool:
    """Whether a factor's units occur equally often beside every combination of the other labels.

    Args:
        axis: The axis.
        mine: bool per unit id, True for the factor's units.
        local: Place of each unit id in the factor.
        chunks: Further labels per position that must be independent of the factor.
    """
    assert axis.units is not None
    held = mine[axis.units]
    if (held.sum(axis=1) > 1).any():
        return False
    rows = held.any(axis=1)
    unit = axis.units[rows]
    offset = np.where(held[rows], local[unit], -1).max(axis=1)
    rest = np.sort(np.where(held[rows], 0, unit), axis=1)
    columns = [*rest.T, *(() if chunks is None else (chunks[rows],))]
    code = np.zeros(len(unit), np.intp)
    for column in columns:
        _, ids = np.unique(column, return_inverse=True)
        _, code = np.unique(code * (int(ids.max(initial=0)) + 1) + ids, return_inverse=True)
    size = int(mine.sum())
    counts = np.bincount(code * size + offset, minlength=(int(code.max(initial=0)) + 1) * size).reshape(-1, size)
    return bool((counts == counts[:, :1]).all())
