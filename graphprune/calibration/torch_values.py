"""Runs a traced module and hands out any of its values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import fx

from graphprune.calibration.values import Run
from graphprune.data.parts import Feed
from graphprune.errors import InputError
from graphprune.graph.model import Array, Graph, Node
from graphprune.graph.torch_program import flat_inputs, named_tensors, unlifted
from graphprune.graph.torch_types import array_of


class TorchValues:
    """Values of a traced module, on the device that its weights lie on.

    Args:
        graph: The module's graph.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._made = {name for node in graph.nodes for name in node.outputs if name}

    def has(self, name: str) -> bool:
        """Whether a value is an input or made by a node of the captured graph."""
        return name in self._made or name in self._graph.inputs

    def reader(self, names: Collection[str]) -> Run:
        """An interpreter that keeps these values.

        Raises:
            InputError: The module does not run on a feed, or has no values.
        """
        given = [n for n in names if n in self._graph.inputs]
        interpreter = _Kept(self._graph, frozenset(names))

        def run(feed: Feed) -> dict[str, Array]:
            return {n: feed[n] for n in given} | interpreter(feed)

        return run


class _Kept(fx.Interpreter):
    """Runs the captured graph and keeps some of its values."""

    def __init__(self, graph: Graph, names: frozenset[str]) -> None:
        self._graph, self._traced, self._names = graph, graph.source, names
        whole = unlifted(self._traced.program)
        super().__init__(whole)
        self._state = {n: t.detach() for n, t in named_tensors(self._traced.module)}
        if any(t.is_meta for t in self._state.values()):
            raise InputError(f"{graph.name}: has no values, it is on the meta device")
        self._neutral: dict[str, Node] = {n.name: n for n in graph.nodes if names & set(n.outputs)}
        self._flat = flat_inputs(whole, self._traced.args, self._traced.kwargs)
        self._kept: dict[str, Array] = {}

    def __call__(self, feed: Feed) -> dict[str, Array]:
        """The values for one set of inputs by placeholder."""
        self._kept = {}
        try:
            with torch.no_grad():
                self.run(*self._inputs(feed), enable_io_processing=False)
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            raise InputError(f"{self._graph.name}: does not run on the calibration data: {text}") from None
        return self._kept

    def _inputs(self, feed: Mapping[str, Array]) -> list[Any]:
        """Inputs in the order of the program; what is no tensor is that of the example."""
        names = self._traced.program.graph_signature.user_inputs
        given = []
        for name, example in zip(names, self._flat, strict=True):
            if isinstance(name, str) and name in feed and isinstance(example, torch.Tensor):
                given.append(torch.from_numpy(feed[name]).to(example.device))
            else:
                given.append(example)
        return given

    def fetch_attr(self, target: str) -> Any:
        """A stored tensor as the module has it now."""
        found = self._state.get(self._traced.tied.get(target, target))
        return super().fetch_attr(target) if found is None else found

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and keep what is wanted of its results."""
        made = super().run_node(n)
        node = self._neutral.get(n.name)
        if node is not None and n.op == "call_function":
            results = made if isinstance(made, tuple | list) else [made]
            for name, result in zip(node.outputs, results, strict=False):
                if name in self._names and isinstance(result, torch.Tensor):
                    self._kept[name] = array_of(result).copy()
        return made
