"""Bounds of every value of a graph, in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from graphprune.folding import transfer
from graphprune.folding.interval import Interval, Unbounded
from graphprune.folding.known import Known
from graphprune.folding.step import Step, transfer_of
from graphprune.graph.model import Graph, Node

__all__ = ["FLOATS", "Bounds", "Hooks", "per_position", "propagate", "transfer"]

FLOATS = ("float", "bfloat16", "double")
Bounds = dict[str, Interval]


class Hooks(Protocol):
    """What happens to bounds where a graph is masked."""

    def enter(self, node: Node, bounds: Bounds) -> None:
        """Called before a node, with the bounds so far."""

    def read(self, node: Node, slot: int, found: Interval | None) -> Interval | None:
        """Bounds of an input slot as the node reads it."""

    def write(self, node: Node, slot: int, made: Interval) -> Interval:
        """Bounds of an output slot as the others see it."""


def propagate(graph: Graph, known: Known, hooks: Hooks | None = None) -> Bounds:
    """Bounds of the values that depend on data; what is missing is unbounded.

    Args:
        graph: The neutral graph.
        known: Contents of stored tensors and of what is computed from them alone.
        hooks: Masks.
    """
    out: Bounds = {}
    for node in graph.nodes:
        if all(o in known or o in graph.varying for o in node.outputs if o):
            continue
        if hooks is not None:
            hooks.enter(node, out)

        def read(slot: int, node: Node = node) -> Interval | None:
            found = out.get(node.inputs[slot])
            return found if hooks is None else hooks.read(node, slot, found)

        for slot, (name, found) in enumerate(zip(node.outputs, _outputs(graph, node, known, read), strict=False)):
            if found is not None and name and graph.values[name].dtype.startswith(FLOATS):
                made = found if hooks is None else hooks.write(node, slot, found)
                if not made.empty:
                    out[name] = made
    return out


def _outputs(graph: Graph, node: Node, known: Known, read: Callable[[int], Interval | None]) -> list[Interval | None]:
    found = transfer_of(node)
    if found is None:
        return []
    try:
        with np.errstate(invalid="ignore", over="ignore"):
            result = found(Step(graph, node, known, read))
    except Unbounded:
        return []
    return result if isinstance(result, list) else [result]


def per_position(bounds: Mapping[str, Interval], name: str, axis: int, size: int) -> Interval:
    """Bounds per position of one axis of a value, shape (size,)."""
    found = bounds.get(name)
    if found is None:
        return Interval(np.full(size, -np.inf), np.full(size, np.inf))
    return found.along(axis, size)
