"""What every group costs in quality, from data: orders by optimal brain surgeon, put on one scale by trial cuts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphprune.calibration import Calibration
from graphprune.coupling.groups import DependencyGraph
from graphprune.data.parts import divided, first
from graphprune.graph.model import Array
from graphprune.importance.curve import Curve
from graphprune.importance.obs import Grams, obs_curves, read_grams
from graphprune.recover.evidence import SHARES, Evidence, bent

_SAMPLES = 128  # that trial cuts are compared on, about
_MANY = 60  # groups beyond which each is tried at one width


def _evidence(deps: DependencyGraph, grams: Grams, feeds: Sequence[Mapping[str, Array]]) -> Evidence:
    if isinstance(deps.source.source, ir.Model):
        return Evidence(deps, grams, feeds)
    from graphprune.recover.evidence_torch import TorchEvidence

    return TorchEvidence(deps, grams, feeds)


def judged(
    deps: DependencyGraph,
    calibration: Calibration,
    scores: NDArray[np.float64],
    progress: Callable[[str], None] = lambda _: None,
) -> list[Curve]:
    """A curve per group, in units of the output's error.

    Args:
        deps: The dependency graph.
        calibration: Statistics over data.
        scores: Scores per unit id, for groups that no layer with a stored weight reads.
        progress: Called with what is being looked at.
    """
    train, judges = divided(calibration.samples)
    grams = read_grams(deps, calibration.over(train))
    curves = ordered(deps, grams, scores)
    feeds = first(judges, _SAMPLES)
    shares = (0.4,) if len(curves) > _MANY else SHARES
    made, _ = bent(deps, curves, _evidence(deps, grams, feeds), shares=shares, progress=progress)
    return made


def ordered(deps: DependencyGraph, grams: Grams, scores: NDArray[np.float64]) -> list[Curve]:
    """Per group in which order its units leave by optimal brain surgeon; by scores where no layer tells."""
    found = obs_curves(deps, grams)
    return [c or Curve.of_scores(g.units, scores) for c, g in zip(found, deps.groups, strict=True)]
