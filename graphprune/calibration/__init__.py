"""Statistics of activations, streamed over calibration data."""

from graphprune.calibration.calibration import Calibration
from graphprune.calibration.grams import Gram
from graphprune.calibration.moments import Moments
from graphprune.calibration.synthesis import synthetic
from graphprune.data import samples

__all__ = ["Calibration", "Gram", "Moments", "samples", "synthetic"]
