"""A walk over any kind of model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import onnx_ir as ir

from graphprune.calibration.recurrent import with_states
from graphprune.calibration.store import Store
from graphprune.calibration.walk import Walk
from graphprune.graph.bypass import stand_ins
from graphprune.graph.model import Array, Graph


class Walking(Protocol):
    """A model on its way through its nodes; :class:`Walk` says what each part does."""

    feeds: int

    def makes(self, name: str) -> bool:
        """Whether a node makes a value of this name from the inputs."""
        ...

    def has(self, name: str) -> bool:
        """Whether a value is held now."""
        ...

    def value(self, name: str) -> Iterator[Array]:
        """What a value holds, feed by feed."""
        ...

    def peek(self, name: str) -> Iterator[Array]:
        """What a value ahead will hold, feed by feed, without going there."""
        ...

    def run_past(self, name: str) -> None:
        """Run up to and including the node that makes a value."""
        ...

    def run_to(self, name: str) -> None:
        """Run up to the node that makes a value, without it."""
        ...

    def want(self, name: str) -> None:
        """Hold a value until it is released."""
        ...

    def release(self, name: str) -> None:
        """A wanted value is not needed any more."""
        ...


def walk(graph: Graph, feeds: Iterable[Mapping[str, Array]], store: Store, *, states: bool = False) -> Walking:
    """A walk over a model from its inputs.

    Args:
        graph: An ONNX model or a traced module.
        feeds: Inputs by name.
        store: Where values are held between stretches.
        states: Whether recurrent layers give out their states where the model does not read them.
    """
    if isinstance(graph.source, ir.Model):
        return Walk(with_states(graph.source, graph) if states else graph.source, feeds, store)
    from graphprune.calibration.torch_walk import TorchWalk

    return TorchWalk(graph, feeds, store)


def walk_origin(graph: Graph, feeds: Iterable[Mapping[str, Array]], store: Store, *, states: bool = False) -> Walking:
    """A walk over the original, in which values are called as in a graph that bypasses some of its branches.

    A value that is read in the place of another there has that one's content.
    """
    whole = walk(graph.origin, feeds, store, states=states)
    meant = stand_ins(graph)
    return _Renamed(whole, meant) if meant else whole


class _Renamed:
    """A walk whose values go by other names."""

    def __init__(self, walking: Walking, names: Mapping[str, str]) -> None:
        self._walking, self._names = walking, names
        self.feeds = walking.feeds

    def _real(self, name: str) -> str:
        return self._names.get(name, name)

    def makes(self, name: str) -> bool:
        return self._walking.makes(self._real(name))

    def has(self, name: str) -> bool:
        return self._walking.has(self._real(name))

    def value(self, name: str) -> Iterator[Array]:
        return self._walking.value(self._real(name))

    def peek(self, name: str) -> Iterator[Array]:
        return self._walking.peek(self._real(name))

    def run_past(self, name: str) -> None:
        self._walking.run_past(self._real(name))

    def run_to(self, name: str) -> None:
        self._walking.run_to(self._real(name))

    def want(self, name: str) -> None:
        self._walking.want(self._real(name))

    def release(self, name: str) -> None:
        self._walking.release(self._real(name))
