"""Losses that need no labels, as the gradients that they send into a model's heads.

A head is a softmax's or sigmoid's input where the model ends in one, see :mod:`graphprune.calibration.heads`. The only
output of a model, of shape (samples, classes), counts as a softmax's input as well. All other heads are plain: their
error counts relative to the mean square of the head.

Random seeds serve second-order scores: the mean over draws of the squared gradient is the diagonal of the Gauss-Newton
matrix, which for these losses is the Hessian at the original model (the loss being zero there) of

- ``feature``: half the squared error of the heads, relative for every head (Hutchinson's probes on outputs);
- ``fisher``: the Kullback-Leibler divergence from the original's probabilities (labels drawn from the model's own
  prediction: the Fisher information, Martens, "New Insights and Perspectives on the Natural Gradient Method", JMLR
  2020, section 5); half the squared error for plain heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphprune.calibration.heads import Head
from graphprune.errors import InputError

Real = NDArray[np.float32]
_TINY = 1e-30


@dataclass(frozen=True, slots=True)
class Look:
    """A sample as a loss sees it.

    Attributes:
        heads: The heads.
        outputs: Their values.
        scales: What plain heads are multiplied with, see :func:`scaled`.
        rng: For losses that draw.
        labels: The classes that the user says are right, if any.
    """

    heads: Sequence[Head]
    outputs: Sequence[Real]
    scales: Sequence[float]
    rng: np.random.Generator
    labels: NDArray[np.int64] | None = None

    def each(self) -> Iterator[tuple[str, int, Head, Real, np.float32]]:
        """For every head what it is, its class axis, itself, its values and its scale."""
        for head, y, scale in zip(self.heads, self.outputs, self.scales, strict=True):
            yield *kind_of(self.heads, head, y), head, y, np.float32(scale)


Loss = Callable[[Look], list[Real]]


def feature(look: Look) -> list[Real]:
    """Random signs: E[(v · J)²] is the diagonal of Jᵀ J."""
    return [_signs(look.rng, y) * scale for _, _, _, y, scale in look.each()]


def fisher(look: Look) -> list[Real]:
    """Gradient of the log-likelihood of labels that the model itself draws."""
    out = []
    for kind, axis, _, y, scale in look.each():
        if kind == "softmax":
            p = softmax(y, axis)
            drawn = np.argmax(y + look.rng.gumbel(size=y.shape), axis=axis)
            out.append(p - one_hot(drawn, p, axis))
        elif kind == "sigmoid":
            p = sigmoid(y)
            out.append(p - (look.rng.random(y.shape) < p).astype(np.float32))
        else:
            out.append(_signs(look.rng, y) * scale)
    return out


def prediction(look: Look) -> list[Real]:
    """Gradient of the cross entropy to the given labels, else to the model's own most likely class.

    For plain heads that of half the mean square of the head: how much a unit adds to it.

    Raises:
        InputError: Labels are given that do not fit the first head.
    """
    out = []
    for number, (kind, axis, head, y, scale) in enumerate(look.each()):
        if look.labels is not None:
            out.append(_supervised(head, kind, axis, y, look.labels) if number == 0 else np.zeros_like(y))
        elif kind == "softmax":
            p = softmax(y, axis)
            out.append(p - one_hot(np.argmax(y, axis), p, axis))
        elif kind == "sigmoid":
            out.append(sigmoid(y) - (y > 0).astype(np.float32))
        else:
            out.append(y * (scale * scale))
    return out


def entropy(look: Look) -> list[Real]:
    """Gradient of the entropy of the model's prediction; that of half the mean square for plain heads."""
    out = []
    for kind, axis, _, y, scale in look.each():
        if kind == "softmax":
            p = softmax(y, axis)
            log = np.log(np.maximum(p, _TINY))
            out.append(-p * (log - (p * log).sum(axis=axis, keepdims=True)))
        elif kind == "sigmoid":
            p = sigmoid(y)
            out.append(-y * p * (1 - p))
        else:
            out.append(y * (scale * scale))
    return out


LOSSES: Mapping[str, Loss] = {"feature": feature, "fisher": fisher, "prediction": prediction, "entropy": entropy}


def divergence(look: Look, original: Sequence[Real]) -> tuple[float, list[Real]]:
    """How far outputs are from the original's, and the gradient of that by the heads.

    Args:
        look: The outputs now.
        original: Those of the original model.

    Returns:
        The sum over heads of KL(original ‖ now), or half the relative squared error for plain heads; its gradients.
    """
    total, out = 0.0, []
    for (kind, axis, _, y, scale), was in zip(look.each(), original, strict=True):
        if kind == "softmax":
            p, q = softmax(was, axis), softmax(y, axis)
            total += _relative_entropy(p, q)
            out.append(q - p)
        elif kind == "sigmoid":
            p, q = sigmoid(was), sigmoid(y)
            total += _relative_entropy(p, q) + _relative_entropy(1 - p, 1 - q)
            out.append(q - p)
        else:
            error = (y - was) * scale
            total += 0.5 * float(np.square(error, dtype=np.float64).sum())
            out.append(error * scale)
    return total, out


def _relative_entropy(p: Real, q: Real) -> float:
    p64, q64 = np.maximum(p.astype(np.float64), _TINY), np.maximum(q.astype(np.float64), _TINY)
    return float((p64 * np.log(p64 / q64)).sum())


def scaled(outputs: Sequence[Sequence[Real]], samples: int) -> list[float]:
    """For every head 1 / the root of its mean squared norm per sample.

    Args:
        outputs: Of some runs, values of the heads.
        samples: How many samples these runs took together.
    """
    norms = [sum(float(np.square(y, dtype=np.float64).sum()) for y in each) for each in zip(*outputs, strict=True)]
    return [float(np.sqrt(samples / n)) if n > 0 else 0.0 for n in norms]


def kind_of(heads: Sequence[Head], head: Head, y: Real) -> tuple[str, int]:
    """What a head is to a loss, and its class axis."""
    if head.kind == "plain" and len(heads) == 1 and y.ndim == 2 and y.shape[1] > 1:
        return "softmax", 1
    return head.kind, head.axis


def softmax(y: Real, axis: int) -> Real:
    """Probabilities."""
    e = np.exp(y - y.max(axis=axis, keepdims=True))
    return np.asarray(e / e.sum(axis=axis, keepdims=True), np.float32)


def sigmoid(y: Real) -> Real:
    """Probabilities."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * y)), np.float32)


def one_hot(labels: NDArray[np.int64], like: Real, axis: int) -> Real:
    """1 at the labels, 0 elsewhere."""
    out = np.zeros_like(like)
    np.put_along_axis(out, np.expand_dims(labels, axis), 1, axis)
    return out


def _signs(rng: np.random.Generator, y: Real) -> Real:
    return (2 * rng.integers(0, 2, y.shape) - 1).astype(np.float32)


def _supervised(head: Head, kind: str, axis: int, y: Real, labels: NDArray[np.int64]) -> Real:
    wanted = tuple(n for a, n in enumerate(y.shape) if a != axis)
    if kind != "softmax" or labels.size != int(np.prod(wanted)):
        raise InputError(f"labels of shape {labels.shape} do not fit output {head.output} of shape {y.shape}")
    labels = labels.reshape(wanted).astype(np.int64)
    if labels.min() < 0 or labels.max() >= y.shape[axis]:
        raise InputError(f"labels from {labels.min()} to {labels.max()}; {head.output} has {y.shape[axis]} classes")
    p = softmax(y, axis)
    return p - one_hot(labels, p, axis)
