"""What a removal folds: constants of removed positions that the layers reading them take over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Fold:
    """Removed positions of one summed axis that are read as they are in the reference, because nothing is lost.

    Attributes:
        node: Name of the node that sums.
        slot: Input slot of its data.
        sites: (slot, axis) of every operand along the summed axis.
        free: bool per position: removed, yet not masked in the reference.
        values: The constant that a free position holds and the node takes over; 0 where there is nothing to take.
        carriers: Per group of the node, the kept constant position whose weights take the constants over, -1 where
            none is needed; None when they go into a bias.
        carried: The constant at each carrier, 0 where there is none.
    """

    node: str
    slot: int
    sites: tuple[tuple[int, int], ...]
    free: NDArray[np.bool_]
    values: NDArray[np.float64]
    carriers: NDArray[np.int64] | None = None
    carried: NDArray[np.float64] | None = None

    @property
    def count(self) -> int:
        """Number of constants taken over."""
        return int(np.count_nonzero(self.values))
