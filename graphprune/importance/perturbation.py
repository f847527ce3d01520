"""Scores from forward runs alone: units are switched off, and the damage is measured.

Source: Dery et al., "Everybody Prune Now: Structured Pruning of LLMs with only Forward Passes" (Bonsai), 2024: sampled
sub-models are evaluated, and a ridge regression of what they lose on what they lack gives every module its part.
No gradients are needed, so any model that runs can be ranked. Models with few units need no regression: every unit is
switched off by itself.
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
from graphprune.importance.unit_gradients import Masked, finished, masked

_SHARE = 0.05  # of the units of every group that are off at a time, on average
_ROUNDS = 1024
_ALONE = 1024  # units up to which each is tried by itself
_SAMPLES = 64  # that every set is tried on, in whole feeds


def perturbation(deps: DependencyGraph, calibration: Calibrated) -> NDArray[np.float64]:
    """Divergence of the outputs when a unit is off; with more than 1,024 units its part in that of random sets."""
    places = masked(deps)
    groups = [group.units[places.whole[group.units]] for group in deps.groups]
    columns = np.concatenate([*groups, np.zeros(0, np.int32)])
    scores = np.zeros(places.count)
    if not len(columns):
        return finished(deps, scores)
    loss = _Divergence(deps, places, calibration)
    report = getattr(calibration, "progress", lambda done, total: None)  # noqa: ARG005
    if len(columns) <= _ALONE:
        for done, unit in enumerate(columns.tolist(), 1):
            scores[unit] = loss(np.array([unit]))
            report(done, len(columns))
        return finished(deps, scores)
    off, found = np.zeros((_ROUNDS, len(columns)), np.bool_), np.zeros(_ROUNDS)
    place = np.zeros(places.count, np.int64)
    place[columns] = np.arange(len(columns))
    for number, units in zip(range(_ROUNDS), _sets(np.random.default_rng(calibration.seed), groups), strict=False):
        off[number, place[units]] = True
        found[number] = loss(units)
        report(number + 1, _ROUNDS)
    scores[columns] = np.maximum(ridge(off, found), 0)
    return finished(deps, scores)


class _Divergence:
    """How far the outputs move from the original's when units are off, per sample."""

    def __init__(self, deps: DependencyGraph, places: Masked, calibration: Calibrated) -> None:
        masks = Masks(places.wanted, places.labels, places.count)
        self.runs = gradients_of(deps.source, (), threads=getattr(calibration, "threads", 0), masks=masks)
        self.rng = np.random.default_rng(calibration.seed)
        self.ones = np.ones(places.count, np.float32)
        self.tries = []
        self.samples = 0
        for feed in calibration.samples:
            outputs = self.runs.outputs({**feed, MASKS: self.ones})
            self.tries.append((feed, outputs))
            self.samples += together(feed, outputs)
            if self.samples >= _SAMPLES:
                break
        self.scales = scales_of(self.tries)

    def __call__(self, units: Ids) -> float:
        """The mean over samples."""
        masks = self.ones.copy()
        masks[units] = 0.0
        total = 0.0
        for feed, was in self.tries:
            now = self.runs.outputs({**feed, MASKS: masks})
            total += divergence(Look(self.runs.heads, now, self.scales, self.rng), was)[0]
        return max(total / self.samples, 0.0)  # rounding may leave less than nothing


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
