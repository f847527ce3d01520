"""The directions of gradient descent in which everything moves at about the same pace.

Source: Kingma, Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FADING = (0.9, 0.99)


@dataclass
class Adam:
    """Running moments of the gradients by one tensor.

    Attributes:
        tiny: What keeps the quotient finite.
        mean: Running mean, of the sizes and the type of the gradients.
        square: Running mean of their squares.
        steps: Gradients seen.
    """

    tiny: float
    mean: NDArray[Any] | float = 0.0
    square: NDArray[Any] | float = 0.0
    steps: int = 0

    def __call__(self, gradient: NDArray[Any]) -> NDArray[Any]:
        """See a gradient; the direction that leads uphill, of about unit size."""
        slow, slower = _FADING
        self.steps += 1
        self.mean = self.mean + (1 - slow) * (gradient - self.mean)
        self.square = self.square + (1 - slower) * (gradient**2 - self.square)
        size = np.sqrt(self.square / (1 - slower**self.steps))
        return np.asarray(self.mean / (1 - slow**self.steps) / (size + self.tiny))
