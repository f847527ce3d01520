"""Which axis of a weight an operator sums over, and which of its axes make channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from graphprune.algebra.axis import Ids
from graphprune.coupling.groups import DependencyGraph
from graphprune.graph.model import Node
from graphprune.importance.slices import labels

_CONVS = {"Conv": 1, "com.microsoft.FusedConv": 1, "com.microsoft.NhwcFusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}
_RECURRENT = ("LSTM", "GRU", "RNN", "com.microsoft.DynamicQuantizeLSTM")


@dataclass(frozen=True, slots=True)
class Contraction:
    """An input axis that a node sums together with an axis of a stored weight.

    Attributes:
        node: The node.
        data: Name of the data.
        axis: Its axis.
        weight: Name of the stored weight, as its labels know it.
        inner: The weight's axis that is summed: for grouped convolutions the inputs of one group.
    """

    node: Node
    data: str
    axis: int
    weight: str
    inner: int


@dataclass(frozen=True)
class Roles:
    """What the axes of stored weights are for.

    Attributes:
        contractions: Sums of data with a weight.
        products: Pairs of data axes that are summed together, (name, axis) twice.
        consumed: (weight, axis) that some node sums over: their positions are inputs, those of other axes outputs.
        stored: For every value that is made of stored tensors alone, those tensors.
    """

    contractions: tuple[Contraction, ...]
    products: tuple[tuple[tuple[str, int], tuple[str, int]], ...]
    consumed: frozenset[tuple[str, int]]
    stored: Mapping[str, tuple[str, ...]]


def roles(deps: DependencyGraph) -> Roles:
    """Which weight axes are inputs and which outputs, by the operators that read them."""
    stored = _stored(deps)
    sites: dict[str, list[tuple[int, int]]] = {}
    for site in deps.sites:
        if site.mode == "zero":
            sites.setdefault(site.node, []).append((site.slot, site.axis))
    contractions: list[Contraction] = []
    products: list[tuple[tuple[str, int], tuple[str, int]]] = []
    consumed: set[tuple[str, int]] = set()
    for node in deps.source.nodes:
        here = dict.fromkeys(sites.get(node.name, ()))
        data = [(node.inputs[s], a) for s, a in here if node.inputs[s] not in stored]
        summed = list(_summed(deps, node, stored, here))
        consumed.update(summed)
        contractions += [
            Contraction(node, n, a, *place) for n, a in data for place in summed if _meet(deps, n, a, *place)
        ]
        if len(data) == 2 and not summed:
            products.append((data[0], data[1]))
    return Roles(tuple(contractions), tuple(products), frozenset(consumed), stored)


def _stored(deps: DependencyGraph) -> dict[str, tuple[str, ...]]:
    """Stored tensors behind every value that is made of nothing else."""
    source = deps.source
    out: dict[str, tuple[str, ...]] = {name: (name,) for name in source.weights}
    for node in source.nodes:
        given = [n for n in node.inputs if n]
        if node.captures or not given or not all(n in out or n in source.constants for n in given):
            continue
        behind = tuple(dict.fromkeys(w for n in given for w in out.get(n, ())))
        if behind:
            out.update({name: behind for name in node.outputs if name})
    return out


def _summed(
    deps: DependencyGraph, node: Node, stored: Mapping[str, tuple[str, ...]], sites: Mapping[tuple[int, int], None]
) -> Iterator[tuple[str, int]]:
    """Axes of stored tensors that the node sums over."""
    known = dict(_known(node))
    for slot, name in enumerate(node.inputs):
        if name not in stored or all(n in stored for n in node.inputs if n):
            continue
        rank = len(deps.source.values[name].shape or ()) if name in deps.source.values else 0
        axes = [a for s, a in sites if s == slot]
        if slot in known and rank:
            axes.append(known[slot] % rank)
        elif not axes and rank > 1 and sites:
            axes = list(_by_labels(deps, node, name, rank, sites))
        for axis in dict.fromkeys(axes):
            yield from _behind(deps, stored[name], name, axis)


def _known(node: Node) -> Iterator[tuple[int, int]]:
    """Weight slots of common operators with the axis that is summed."""
    slots = node.attrs.get("slots")
    if isinstance(slots, dict):  # an operator of PyTorch
        weight = slots.get("weight")
        if isinstance(weight, int) and "conv" in node.op:
            yield weight, 0 if "transpose" in node.op or node.attrs.get("transposed") else 1
        elif isinstance(weight, int) and node.op.startswith("linear"):
            yield weight, -1
    elif node.key in _CONVS:
        yield _CONVS[node.key], 1
    elif node.key == "ConvTranspose":
        yield 1, 0
    elif node.key in _RECURRENT:
        yield 1, 2 if "Quantize" not in node.key else 1


def _by_labels(
    deps: DependencyGraph, node: Node, name: str, rank: int, sites: Mapping[tuple[int, int], None]
) -> Iterator[int]:
    """Axes whose units are those of a summed input and are not found on any output."""
    inputs = _units(deps, [(node.inputs[s], a) for s, a in sites])
    outputs = _units(deps, [(n, a) for n in node.outputs for a in range(_rank(deps, n))])
    for axis in range(rank):
        mine = _units(deps, [(name, axis)])
        if len(mine) and np.isin(mine, inputs).all() and not np.isin(mine, outputs).any():
            yield axis


def _rank(deps: DependencyGraph, name: str) -> int:
    value = deps.source.values.get(name)
    return len(value.shape or ()) if value is not None else 0


def _units(deps: DependencyGraph, places: list[tuple[str, int]]) -> Ids:
    found = [u for n, a in places if (u := labels(deps, n, a)) is not None]
    units = np.unique(np.concatenate([u.ravel() for u in found])) if found else np.zeros(0, np.int32)
    return units[units > 0]


def _behind(deps: DependencyGraph, weights: tuple[str, ...], name: str, axis: int) -> Iterator[tuple[str, int]]:
    """The stored axes that a value's axis comes from: itself, or axes with the same labels."""
    if name in weights:
        yield name, axis
        return
    units = labels(deps, name, axis)
    if units is None:
        return
    for weight in weights:
        for a in range(len(deps.types.get(weight) or ())):
            mine = labels(deps, weight, a)
            if mine is not None and mine.shape == units.shape and np.array_equal(mine, units):
                yield weight, a


def _meet(deps: DependencyGraph, data: str, axis: int, weight: str, inner: int) -> bool:
    """Whether an input axis and a weight's axis are summed together: they share units."""
    return bool(np.isin(_units(deps, [(weight, inner)]), _units(deps, [(data, axis)])).any())
