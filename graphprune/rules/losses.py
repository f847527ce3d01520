"""Losses of training graphs."""

from __future__ import annotations

from graphprune.rules.context import Relate
from graphprune.rules.kinds import statistics
from graphprune.rules.registry import rule


@rule("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss", kind="DYNINDEX", level="restricted")
def class_loss(r: Relate) -> None:
    """Classes (axis 1) are named by number and stay; sums and means are those of the kept samples."""
    axes = r.axes(0)
    r.freeze(0, 1, "classes are named by number")
    if r.has(2):
        r.freeze(2, 0, "classes are named by number")
    samples = [a for a in range(len(axes)) if a != 1]
    for place, a in enumerate(samples):
        r.tie(1, place, axes[a])
    if r.attr("reduction", "mean") == "none":
        r.out([axes[a] for a in samples])
    else:
        statistics(r, 0, samples)
        statistics(r, 1)
        r.out([])
    r.out(axes, 1)
