"""Distillation on the file itself: all weights together learn to give the original's outputs, without labels.

Gradients come from the gradient graph of :mod:`graphprune.calibration.gradients`, in onnxruntime; the weights are
inputs of that graph while they learn. The loss is the squared error of the outputs (in front of a softmax or sigmoid),
relative to their variance. Steps are relative to the size of each tensor, so that one rate fits all models.

Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015; Kingma, Ba, "Adam", 2015; You et
al., "Large Batch Optimization for Deep Learning" (LAMB), 2020 (steps relative to a tensor's norm).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphprune.calibration.adam import Adam
from graphprune.calibration.gradients import Gradients, gradients_of
from graphprune.calibration.heads import Head, heads
from graphprune.calibration.layers import layers
from graphprune.calibration.points import Point, Wanted
from graphprune.cost.model import CostModel
from graphprune.coupling.cut import Cut
from graphprune.data.parts import Feed, rows
from graphprune.errors import InputError
from graphprune.graph.bypass import stand_ins
from graphprune.graph.model import Array, Graph
from graphprune.graph.onnx import load
from graphprune.graph.run import Runner
from graphprune.recover.contents import exchange
from graphprune.recover.paired import Job, LayerError
from graphprune.rewrite.values import stored_value
from graphprune.verify.inner import box, exposed, present

_STEPS = 300
_EPOCHS = 40
_WORK = 1.5e12  # multiply-accumulates
_WARM = 0.05  # share of the steps in which the rate rises
_RATE = 1e-2  # of a tensor's root mean square, at its highest
_LOOK = 10  # steps whose mean shows whether it goes well
_WORSE = 2.0  # of what the same feeds lost at the start: begin again at a third of the rate
_TINY = 1e-12
_FLOATS = ("float", "float32")
_STORED = ("initializer", "constant")


@dataclass
class _Tensor:
    """A weight that learns.

    Attributes:
        weight: Its name in the graph.
        name: Its name in the file.
        point: Where its gradient is taken.
        value: Its content now.
        scale: Its root mean square at the start.
        start: Its content at the start.
        adam: What its gradients have been.
    """

    weight: str
    name: str
    point: Point
    value: NDArray[np.float32]
    scale: float
    start: NDArray[np.float32]
    adam: Adam

    def restart(self) -> None:
        """Forget what was learned."""
        self.value, self.adam = self.start.copy(), Adam(_TINY)

    def learn(self, gradient: Array, rate: float) -> None:
        """One step of gradient descent, none where the gradient is not finite: a square root has none at zero."""
        if np.isfinite(gradient).all():
            self.value -= np.float32(rate * self.scale) * self.adam(gradient)


def distill(job: Job, *, steps: int | None = None) -> list[LayerError]:
    """Let all layers of a pruned model learn from the original, in place.

    Args:
        job: What to work on; the seed draws the order of the feeds, one of which is looked at at a time.
        steps: Steps of gradient descent; by default 300, fewer for large models and few feeds.

    Raises:
        InputError: The model has no gradient, no weight that could learn, or onnx-ad is not installed.
    """
    small = job.small
    if not isinstance(small.source, ir.Model):
        raise InputError(f"{small.name}: distill works on ONNX files; a module can be trained by its own code")
    found = heads(small)
    tensors = list(_tensors(small))
    if not tensors:
        raise InputError(f"{small.name}: no layer has a float32 weight of its own that could learn")
    opened = load(_with_inputs(small.source, tensors))
    run = gradients_of(opened, [Wanted(t.point, None, "gradient") for t in tensors])
    feeds = list(job.samples)
    targets = list(_targets(job.cut, found, feeds))
    spread = [float(np.var(np.concatenate([t[i].ravel() for t in targets]))) for i in range(len(found))]
    steps = _affordable(job.cut, feeds) if steps is None else steps
    _train(_Teacher(run, tensors, spread), list(zip(feeds, targets, strict=True)), steps, job)
    for tensor in tensors:
        exchange(small, tensor.weight, tensor.value)
    return []


def _train(teacher: _Teacher, lessons: Sequence[tuple[Feed, list[Array]]], steps: int, job: Job) -> None:
    """One lesson, a feed and what the original gives, per step, in an order drawn anew for every round."""
    first = [teacher.loss(*lesson) for lesson in lessons]
    rng = np.random.default_rng(job.seed)
    order: list[int] = []
    rate, recent = _RATE, list[tuple[float, float]]()  # what feeds lose now, what they lost at the start
    for step in range(1, steps + 1):
        order = order or list(rng.permutation(len(lessons)))
        k = order.pop()
        share = min(1.0, step / (_WARM * steps)) * 0.5 * (1 + np.cos(np.pi * (step - 1) / steps))
        recent = [*recent, (teacher.learn(*lessons[k], rate * share), first[k])][-_LOOK:]
        now, start = np.mean(recent, axis=0)
        if not now < _WORSE * start:
            rate, recent = rate / 3, []
            for tensor in teacher.tensors:
                tensor.restart()
        if step % 20 == 0:
            job.progress(f"{step}/{steps}")


def _affordable(cut: Cut, feeds: Sequence[Feed]) -> int:
    """How many steps: gradients take about three times what a run takes, and the outputs are computed before."""
    work = 4 * CostModel(cut.deps).costs(cut.removed).macs * rows(feeds[0])
    return max(1, min(_STEPS, _EPOCHS * len(feeds), int(_WORK / max(work, 1))))


@dataclass(frozen=True)
class _Teacher:
    """Lets tensors learn from what the original gives.

    Attributes:
        run: The gradient graph; tensors are inputs.
        tensors: What learns.
        spread: Per head the variance of what the original gives.
    """

    run: Gradients
    tensors: Sequence[_Tensor]
    spread: Sequence[float]

    def loss(self, feed: Feed, target: Sequence[Array]) -> float:
        """Mean over the heads of the squared error relative to the variance."""
        return self._loss(self._off(self._given(feed), target))

    def learn(self, feed: Feed, target: Sequence[Array], rate: float) -> float:
        """One step; the loss before."""
        given = self._given(feed)
        off = self._off(given, target)
        scales = [2 / max(s * d.size * len(off), _TINY) for d, s in zip(off, self.spread, strict=True)]
        seeds = [(d * scale).astype(np.float32) for d, scale in zip(off, scales, strict=True)]
        for tensor, gradient in zip(self.tensors, self.run(given, seeds), strict=True):
            tensor.learn(gradient.astype(np.float32), rate)
        return self._loss(off)

    def _given(self, feed: Feed) -> Feed:
        return {**feed, **{t.name: t.value for t in self.tensors}}

    def _off(self, given: Feed, target: Sequence[Array]) -> list[Array]:
        return [made - wanted for made, wanted in zip(self.run.outputs(given), target, strict=True)]

    def _loss(self, off: Sequence[Array]) -> float:
        return float(np.mean([np.mean(d**2) / max(s, _TINY) for d, s in zip(off, self.spread, strict=True)]))


def _tensors(small: Graph) -> Iterator[_Tensor]:
    """Weights and biases of all layers, float32, each read once."""
    for layer in layers(small):
        node = layer.linear.node
        for name in (layer.weight, layer.bias):
            weight = small.weights.get(name)
            if weight is None or weight.dtype not in _FLOATS or weight.origin not in _STORED:
                continue
            reader = node if name in node.inputs else next(n for n in small.nodes if name in n.inputs)
            value = np.array(weight.read(), np.float32)
            scale = float(np.sqrt(np.mean(value**2))) or 1e-3
            point = Point(reader.name, list(reader.inputs).index(name))
            yield _Tensor(name, weight.source, point, value, scale, value.copy(), Adam(_TINY))


def _with_inputs(model: ir.Model, tensors: Sequence[_Tensor]) -> ir.Model:
    """The model with initializers and constants as inputs."""
    out = model.clone()
    for tensor in tensors:
        value = stored_value(out, tensor.name)
        node = value.producer()
        if node is None:
            out.graph.initializers.pop(tensor.name)
            value.const_value = None
            out.graph.inputs.append(value)
            continue
        kind, shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(tensor.value.shape)
        opened = ir.Value(name=tensor.name, type=kind, shape=shape)
        ir.convenience.replace_all_uses_with(value, opened)
        out.graph.remove(node, safe=True)
        out.graph.inputs.append(opened)
    return out


def _targets(cut: Cut, found: Sequence[Head], feeds: Iterable[Mapping[str, Array]]) -> Iterator[list[Array]]:
    """Per feed what the original gives at the heads, of the pruned sizes."""
    graph, meant = cut.deps.source.origin, stand_ins(cut.deps.source)
    own = [h.name for h in found]
    names = [meant.get(n, n) for n in own]
    missing = set(names) - {*present([graph.source], names)}
    if missing:
        raise InputError(f"{graph.name}: the original has no value {min(missing)} to learn from")
    model = exposed(graph.source, graph, [n for n in names if n not in graph.outputs])
    outputs = [o.name for o in model.graph.outputs]
    runner = Runner(model)
    for feed in feeds:
        made = dict(zip(outputs, runner(feed), strict=True))
        yield [box(cut, o, np.asarray(made[n], np.float32)) for o, n in zip(own, names, strict=True)]
