"""The share of right classes, for data with labels."""

from __future__ import annotations

import numpy as np

from graphprune.calibration.labels import class_head, classes_of
from graphprune.data import Samples
from graphprune.errors import InputError
from graphprune.graph.model import Graph
from graphprune.verify.answers import Answers

NAME = "accuracy"


class Accuracy:
    """Measures the share of places where the first output's largest score is that of the right class.

    Args:
        graph: The original.
        samples: With labels.

    Raises:
        InputError: There are no labels, or they do not fit the output.
    """

    def __init__(self, graph: Graph, samples: Samples | None) -> None:
        right = classes_of(graph, samples) if samples is not None else None
        if samples is None or right is None:
            raise InputError(f"--metric {NAME} needs labels: give them with --labels")
        head = class_head(graph)
        assert head is not None
        self._samples, self._right = samples, right
        self._place, self._axis = graph.outputs.index(head.output), head.axis

    def __call__(self, answer: Answers) -> float:
        """The share for a model.

        Raises:
            CannotRun: It does not run on a sample.
        """
        said = np.concatenate([answer(feed)[self._place].argmax(self._axis).ravel() for feed in self._samples])
        return float((said == self._right.ravel()[: said.size]).mean())
