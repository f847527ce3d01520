"""How much a channel differs from stronger channels of its group, by the weights that make it.

Source: Ayinde and Zurada, "Building Efficient ConvNets using Redundant Feature Pruning", 2018 (cosine similarity of
filters); here biases and a BatchNorm that follows belong to a filter, and of similar filters the strongest stays.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphprune.coupling.groups import DependencyGraph
from graphprune.importance.producers import gram, producers
from graphprune.importance.slices import Scores, Slice, Slices

_ROWS = 1024


def similarity(deps: DependencyGraph, seed: int) -> Slices:  # noqa: ARG001 - criteria share one signature
    """Norm of what makes a unit, times one minus its largest cosine with a stronger unit of the group."""
    parts = []
    for group, matrices in zip(deps.groups, producers(deps, shifts=True), strict=True):
        if matrices:
            squares = np.sum([np.einsum("ij,ij->i", m, m) for m in matrices], axis=0, dtype=np.float64)
            norms = np.sqrt(squares)
            closest = nearest(norms, lambda lo, hi, m=matrices: gram(m, lo, hi))  # type: ignore[misc]
            parts.append(Slice(group.units[:, None], norms * (1.0 - closest)))
    return Slices(parts)


def nearest(norms: Scores, products: Callable[[int, int], np.ndarray], *, signed: bool = True) -> Scores:
    """For every vector its largest cosine with a longer one, 0 where there is none; of equals the first is longer.

    Args:
        norms: Their lengths.
        products: Inner products of vectors lo to hi with all, shape (hi - lo, n).
        signed: Whether opposite vectors differ; else they count as alike.
    """
    n = len(norms)
    rank = np.empty(n, np.intp)
    rank[np.argsort(-norms, kind="stable")] = np.arange(n)
    safe = np.where(norms > 0, norms, 1.0)
    out = np.zeros(n)
    for lo in range(0, n, _ROWS):
        hi = min(lo + _ROWS, n)
        cosine = products(lo, hi) / (safe[lo:hi, None] * safe[None])
        cosine = np.where(rank[None] < rank[lo:hi, None], cosine if signed else np.abs(cosine), 0.0)
        out[lo:hi] = np.clip(cosine.max(axis=1), 0.0, 1.0)
    return out
