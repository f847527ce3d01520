"""Runs the original model and hands out any of its values, feed by feed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

import onnx_ir as ir

from graphprune.data.parts import Feed
from graphprune.errors import InputError
from graphprune.graph.model import Array, Graph
from graphprune.graph.run import CannotRun, Runner
from graphprune.graph.scopes import source_nodes
from graphprune.graph.sizes import cloned

Run = Callable[[Feed], dict[str, Array]]
HIDDEN = "\0states"  # behind a recurrent node's name: the sequence of its states, whether anything reads it or not


class Values(Protocol):
    """A model whose values can be read."""

    def has(self, name: str) -> bool:
        """Whether a value depends on the inputs and can be read."""
        ...

    def reader(self, names: Collection[str]) -> Run:
        """A function that runs the model on a feed and returns these values."""
        ...


def values_of(graph: Graph, threads: int) -> Values:
    """The values of a model, whatever it was read from."""
    if isinstance(graph.source, ir.Model):
        return OnnxValues(graph, threads)
    from graphprune.calibration.torch_values import TorchValues

    return TorchValues(graph)


class OnnxValues:
    """Values of an ONNX model at its top level, in onnxruntime.

    Args:
        graph: The model.
        threads: Threads of onnxruntime, 0 for its default.
    """

    def __init__(self, graph: Graph, threads: int) -> None:
        self._graph, self._threads = graph, threads
        self._inputs = frozenset(graph.inputs)
        model: ir.Model = graph.source
        self._made = {v.name for node in model.graph for v in node.outputs if v.name} - set(graph.weights)

    def has(self, name: str) -> bool:
        """Whether a value lies at the top level; those inside control flow cannot be read."""
        return name in self._made or name in self._inputs

    def reader(self, names: Collection[str]) -> Run:
        """A session of a clone with these values as its only outputs.

        Raises:
            InputError: The model does not run on a feed, or a value cannot be read.
        """
        names = list(dict.fromkeys(names))
        given = [n for n in names if n in self._inputs]
        wanted = [n for n in names if n not in self._inputs]
        if not wanted:
            return lambda feed: {n: feed[n] for n in given}
        runner, places = self._runner(wanted)
        read = frozenset(v.name for v in runner.session.get_inputs())

        def run(feed: Feed) -> dict[str, Array]:
            try:
                made = runner({n: a for n, a in feed.items() if n in read})
            except CannotRun as error:
                raise InputError(f"{self._graph.name}: does not run on the calibration data: {error}") from None
            return {n: feed[n] for n in given} | {n: made[places[n]] for n in wanted}

        return run

    def _runner(self, wanted: list[str]) -> tuple[Runner, dict[str, int]]:
        """The session, and which of its outputs a value is."""
        model = cloned(self._graph.source)
        values: dict[str, ir.Value] = {v.name: v for node in model.graph for v in node.outputs if v.name}
        for name, node in source_nodes(model):
            if f"{name}{HIDDEN}" in wanted:
                states = values[f"{name}{HIDDEN}"] = node.outputs[0]
                states.name = states.name or f"{name}_states"
        missing = [n for n in wanted if n not in values]
        if missing:
            raise InputError(f"{self._graph.name}: value {missing[0]!r} cannot be read at the top level of the model")
        outputs = list({id(values[n]): values[n] for n in wanted}.values())
        model.graph.outputs[:] = outputs
        for value in outputs:
            self._typed(value)
        try:
            runner = Runner(model, threads=self._threads)
        except CannotRun as error:
            raise InputError(f"{self._graph.name}: cannot be run for calibration: {error}") from None
        names = [v.name for v in outputs]
        return runner, {n: names.index(values[n].name) for n in wanted}

    def _typed(self, value: ir.Value) -> None:
        """Outputs need a type; the sizes are left open."""
        facts = self._graph.values.get(value.name or "")
        if facts is not None and facts.dtype.upper() in ir.DataType.__members__:
            value.type = ir.TensorType(ir.DataType[facts.dtype.upper()])
        value.shape = None
