"""Scores from forward runs alone: units are switched off in random sets, and the damage is shared out among them.

Source: Dery et al., "Everybody Prune Now: Structured Pruning of LLMs with only Forward Passes" (Bonsai), 2024: sampled
sub-models are evaluated, and a ridge regression of what they lose on what they lack gives every module its part.
No gradients are needed, so any model that runs can be ranked.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from graphprune.algebra.axis import Ids
from graphprune.calibration.gradients import Masks, gradients_of
from graphprune.calibration.masks import MASKS
from graphprune.coupling.groups import DependencyGraph
from graphprune.importance.gradient_runs import Calibrated, scales_of, together
from graphprune.importance.losses import Look, divergence
from graphprune.importance.unit_gradients import finished, masked

_SHARE = 0.05  # of the units of every group that are off at a time, on average
_ROUNDS = 512
_FEEDS = 4  # that every set is tried on


def perturbation(deps: DependencyGraph, calibration: Calibrated) -> NDArray[np.float64]:
    """Part of a unit in the divergence of the outputs when random sets of units are off, by ridge regression."""
    graph, places = deps.source, masked(deps)
    if not places.whole.any():
        return finished(deps, np.zeros(places.count))
    masks_at = Masks(places.wanted, places.labels, places.count)
    runs = gradients_of(graph, (), threads=getattr(calibration, "threads", 0), masks=masks_at)
    rng = np.random.default_rng(calibration.seed)
    ones = np.ones(places.count, np.float32)
    feeds = [feed for feed, _ in zip(calibration.samples, range(_FEEDS), strict=False)]
    originals = [runs.outputs({**feed, MASKS: ones}) for feed in feeds]
    scales = scales_of(zip(feeds, originals, strict=True))
    groups = [group.units[places.whole[group.units]] for group in deps.groups]
    columns = np.concatenate([g for g in groups if len(g)]) if any(len(g) for g in groups) else np.zeros(0, np.int32)
    rounds = min(_ROUNDS, 4 * len(columns))
    report = getattr(calibration, "progress", lambda done, total: None)  # noqa: ARG005
    off = np.zeros((rounds, len(columns)), np.bool_)
    loss = np.zeros(rounds)
    place = np.zeros(places.count, np.int64)
    place[columns] = np.arange(len(columns))
    for number, units in zip(range(rounds), _sets(rng, groups), strict=False):
        report(number, rounds)
        masks = ones.copy()
        masks[units] = 0.0
        off[number, place[units]] = True
        loss[number] = sum(
            divergence(Look(runs.heads, runs.outputs({**feed, MASKS: masks}), scales, rng), was)[0]
            for feed, was in zip(feeds, originals, strict=True)
        )
    scores = np.zeros(places.count)
    samples = sum(together(feed, was) for feed, was in zip(feeds, originals, strict=True))
    scores[columns] = np.maximum(ridge(off, loss / samples), 0)
    return finished(deps, scores)


def _sets(rng: np.random.Generator, groups: list[Ids]) -> Iterator[Ids]:
    """Sets of units, of every group some other number each time, such that its units come up equally often."""
    queues = [np.zeros(0, np.int32) for _ in groups]
    while True:
        chosen = []
        for k, units in enumerate(groups):
            count = min(len(units), int(2 * _SHARE * rng.random() * len(units) + rng.random()))
            while len(queues[k]) < count:
                queues[k] = np.concatenate([queues[k], rng.permutation(units)])
            chosen.append(queues[k][:count])
            queues[k] = queues[k][count:]
        yield np.concatenate(chosen) if chosen else np.zeros(0, np.int32)


def ridge(off: NDArray[np.bool_], loss: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coefficients of a ridge regression of the loss on what is off; its strength by generalised cross-validation.

    There is no constant: with nothing off nothing is lost.

    Source: Golub et al., "Generalized Cross-Validation as a Method for Choosing a Good Ridge Parameter", 1979.

    Args:
        off: Which columns are off in each round, shape (rounds, columns).
        loss: What each round lost, shape (rounds,).
    """
    u, s, vt = np.linalg.svd(off.astype(np.float64), full_matrices=False)
    part = u.T @ loss
    rest = max(float(loss @ loss - part @ part), 0.0)
    best, chosen = np.inf, 1.0
    top = float(s[0]) ** 2 if len(s) and s[0] > 0 else 1.0
    for strength in top * np.logspace(-6, 2, 33):
        kept = s**2 / (s**2 + strength)
        error = rest + float((((1 - kept) * part) ** 2).sum())
        score = error / max(len(loss) - kept.sum(), 1e-9) ** 2
        if score < best:
            best, chosen = score, float(strength)
    found: NDArray[np.float64] = vt.T @ (s / (s**2 + chosen) * part)
    return found
