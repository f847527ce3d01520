"""The user's own measure of a model, before and after; and agreement with the original on samples."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.calibration.labels import class_head
from graphprune.coupling.cut import Cut
from graphprune.coupling.groups import DependencyGraph
from graphprune.data import Samples
from graphprune.data.records import as_record
from graphprune.data.scripts import load_function
from graphprune.data.wanted import layout_of
from graphprune.errors import InputError
from graphprune.graph.model import Array, Graph
from graphprune.graph.run import CannotRun
from graphprune.plan import Plan, planned_cut
from graphprune.verify.accuracy import NAME as ACCURACY
from graphprune.verify.accuracy import Accuracy
from graphprune.verify.agreement import Agreement, agreement
from graphprune.verify.answers import answers, asked

Metric = Callable[[Any], float]


@dataclass(frozen=True, slots=True)
class Change:
    """A user's metric.

    Attributes:
        name: Name of the function.
        before: What it says of the original.
        after: What it says of the pruned model.
    """

    name: str
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Quality:
    """What is left of a model's quality.

    Attributes:
        metric: The user's metric, None where none was given.
        agreement: Agreement with the original, one entry per output; empty without samples.
        samples: Number of samples behind it.
    """

    metric: Change | None = None
    agreement: tuple[Agreement, ...] = ()
    samples: int = 0


class Judge:
    """Measures models against the original.

    Args:
        graph: The original.
        samples: What agreement is measured on, None for no agreement.
        metric: A function of the model, or ``file.py:function``. For a file the function gets ``run(feed)``, which
            returns the list of outputs for a mapping from input names to arrays (for one input the array alone). For
            a module it gets the module in evaluation mode. It returns a number. "accuracy" is the share of right
            classes, for samples with labels, and what is measured where nothing else is asked for.
        labelled: Samples with labels; by default those that agreement is measured on.

    Raises:
        InputError: There is no such function, or it fails on the original.
    """

    def __init__(
        self,
        graph: Graph,
        samples: Samples | None = None,
        metric: Metric | str | None = None,
        labelled: Samples | None = None,
    ) -> None:
        labelled = samples if labelled is None else labelled
        if metric is None and labelled is not None and labelled.labels is not None and class_head(graph) is not None:
            metric = ACCURACY
        self._graph, self._samples, self._metric = graph, samples, metric
        self._accuracy = Accuracy(graph, labelled) if metric == ACCURACY else None
        self._before = self._measured(None, None) if metric is not None else 0.0

    def __call__(self, deps: DependencyGraph, plan: Plan, model: Any) -> Quality | None:
        """What is left of the quality of a pruned model; None where nothing is measured.

        Raises:
            InputError: The metric fails, or a model does not run on the samples.
        """
        if self._metric is None and self._samples is None:
            return None
        cut = planned_cut(deps, plan)
        change = Change(self._name, self._before, self._measured(model, cut)) if self._metric is not None else None
        return Quality(change, *(self._agreement(cut, model) if self._samples is not None else ()))

    def _agreement(self, cut: Cut, model: Any) -> tuple[tuple[Agreement, ...], int]:
        assert self._samples is not None
        try:
            pair = answers(self._graph), answers(self._graph, model, cut)
            return agreement(self._graph, cut, *pair, self._samples)
        except CannotRun as error:
            raise InputError(f"{self._samples.name}: the model does not run on it: {error}") from None

    @cached_property
    def _function(self) -> Metric:
        metric = self._metric
        if isinstance(metric, str | os.PathLike):
            return load_function(os.fspath(metric))
        if not callable(metric):
            raise InputError(f"metric: {metric!r} is neither a function nor FILE.py:FUNCTION")
        return metric

    @property
    def _name(self) -> str:
        return (
            ACCURACY
            if self._accuracy is not None
            else str(getattr(self._function, "__name__", type(self._function).__name__))
        )

    def _measured(self, model: Any, cut: Cut | None) -> float:
        if self._accuracy is not None:
            try:
                return self._accuracy(answers(self._graph, model, cut))
            except CannotRun as error:
                raise InputError(f"the model does not run on the data: {error}") from None
        function = self._function
        with asked(self._graph, model, cut) as run:
            try:
                value: Any = function(Run(self._graph, run) if isinstance(self._graph.source, ir.Model) else run)
            except InputError:
                raise
            except Exception as error:
                raise InputError(f"metric {self._name}: {type(error).__name__}: {_said(error)}") from error
        return _number(value, self._name)


class Run:
    """What a metric calls: a feed goes in, the list of outputs comes out, in the order of the model's outputs.

    Args:
        graph: The original.
        run: The model.
    """

    def __init__(self, graph: Graph, run: Callable[[Any], list[Array]]) -> None:
        self._layout, self._run = layout_of(graph), run

    def __call__(self, feed: Any) -> list[Array]:
        """Outputs for a mapping from input names to arrays; for a model with one input also for the array alone.

        Raises:
            InputError: The feed does not fit, or the model does not run on it.
        """
        arrays = as_record(feed, self._layout, "metric")
        ready = {n: a.astype(object) if a.dtype.kind == "U" else np.array(a, order="C") for n, a in arrays.items()}
        try:
            return self._run(ready)
        except CannotRun as error:
            raise InputError(f"metric: the model does not run on this feed: {error}") from None


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"metric {name}: gives a {type(value).__name__}, no number") from None
    if not math.isfinite(number):
        raise InputError(f"metric {name}: gives {number}, no number")
    return number
