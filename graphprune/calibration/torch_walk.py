"""Runs a traced module over calibration data one stretch of nodes at a time, as :class:`Walk` does ONNX models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import fx

from graphprune.calibration.store import Store
from graphprune.errors import InputError
from graphprune.graph.model import Array, Graph
from graphprune.graph.torch_feed import tensor_of
from graphprune.graph.torch_program import flat_inputs, named_tensors, unlifted
from graphprune.graph.torch_types import array_of


class TorchWalk:
    """A traced module on its way through its nodes; its tensors may be changed ahead of the walk.

    Args:
        graph: The module's graph.
        feeds: Inputs by name of the placeholder.
        store: Where values are held between stretches.
    """

    def __init__(self, graph: Graph, feeds: Iterable[Mapping[str, Array]], store: Store) -> None:
        self._graph, self._store, self._traced = graph, store, graph.source
        self._whole = unlifted(self._traced.program)
        nodes = list(self._whole.graph.nodes)
        self._nodes: list[fx.Node] = [n for n in nodes if n.op not in ("placeholder", "get_attr", "output")]
        self._order = {n: k for k, n in enumerate(self._nodes)}
        self._last = {n: max((self._order.get(u, -1) for u in n.users), default=-1) for n in nodes}
        self._given = [n for n in nodes if n.op == "placeholder"]
        by_name = {n.name: n for n in self._nodes}
        self._places: dict[str, tuple[fx.Node, int]] = {
            o: (by_name[n.name], k) for n in graph.nodes if n.name in by_name for k, o in enumerate(n.outputs) if o
        }
        self._fixed: dict[fx.Node, Any] = {}
        self._wanted: dict[fx.Node, int] = {}
        self._live: dict[fx.Node, torch.device | None] = {}
        self._place = 0
        self._interpreter = _Part(self._whole, self._traced, graph.name)
        self.feeds = 0
        self._take(feeds)
        self._varying = self._dependent()

    def _take(self, feeds: Iterable[Mapping[str, Array]]) -> None:
        names = self._traced.program.graph_signature.user_inputs
        flat = flat_inputs(self._whole, self._traced.args, self._traced.kwargs)
        examples = dict(zip(self._given, flat, strict=True))
        for name, node in zip(names, self._given, strict=True):
            if isinstance(name, str) and name in self._graph.inputs:
                self._places[name] = (node, 0)
            else:
                self._fixed[node] = examples[node]
        inputs = {n: self._places[n][0] for n in self._graph.inputs if n in self._places}
        for feed in feeds:
            for name, node in inputs.items():
                example = examples[node]
                self._put(node, self.feeds, tensor_of(feed[name]).to(example.device) if name in feed else example)
            self.feeds += 1

    def _dependent(self) -> set[fx.Node]:
        out = {n for n in self._given if n not in self._fixed}
        for node in self._nodes:
            if any(given in out for given in node.all_input_nodes):
                out.add(node)
        return out

    def _put(self, node: fx.Node, feed: int, value: Any) -> None:
        plain = isinstance(value, torch.Tensor)
        self._live[node] = value.device if plain else None
        self._store.put(self._key(node), feed, array_of(value).copy() if plain else value)

    def _get(self, node: fx.Node, feed: int) -> Any:
        found, device = self._store.get(self._key(node), feed), self._live[node]
        return found if device is None else tensor_of(found).to(device)

    def _key(self, node: fx.Node) -> str:
        return f"{id(self)}/{node.name}"

    def makes(self, name: str) -> bool:
        """Whether a node makes a value of this name from the inputs."""
        found = self._places.get(name)
        return found is not None and found[0] in self._varying and found[0] in self._order

    def run_past(self, name: str) -> None:
        """Run up to and including the node that makes a value."""
        self._run(self._order[self._places[name][0]] + 1)

    def run_to(self, name: str) -> None:
        """Run up to the node that makes a value, without it."""
        self._run(self._order[self._places[name][0]])

    def has(self, name: str) -> bool:
        """Whether a value is held now."""
        return name in self._places and self._places[name][0] in self._live

    def value(self, name: str) -> Iterator[Array]:
        """What a value holds, feed by feed."""
        node, place = self._places[name]
        for feed in range(self.feeds):
            yield _array(self._get(node, feed), place)

    def peek(self, name: str) -> Iterator[Array]:
        """What a value ahead will hold, feed by feed, without going there."""
        if self.has(name):
            yield from self.value(name)
            return
        node, place = self._places[name]
        for feed in range(self.feeds):
            yield _array(self._carry_out(feed, {node})[node], place)

    def want(self, name: str) -> None:
        """Hold a value until it is released, whoever else reads it."""
        node = self._places[name][0]
        self._wanted[node] = self._wanted.get(node, 0) + 1

    def release(self, name: str) -> None:
        """A wanted value is not needed any more."""
        node = self._places[name][0]
        self._wanted[node] = self._wanted.get(node, 1) - 1
        if self._wanted[node] <= 0:
            del self._wanted[node]
        self._sweep()

    def _run(self, stop: int) -> None:
        if stop <= self._place:
            return
        made = [n for n in self._nodes[self._place : stop] if n in self._varying]
        kept = {n for n in made if self._last[n] >= stop or n in self._wanted}
        for feed in range(self.feeds):
            found = self._carry_out(feed, kept)
            for node in kept:
                self._put(node, feed, found[node])
        self._place = stop
        self._sweep()

    def _carry_out(self, feed: int, kept: set[fx.Node]) -> dict[fx.Node, Any]:
        """Run what some values need on a feed."""
        held: dict[fx.Node, Any] = {}
        interpreter = self._interpreter
        needed = self._needed(kept)
        env = interpreter.env = {}
        for k in needed:
            node = self._nodes[k]
            for given in node.all_input_nodes:
                if given not in env:
                    env[given] = self._value(given, feed)
            env[node] = interpreter.run_one(node)
            if node in kept:
                held[node] = env[node]
            for given in {*node.all_input_nodes, node}:
                if self._last[given] <= k:
                    env.pop(given, None)
        return held

    def _value(self, node: fx.Node, feed: int) -> Any:
        if node.op == "get_attr":
            return self._interpreter.fetch_attr(str(node.target))
        return self._fixed[node] if node in self._fixed else self._get(node, feed)

    def _needed(self, kept: set[fx.Node]) -> list[int]:
        """Nodes that have to run for some values, in order; constants are computed anew in each stretch."""
        todo, seen = list(kept), set(kept)
        while todo:
            for given in todo.pop().all_input_nodes:
                if given in self._order and given not in seen and given not in self._live:
                    seen.add(given)
                    todo.append(given)
        return sorted(self._order[n] for n in seen)

    def _sweep(self) -> None:
        for node in [n for n in self._live if self._last[n] < self._place and n not in self._wanted]:
            del self._live[node]
            self._store.drop(self._key(node), self.feeds)


class _Part(fx.Interpreter):
    """Runs single nodes, with the tensors that the module has now."""

    def __init__(self, whole: fx.GraphModule, traced: Any, name: str) -> None:
        super().__init__(whole)
        self._tied, self._name = traced.tied, name
        self._state = {n: t.detach() for n, t in named_tensors(traced.module)}
        if any(t.is_meta for t in self._state.values()):
            raise InputError(f"{name}: has no values, it is on the meta device")

    def fetch_attr(self, target: str) -> Any:
        """A stored tensor as the module has it now."""
        found = self._state.get(self._tied.get(target, target))
        return super().fetch_attr(target) if found is None else found

    def run_one(self, node: fx.Node) -> Any:
        """Run a node whose inputs lie in ``env``.

        Raises:
            InputError: It does not run on these inputs.
        """
        try:
            with torch.no_grad():
                return self.run_node(node)
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            raise InputError(f"{self._name}: does not run on the calibration data: {text}") from None


def _array(made: Any, place: int) -> Array:
    found = made[place] if isinstance(made, tuple | list) else made
    return array_of(found)
