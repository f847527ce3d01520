"""Statistics of activations, streamed over calibration data."""

from graphprune.calibration.calibration import Calibration
from graphprune.calibration.grams import Gram
from graphprune.calibration.moments import Moments

__all__ = ["Calibration", "Gram", "Moments"]
