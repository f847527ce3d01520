"""How undecided a unit is: one that is always on, or always off, tells nothing by being so.

Source: Liao et al., "Can Unstructured Pruning Reduce the Depth in Deep Neural Networks?", ICCV Workshops 2023 (entropy
of a neuron's state, on or off); needs no classes.
"""

from __future__ import annotations

import numpy as np

from graphprune.calibration import Calibration, Moments
from graphprune.coupling.groups import DependencyGraph
from graphprune.importance.activations import measured
from graphprune.importance.slices import Scores, Slices


def entropy(deps: DependencyGraph, calibration: Calibration) -> Slices:
    """Entropy, in bits, of a unit's activation being greater than zero."""
    return measured(deps, calibration, _bits)


def _bits(moments: Moments) -> Scores:
    out = np.zeros_like(moments.positive)
    for share in (moments.positive, 1.0 - moments.positive):
        inside = share > 0
        out[inside] -= share[inside] * np.log2(share[inside])
    return np.maximum(out, 0.0)
