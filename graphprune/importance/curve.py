"""What removing units of a group costs in quality, in the order in which they leave."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from graphprune.algebra.axis import Ids
from graphprune.coupling.cut import Mask


@dataclass(frozen=True)
class Curve:
    """In which order the units of a group leave, and what has been lost when the first m are gone.

    Attributes:
        order: Unit ids, first to leave first, shape (size,).
        loss: What is lost when the first m units are gone, float64, shape (size + 1,): starts at 0, never falls, in
            a measure that all groups share. It need not be convex.

    Raises:
        ValueError: The shapes do not fit, the loss does not start at 0, falls, or is not finite.
    """

    order: Ids
    loss: NDArray[np.float64]

    def __post_init__(self) -> None:
        loss = self.loss
        if loss.shape != (len(self.order) + 1,):
            raise ValueError(f"a curve over {len(self.order)} units has {len(self.order) + 1} losses, not {loss.shape}")
        if loss[0] != 0 or not np.isfinite(loss).all() or (np.diff(loss) < 0).any():
            raise ValueError("the losses of a curve start at 0, are finite and never fall")

    @classmethod
    def of_scores(cls, units: Ids, scores: NDArray[np.float64]) -> Curve:
        """The curve of independent units: least important first, the loss is the sum of their scores.

        Args:
            units: Unit ids of a group.
            scores: Score per unit id; what is below zero counts as nothing lost, in its order.
        """
        order = units[np.argsort(scores[units], kind="stable")]
        return cls(order, np.concatenate([[0.0], np.cumsum(np.maximum(scores[order], 0.0))]))

    def only(self, allowed: Mask) -> Curve:
        """The curve of the units that may leave; each takes its share of the loss along."""
        mine = allowed[self.order]
        if mine.all():
            return self
        return Curve(self.order[mine], np.concatenate([[0.0], np.cumsum(np.diff(self.loss)[mine])]))

    @cached_property
    def slopes(self) -> NDArray[np.float64]:
        """Loss per unit on the largest convex curve below this one, shape (size,), ascending.

        Of a convex curve these are the losses of the single units.
        """
        steps = np.diff(self.loss)
        if (np.diff(steps) >= 0).all():
            return steps
        corners = [0]
        for m in range(1, len(self.loss)):
            while len(corners) > 1 and self._slope(corners[-2], corners[-1]) >= self._slope(corners[-1], m):
                corners.pop()
            corners.append(m)
        lengths = np.diff(corners)
        return np.repeat(np.diff(self.loss[corners]) / lengths, lengths)

    def _slope(self, a: int, b: int) -> float:
        return float(self.loss[b] - self.loss[a]) / (b - a)
