"""Factors: units that label the inner positions of blocks, such as the offsets inside the groups of a convolution."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    _memo: dict[int, Places] = field(default_factory=dict, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Units of one block."""
        return len(self.units)

    @property
    def number(self) -> int:
        """Number of blocks."""
        return len(self.codes)

    @cached_property
    def local(self) -> Places:
        """Place of every unit id in the factor, -1 for others."""
        return numbered(self.units, self.count)

    @cached_property
    def codes(self) -> Places:
        """Codes of the blocks that occur, ascending: the order in which blocks are counted."""
        axes = {id(x): x for p in self.places if (x := self.types[p.tensor][p.block]) is not None}
        codes = [self._codes(axis) for axis in axes.values()]
        return np.unique(np.concatenate([c[c >= 0] for c in codes]))

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
        found = self._memo.get(id(axis))
        if found is None:
            code = self._codes(axis)
            place = np.minimum(np.searchsorted(self.codes, code), len(self.codes) - 1)
            found = self._memo[id(axis)] = np.where(self.codes[place] == code, place, -1)
        return found

    def offsets(self, axis: Axis) -> tuple[Places, Places, Places]:
        """Rows and columns of an axis' units that hold the factor, and which of its units stands there."""
        assert axis.units is not None
        local = self.local[axis.units]
        rows, columns = np.nonzero(local >= 0)
        return rows, columns, local[rows, columns]


def numbered(units: Ids, count: int) -> Places:
    """Place in ``units`` of every unit id below ``count``, -1 for others."""
    out = np.full(count, -1, np.intp)
    out[units] = np.arange(len(units))
    return out


def even(axis: Axis, local: Places, size: int, chunks: Places | None = None) -> bool:
    """Whether a factor's units occur equally often beside every combination of the other labels.

    Args:
        axis: The axis.
        local: Place of each unit id in the factor, -1 for others.
        size: Number of the factor's units.
        chunks: Further labels per position that must be independent of the factor.
    """
    assert axis.units is not None
    place = local[axis.units]
    held = place >= 0
    if (held.sum(axis=1) > 1).any():
        return False
    rows = held.any(axis=1)
    columns = [] if chunks is None else [chunks[rows]]
    if axis.units.shape[1] > 1:
        columns += list(np.sort(np.where(held, 0, axis.units)[rows], axis=1).T[1:])
    code = np.zeros(int(rows.sum()), np.intp)
    for column in columns:
        _, ids = np.unique(column, return_inverse=True)
        _, code = np.unique(code * (int(ids.max(initial=0)) + 1) + ids, return_inverse=True)
    highest = int(code.max(initial=0)) + 1
    counts = np.bincount(code * size + place[rows].max(axis=1), minlength=highest * size).reshape(-1, size)
    return bool((counts == counts[:, :1]).all())
