"""Gradients of a loss at points of a model. In onnxruntime, with a gradient graph per set of input sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphprune.algebra.axis import Ids
from graphprune.calibration.adjoint import adjoint
from graphprune.calibration.heads import Head, heads
from graphprune.calibration.masks import with_masks
from graphprune.calibration.points import Wanted
from graphprune.data.parts import Feed
from graphprune.errors import InputError
from graphprune.graph.model import Array, Graph
from graphprune.graph.run import CannotRun, Runner

Seeds = Sequence[NDArray[np.float32]]
_KEPT = 4  # gradient graphs held ready


@dataclass(slots=True)
class _Ready:
    run: Runner
    seeds: tuple[str, ...]
    names: list[str]


class Gradients(Protocol):
    """A model that takes gradients at points."""

    heads: tuple[Head, ...]

    def outputs(self, feed: Feed) -> list[NDArray[np.float32]]:
        """Values of the heads."""
        ...

    def __call__(self, feed: Feed, seeds: Seeds) -> list[NDArray[np.float64]]:
        """What is wanted, in order, for gradients of the loss by the heads."""
        ...


@dataclass(frozen=True, slots=True)
class Masks:
    """Multipliers of units, given in every feed as ``MASKS``, float32 of shape (count,) with 1 in front.

    Attributes:
        places: Where they apply; the axes are those along which units lie.
        labels: Per place the units of every position, the columns last, 0 for none.
        count: Number of unit ids.
    """

    places: Sequence[Wanted]
    labels: Sequence[Ids]
    count: int


def gradients_of(
    graph: Graph,
    wanted: Sequence[Wanted],
    *,
    threads: int = 0,
    masks: Masks | None = None,
    ends: Sequence[Head] | None = None,
) -> Gradients:
    """Gradients of an ONNX model in onnxruntime, or of a traced module by autograd.

    Args:
        graph: The model.
        wanted: What to sum up at which points.
        threads: Threads of onnxruntime, 0 for as many as there are cores.
        masks: Multipliers to put in.
        ends: What the loss reads; the float outputs when None.

    Raises:
        InputError: The model has no float output, or no values.
    """
    if isinstance(graph.source, ir.Model):
        model = with_masks(graph, masks.places, masks.labels, masks.count) if masks is not None else None
        return OnnxGradients(graph, wanted, threads=threads, model=model, ends=ends)
    from graphprune.calibration.torch_gradients import TorchGradients

    return TorchGradients(graph, wanted, masks, ends)


class OnnxGradients:
    """Runs a model and its gradient graph.

    Args:
        graph: An ONNX model.
        wanted: What to sum up at which points.
        threads: Threads of onnxruntime, 0 for as many as there are cores.
        model: What to run in the place of the graph's own model, see :mod:`graphprune.calibration.masks`.
        ends: What the loss reads; the float outputs when None.
    """

    def __init__(
        self,
        graph: Graph,
        wanted: Sequence[Wanted],
        *,
        threads: int = 0,
        model: ir.Model | None = None,
        ends: Sequence[Head] | None = None,
    ) -> None:
        self.graph, self.wanted, self.threads = graph, tuple(wanted), threads
        self.model: ir.Model = graph.source if model is None else model
        self.heads: tuple[Head, ...] = heads(graph) if ends is None else tuple(ends)
        self._forward: Runner | None = None
        self._ready: dict[Any, _Ready] = {}

    def outputs(self, feed: Feed) -> list[NDArray[np.float32]]:
        """Values of the heads."""
        if self._forward is None:
            model = self.model.clone()
            values = {v.name: v for node in model.graph for v in node.outputs}
            model.graph.outputs.clear()
            model.graph.outputs.extend(_typed(values[h.name], self.graph) for h in self.heads)
            self._forward = self._runner(model)
        return [np.asarray(a, np.float32) for a in self._run(self._forward, feed)]

    def __call__(self, feed: Feed, seeds: Seeds) -> list[NDArray[np.float64]]:
        """What is wanted, in order, for gradients of the loss by the heads.

        Args:
            feed: Inputs.
            seeds: Per head an array of its sizes.
        """
        key = tuple((name, array.shape) for name, array in feed.items())
        if key not in self._ready:
            while len(self._ready) >= _KEPT:
                self._ready.pop(next(iter(self._ready)))
            shapes = {n: a.shape for n, a in feed.items()}
            made = adjoint(self.graph, [h.name for h in self.heads], self.wanted, shapes, self.model)
            self._ready[key] = _Ready(
                self._runner(made.model),
                made.seeds,
                [v.name or "" for v in made.model.graph.inputs],
            )
        ready = self._ready[key]
        given = dict(feed)
        for name, head, seed in zip(ready.seeds, self.heads, seeds, strict=True):
            dtype = ir.DataType[self.graph.values[head.name].dtype.upper()].numpy()
            given[name] = seed[..., None].astype(dtype)
        return [
            np.asarray(a, np.float64) for a in self._run(ready.run, {n: given[n] for n in ready.names if n in given})
        ]

    def _runner(self, model: ir.Model) -> Runner:
        try:
            return Runner(model, threads=self.threads)
        except CannotRun as error:
            raise InputError(f"{self.graph.name}: onnxruntime refuses its gradient graph ({error})") from None

    def _run(self, runner: Runner, feed: Feed) -> list[Any]:
        try:
            return runner(feed)
        except CannotRun as error:
            raise InputError(f"{self.graph.name}: onnxruntime cannot take gradients of the data ({error})") from None


def _typed(value: ir.Value, graph: Graph) -> ir.Value:
    facts = graph.values.get(value.name or "")
    if value.dtype is None and facts is not None and facts.dtype:
        value.type = ir.TensorType(ir.DataType[facts.dtype.upper()])
    return value


def single(graph: Graph, feeds: Sequence[Feed] | Any) -> Iterator[dict[str, Array]]:
    """The samples of some feeds one by one, where the batch axis is free."""
    axes = batch_axes(graph)
    for feed in feeds:
        sizes = {feed[n].shape[a] for n, a in axes.items() if n in feed}
        if len(sizes) != 1:
            yield dict(feed)
            continue
        for k in range(sizes.pop()):
            yield {n: np.take(a, [k], axes[n]) if n in axes else a for n, a in feed.items()}


def batch_axes(graph: Graph) -> dict[str, int]:
    """For each input its batch axis: the one that was looked at with one and with two samples."""
    if len(graph.input_shapes) < 2:
        return {}
    first, second = graph.input_shapes[0], graph.input_shapes[1]
    out = {}
    for name in graph.inputs:
        pairs = list(zip(first[name], second[name], strict=True))
        found = [a for a, pair in enumerate(pairs) if pair == (1, 2)]
        if found:
            out[name] = found[0]
    return out
