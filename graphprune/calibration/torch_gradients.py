"""Gradients of a loss at points of a traced module, by autograd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from graphprune.calibration.gradients import Masks, Seeds
from graphprune.calibration.heads import Head, heads
from graphprune.calibration.masks import MASKS
from graphprune.calibration.points import Point, Wanted
from graphprune.data.parts import Feed
from graphprune.errors import InputError
from graphprune.graph.model import Graph, Node
from graphprune.graph.torch_program import flat_inputs, named_tensors, unlifted
from graphprune.graph.torch_slots import given_tensors, put_back


class TorchGradients:
    """Runs the captured graph of a module with a tape.

    Args:
        graph: The module's graph.
        wanted: What to sum up at which points.
        masks: Multipliers to put in.
        ends: What the loss reads; the float outputs when None.

    Raises:
        InputError: The module has no values, or no float output.
    """

    def __init__(
        self, graph: Graph, wanted: Sequence[Wanted], masks: Masks | None = None, ends: Sequence[Head] | None = None
    ) -> None:
        self.graph, self.wanted = graph, tuple(wanted)
        self.heads: tuple[Head, ...] = heads(graph) if ends is None else tuple(ends)
        self._tape = _Tape(graph, {w.point for w in wanted}, [h.name for h in self.heads], masks)

    def outputs(self, feed: Feed) -> list[NDArray[np.float32]]:
        """Values of the heads."""
        with torch.no_grad():
            return [_array(t) for t in self._ran(feed)]

    def __call__(self, feed: Feed, seeds: Seeds) -> list[NDArray[np.float64]]:
        """What is wanted, in order, for gradients of the loss by the heads."""
        with torch.enable_grad():
            made = self._ran(feed)
            taped = self._tape.taped
            given = [torch.from_numpy(np.ascontiguousarray(s)).to(t) for s, t in zip(seeds, made, strict=True)]
            kept = [(t, s) for t, s in zip(made, given, strict=True) if t.requires_grad]
            points = list(taped)
            grads = torch.autograd.grad(
                [t for t, _ in kept], [taped[p] for p in points], [s for _, s in kept], allow_unused=True
            )
        found = dict(zip(points, grads, strict=True))
        missing = next((w.point.node for w in self.wanted if w.point not in found), None)
        if missing is not None:
            raise InputError(f"{self.graph.name}: node {missing} has no tensor to take a gradient at")
        return [_summed(w, taped[w.point].detach(), found[w.point]) for w in self.wanted]

    def _ran(self, feed: Feed) -> list[Tensor]:
        try:
            return self._tape(feed)
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            raise InputError(f"{self.graph.name}: does not run on the calibration data: {text}") from None


def _array(t: Tensor) -> NDArray[np.float32]:
    return np.asarray(t.detach().float().cpu().numpy())


def _summed(want: Wanted, value: Tensor, grad: Tensor | None) -> NDArray[np.float64]:
    grad = torch.zeros_like(value) if grad is None else grad
    value, grad = value.double(), grad.double()
    if want.what == "product":
        grad = value * grad
    elif want.what in ("square", "mean_square"):
        grad = grad * grad
    if want.axes is not None:
        gone = [a for a in range(grad.ndim) if a not in want.axes]
        size = grad.numel()
        grad = grad.sum(gone) if gone else grad
        if want.what == "squared_sum":
            grad = grad * grad
        if want.what in ("mean_square", "squared_sum"):
            grad = grad * (grad.numel() / max(size, 1))
    return np.asarray(grad.cpu().numpy(), np.float64)


class _Tape(fx.Interpreter):
    """Runs the captured graph, remembers the tensors at points, and multiplies with masks."""

    def __init__(self, graph: Graph, points: set[Point], names: Sequence[str], masks: Masks | None) -> None:
        self._graph, self._traced, self._names = graph, graph.source, names
        whole = unlifted(self._traced.program)
        super().__init__(whole)
        self._state = {n: t.detach() for n, t in named_tensors(self._traced.module)}
        if any(t.is_meta for t in self._state.values()):
            raise InputError(f"{graph.name}: has no values, it is on the meta device")
        self._flat = flat_inputs(whole, self._traced.args, self._traced.kwargs)
        self._neutral: dict[str, Node] = {n.name: n for n in graph.nodes}
        self._points: dict[str, list[Point]] = {}
        for point in points:
            self._points.setdefault(point.node, []).append(point)
        self._masks: dict[str, list[tuple[Wanted, Tensor]]] = {}
        for place, labels in zip(masks.places, masks.labels, strict=True) if masks is not None else ():
            rows = torch.from_numpy(np.asarray(labels, np.int64))
            self._masks.setdefault(place.point.node, []).append((place, rows))
        self._given: Tensor | None = None
        self._heads: dict[str, Tensor] = {}
        self.taped: dict[Point, Tensor] = {}

    def __call__(self, feed: Feed) -> list[Tensor]:
        """The heads for one set of inputs by placeholder."""
        self.taped, self._heads = {}, {}
        self._given = torch.from_numpy(feed[MASKS]) if MASKS in feed else None
        self.run(*self._inputs(feed), enable_io_processing=False)
        return [self._heads[name] for name in self._names]

    def _inputs(self, feed: Mapping[str, Any]) -> list[Any]:
        """Inputs in the order of the program; what is no tensor is that of the example."""
        names = self._traced.program.graph_signature.user_inputs
        given = []
        for name, example in zip(names, self._flat, strict=True):
            if isinstance(name, str) and name in feed and isinstance(example, Tensor):
                given.append(torch.from_numpy(np.ascontiguousarray(feed[name])).to(example.device))
            else:
                given.append(example)
        return given

    def fetch_attr(self, target: str) -> Any:
        """A stored tensor as the module has it now."""
        found = self._state.get(self._traced.tied.get(target, target))
        return super().fetch_attr(target) if found is None else found

    def run_node(self, n: fx.Node) -> Any:
        """Run a node with what it reads masked and taped, and tape what it gives."""
        made = self._made(n)
        node = self._neutral.get(n.name)
        if node is None or n.op != "call_function":
            return made
        results = list(made) if isinstance(made, tuple | list) else [made]
        for number, name in enumerate(node.outputs[: len(results)]):
            point = Point(n.name, -1 - number)
            if point in self._points.get(n.name, ()):
                results[number] = self._taken(point, results[number])
            if name in self._names:
                self._heads[name] = results[number]
        return type(made)(results) if isinstance(made, tuple | list) else results[0]

    def _made(self, n: fx.Node) -> Any:
        slots = [p for p in self._points.get(n.name, ()) if p.slot >= 0]
        masks = self._masks.get(n.name, []) if self._given is not None else []
        if n.op != "call_function" or not (slots or masks):
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        tensors = given_tensors(n, args, kwargs)
        for place, labels in masks:
            tensors[place.point.slot] = self._masked(tensors[place.point.slot], place, labels)
        for point in slots:
            tensors[point.slot] = self._taken(point, tensors[point.slot])
        args, kwargs = put_back(n, args, kwargs, tensors)
        return n.target(*args, **kwargs)  # type: ignore[operator]

    def _taken(self, point: Point, value: Tensor) -> Tensor:
        """A tensor of its own, at which a gradient can be asked for."""
        copy = value.clone() if value.requires_grad else value.clone().requires_grad_(torch.is_grad_enabled())
        self.taped[point] = copy
        return copy

    def _masked(self, value: Tensor, place: Wanted, labels: Tensor) -> Tensor:
        assert self._given is not None
        assert place.axes is not None
        factor = self._given.to(value.device)[labels.to(value.device)].prod(-1)
        shape = [1] * value.ndim
        for axis in place.axes:
            shape[axis] = value.shape[axis]
        factor = factor.repeat([value.shape[a] // n for a, n in zip(place.axes, factor.shape, strict=True)])
        return value * factor.reshape(shape).to(value.dtype)
