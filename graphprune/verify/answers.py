"""Models as something to ask: a feed goes in, the outputs of the original come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.coupling.cut import Cut
from graphprune.graph.model import Array, Graph
from graphprune.graph.run import CannotRun, Runner
from graphprune.graph.sizes import cloned, weight_bytes
from graphprune.verify.inner import box
from graphprune.verify.widen import feed_in_float32, in_float32, readings

Answers = Callable[[Mapping[str, Array]], list[Array]]


def answers(graph: Graph, model: Any = None, cut: Cut | None = None) -> Answers:
    """The outputs of a model for any feed of the original.

    Args:
        graph: The original.
        model: A pruned model or module; None for the original itself.
        cut: What it lost: inputs that shrank are cut to what it takes.

    Returns:
        A function; it raises CannotRun where the model does not run.
    """
    if isinstance(graph.source, ir.Model):
        return _File(graph, model, cut)
    from graphprune.verify.torch_answers import module_answers

    return module_answers(graph.source, model, cut)


class _File:
    """An ONNX model in onnxruntime, in float32 where it has no kernels for the model's own types."""

    def __init__(self, graph: Graph, model: ir.Model | None, cut: Cut | None) -> None:
        self._graph, self._cut = graph, cut
        self._model = cloned(graph.source) if model is None else model
        self._runs: list[tuple[bool, Runner]] = []
        self._left = list(readings(graph, weight_bytes(self._model)))

    def __call__(self, feed: Mapping[str, Array]) -> list[Array]:
        """All outputs.

        Raises:
            CannotRun: The runtime refuses the model or the feed.
        """
        cut = self._cut
        given = dict(feed) if cut is None else {k: box(cut, k, v) for k, v in feed.items()}
        while True:
            if not self._runs:
                wide = self._left.pop(0)
                try:
                    self._runs.append((wide, Runner(in_float32(self._model) if wide else self._model)))
                except CannotRun:
                    if not self._left:
                        raise
                    continue
            wide, run = self._runs[-1]
            try:
                return [np.asarray(a) for a in run(feed_in_float32(given) if wide else given)]
            except CannotRun:
                if not self._left:
                    raise
                self._runs.clear()


@contextmanager
def asked(graph: Graph, model: Any, cut: Cut | None) -> Iterator[Any]:
    """What a metric gets: for a file a function of a feed, for a module the module itself in evaluation mode."""
    if isinstance(graph.source, ir.Model):
        yield answers(graph, model, cut)
        return
    import torch

    from graphprune.verify.torch import evaluated

    module = graph.source.module if model is None else model
    with evaluated(module), torch.no_grad():
        yield module
