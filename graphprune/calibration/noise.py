"""Noise that is smooth like pictures and signals: amplitudes fall with a power of the frequency."""

from __future__ import annotations

import numpy as np

from graphprune.graph.model import Array

SMOOTHNESS = (0.0, 1.0, 1.5)
"""Powers that are tried; 0 is white."""


def smooth(white: Array, power: float) -> Array:
    """Noise of the same sizes and variance whose neighbours are alike along all axes but the batch and the channels.

    Args:
        white: White noise.
        power: How fast amplitudes fall with the frequency.
    """
    axes = _smooth_axes(white.shape)
    if not axes or not power:
        return white
    frequency = np.zeros([1] * white.ndim)
    for axis in axes:
        shape = [1] * white.ndim
        shape[axis] = -1
        frequency = frequency + np.square(np.fft.fftfreq(white.shape[axis])).reshape(shape)
    least = 1 / max(white.shape[a] for a in axes)
    gain = np.maximum(np.sqrt(frequency), least) ** -power
    made = np.fft.ifftn(np.fft.fftn(white.astype(np.float64), axes=axes) * gain, axes=axes).real
    return (made / max(float(made.std()), 1e-12)).astype(white.dtype)


def _smooth_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes along which a picture or a signal lies: behind the channels, or in front of them where they are last."""
    if len(shape) < 3:
        return ()
    last = shape[-1] <= 4 < shape[1]
    return tuple(a for a in (range(1, len(shape) - 1) if last else range(2, len(shape))) if shape[a] > 2)
