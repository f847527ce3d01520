"""Labels as classes of a model's first output."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphprune.calibration.heads import Head, heads
from graphprune.data import Samples
from graphprune.errors import InputError
from graphprune.graph.model import Array, Graph


def class_head(graph: Graph) -> Head | None:
    """The first float output, if it has a score for each class: with a softmax, or of shape (samples, classes)."""
    found = heads(graph)
    first, shape = found[0], graph.values[found[0].name].shape or ()
    if first.kind == "softmax":
        return first
    alone = first.kind == "plain" and len(found) == 1 and len(shape) == 2 and shape[1] > 1
    return Head(first.name, first.output, "softmax", 1) if alone else None


def classes_of(graph: Graph, samples: Samples) -> NDArray[np.int64] | None:
    """The right class of every sample, in order; None where the samples have no labels.

    Args:
        graph: The model.
        samples: With class numbers, or with a one for the class among zeros.

    Raises:
        InputError: The labels do not fit the model's first output, or it has no classes.
    """
    given = samples.labels
    if given is None:
        return None
    head = class_head(graph)
    if head is None:
        raise InputError(f"{samples.name}: labels are given, but {graph.name} has no classes in its first output")
    return _numbers(given, head, graph, samples.name)


def _numbers(given: Array, head: Head, graph: Graph, where: str) -> NDArray[np.int64]:
    shape = graph.values[head.name].shape or ()
    many, rank = shape[head.axis], len(shape)
    axis = head.axis if given.ndim == rank else -1
    if given.ndim == rank and given.shape[axis] == 1 and many > 1:
        given = np.squeeze(given, axis)
    elif given.ndim == rank and given.shape[axis] == many:
        if not (np.isin(given, (0, 1)).all() and (given.sum(axis=axis) == 1).all()):
            raise InputError(f"{where}: labels of shape {given.shape} are not one 1 among zeros for each sample")
        return np.asarray(given.argmax(axis), np.int64)
    if given.ndim != rank - 1:
        raise InputError(
            f"{where}: labels have shape {given.shape}; {head.output} has shape {list(shape)}: give a class number for"
            f" each place, or {many} numbers with one 1"
        )
    if given.dtype.kind not in "iu":
        raise InputError(f"{where}: labels are {given.dtype}; class numbers are integers, convert them with .astype")
    low, high = int(given.min()), int(given.max())
    if low < 0 or high >= many:
        raise InputError(f"{where}: labels from {low} to {high}; {head.output} has {many} classes, 0 to {many - 1}")
    return np.asarray(given, np.int64)
