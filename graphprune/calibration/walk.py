"""Runs a model over calibration data one stretch of nodes at a time.

Between two stretches only the values that are still to be read are held, for all feeds. So a weight can be changed in
the middle of the model once its inputs are known, and every node runs once per feed all the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import onnx_ir as ir

from graphprune.calibration.store import Store
from graphprune.data.parts import Feed
from graphprune.graph.model import Array
from graphprune.graph.run import Runner
from graphprune.graph.scopes import graphs


class Walk:
    """A model on its way through its nodes.

    Args:
        model: The model; weights may be exchanged ahead of the walk.
        feeds: Inputs by name.
        store: Where values are held between stretches.
        wanted: Values that are held until :meth:`release`, beside those that later nodes read.
        threads: Threads of onnxruntime, 0 for its default.
    """

    def __init__(
        self,
        model: ir.Model,
        feeds: Iterable[Feed],
        store: Store,
        *,
        wanted: Collection[str] = (),
        threads: int = 0,
    ) -> None:
        self._model, self._store, self._threads = model, store, threads
        self._nodes = list(model.graph)
        self._values = {v.name or "": v for v in _top_values(model.graph)}
        self._wanted = dict.fromkeys(wanted, 1)
        self._varying = _varying(model.graph)
        self._last = self._last_reads()
        self._made = {o.name: i for i, n in enumerate(self._nodes) for o in n.outputs if o.name}
        self._live: dict[str, None] = {}
        self._place = 0
        self.feeds = 0
        for feed in feeds:
            for name, array in feed.items():
                if name in self._last or name in self._wanted:
                    store.put(self._key(name), self.feeds, array)
                    self._live[name] = None
            self.feeds += 1

    def _key(self, name: str) -> str:
        return f"{id(self)}/{name}"

    def _last_reads(self) -> dict[str, int]:
        """Per varying value the last node that reads it."""
        out: dict[str, int] = {}
        for i, node in enumerate(self._nodes):
            for value in _reads(node, self._model.graph):
                if value.name in self._varying:
                    out[value.name] = i
        return out

    def makes(self, name: str) -> bool:
        """Whether a value of this name is made at the top level from the inputs."""
        return name in self._varying and name in self._made

    def run_past(self, name: str) -> None:
        """Run up to and including the node that makes a value."""
        self._run(self._made[name] + 1)

    def run_to(self, name: str) -> None:
        """Run up to the node that makes a value, without it."""
        self._run(self._made[name])

    def has(self, name: str) -> bool:
        """Whether a value is held now."""
        return name in self._live

    def value(self, name: str) -> Iterator[Array]:
        """What a value holds, feed by feed."""
        for feed in range(self.feeds):
            yield self._store.get(self._key(name), feed)

    def peek(self, name: str) -> Iterator[Array]:
        """What a value ahead will hold, feed by feed, without going there."""
        if self.has(name):
            yield from self.value(name)
            return
        stretch = self._nodes[self._place : self._made[name] + 1]
        read = {v.name for n in stretch for v in _reads(n, self._model.graph)}
        inputs = [n for n in self._live if n in read]
        runner = self._runner(inputs, [name])
        for feed in range(self.feeds):
            yield runner({n: self._store.get(self._key(n), feed) for n in inputs})[0]

    def want(self, name: str) -> None:
        """Hold a value until it is released, whoever else reads it."""
        self._wanted[name] = 1

    def release(self, name: str) -> None:
        """A wanted value is not needed any more."""
        self._wanted.pop(name, None)
        if name in self._live and self._last.get(name, -1) < self._place:
            del self._live[name]
            self._store.drop(self._key(name), self.feeds)

    def _run(self, stop: int) -> None:
        """Run all nodes in front of a place."""
        if stop <= self._place:
            return
        stretch = self._nodes[self._place : stop]
        made = [o.name for n in stretch for o in n.outputs if o.name in self._varying]
        kept = [n for n in made if n and (self._last.get(n, -1) >= stop or n in self._wanted)]
        self._place = stop
        if kept:
            read = {v.name for n in stretch for v in _reads(n, self._model.graph)}
            inputs = [n for n in self._live if n in read]
            self._carry_out(inputs, kept)
            self._live.update(dict.fromkeys(kept))
        self._sweep()

    def _carry_out(self, inputs: Sequence[str], kept: Sequence[str]) -> None:
        runner = self._runner(inputs, kept)
        for feed in range(self.feeds):
            made = runner({n: self._store.get(self._key(n), feed) for n in inputs})
            for name, array in zip(kept, made, strict=True):
                self._store.put(self._key(name), feed, array)

    def _runner(self, inputs: Sequence[str], made: Sequence[str]) -> Runner:
        sample = {n: self._store.get(self._key(n), 0) for n in inputs}
        return Runner(self._piece(sample, made), threads=self._threads)

    def _piece(self, sample: Mapping[str, Array], kept: Sequence[str]) -> ir.Model:
        """The stretch between some values as a model."""
        piece = ir.convenience.extract(
            self._model.graph, [self._values[n] for n in sample], [self._values[n] for n in kept]
        )
        for value in piece.inputs:
            array = sample[value.name or ""]
            value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype) if array.dtype != object else _STRING)
            value.shape = ir.Shape([None] * array.ndim)
        return ir.Model(piece, ir_version=self._model.ir_version, functions=tuple(self._model.functions.values()))

    def _sweep(self) -> None:
        done = [n for n in self._live if self._last.get(n, -1) < self._place and n not in self._wanted]
        for name in done:
            del self._live[name]
            self._store.drop(self._key(name), self.feeds)


_STRING = ir.DataType.STRING


def _reads(node: ir.Node, graph: ir.Graph) -> Iterator[ir.Value]:
    """Values of the top level that a node or its subgraphs read."""
    yield from (v for v in node.inputs if v is not None)
    for inner in graphs(node):
        for part in ir.traversal.RecursiveGraphIterator(inner):
            yield from (v for v in part.inputs if v is not None and v.graph is graph)
        yield from (v for v in inner.outputs if v.graph is graph)


def _top_values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _varying(graph: ir.Graph) -> set[str]:
    """Names of the values that depend on the inputs, or are drawn."""
    out: set[str] = {v.name for v in graph.inputs if v.name and not v.is_initializer()}
    for node in graph:
        if any(v.name in out for v in _reads(node, graph)) or node.op_type.startswith("Random"):
            out.update(o.name for o in node.outputs if o.name)
    return out
