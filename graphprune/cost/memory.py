"""Peak activation memory: a walk over the graph that counts which tensors are alive at each node.

The model: nodes run one by one in the order of the file. A tensor is alive from the node that makes it to the last
node that reads it; a graph input from the start, a graph output to the end. A node holds its inputs and its outputs
at once, nothing is computed in place. Weights, constants and all that follows from sizes alone (no value of an input
is needed for it) are not counted. Bodies of control flow stand in the place of their node and are walked once.
Sizes are those of the first probe: batch 1 where it is dynamic. Bytes are those of the elements, unpadded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from scipy.sparse import csr_array

from graphprune.cost.lengths import Lengths
from graphprune.cost.measure import Measure, Numbers, Reals, padded
from graphprune.coupling.groups import DependencyGraph
from graphprune.graph.model import Graph, Node

_OF_SIZES = {"Shape", "Size"}


@dataclass
class _Lives:
    """When tensors are alive, in steps."""

    names: list[str] = field(default_factory=list)
    born: list[int] = field(default_factory=list)
    dies: list[int] = field(default_factory=list)
    passing: list[bool] = field(default_factory=list)
    steps: int = 0

    def add(self, name: str, born: int, *, passing: bool = False) -> int:
        self.names.append(name)
        self.born.append(born)
        self.dies.append(born)
        self.passing.append(passing)
        return len(self.names) - 1


def memory(deps: DependencyGraph, lengths: Lengths) -> Measure:
    """Peak activation memory in bytes as a function of kept lengths; its sums are the moments that can be the peak."""
    graph = deps.source
    lives = _walked(graph)
    factors, rows = [], []
    for name in lives.names:
        size, found = _bytes(deps, lengths, name)
        factors.append(size)
        rows.append(tuple(found))
    one = len(lengths.axes)
    index, factor = padded(rows, one), np.array(factors, np.float64)
    passing = np.array(lives.passing, bool)
    whole = np.append([a.n for a in lengths.axes], 1.0)
    dense = whole[index].prod(axis=1)

    def function(pieces: Numbers, kept: Reals) -> Reals:
        size = kept.prod(axis=1)
        return np.where(passing[pieces] & (size < dense[pieces]), 0.0, factor[pieces] * size)

    return Measure("memory", index, function, _moments(lives))


def _bytes(deps: DependencyGraph, lengths: Lengths, name: str) -> tuple[float, list[int]]:
    """Bytes of a tensor as a factor and the axes it is multiplied with; 0 where its size is not known."""
    value = deps.source.values.get(name)
    if value is None or value.shape is None or min(value.shape, default=0) < 0 or not value.dtype:
        return 0.0, []
    kind = getattr(ir.DataType, value.dtype.upper(), None)
    if kind is None or kind is ir.DataType.STRING:
        return 0.0, []
    labels = deps.types.get(name) or ()
    if len(labels) != len(value.shape):
        return float(kind.itemsize * np.prod(value.shape, dtype=np.float64)), []
    store = deps.state.store
    axes = [a if a is not None else store.frozen(n, 0) for a, n in zip(labels, value.shape, strict=True)]
    factor, found = lengths.term(float(kind.itemsize), axes)
    return factor * (0 not in value.shape), found


def _walked(graph: Graph) -> _Lives:
    """Every tensor that depends on values of the inputs, with its first and last step."""
    lives, places = _Lives(), {}
    for name in graph.inputs:
        places[name] = lives.add(name, 0)
    for node in graph.nodes:
        read = [places[name] for name in (*node.inputs, *node.captures) if name in places]
        if not read or (node.op in _OF_SIZES and not node.domain):
            continue
        for step, between in _steps(lives, node):
            for place in (*(read if not between else ()), *between):
                lives.dies[place] = step
        for name in node.outputs:
            if name and name not in graph.weights:
                places[name] = lives.add(name, lives.steps)
        lives.steps += 1
    for name in graph.outputs:
        if name in places:
            lives.dies[places[name]] = max(lives.steps - 1, 0)
    return lives


def _steps(lives: _Lives, node: Node) -> Iterator[tuple[int, list[int]]]:
    """The steps of a node and what each reads that is not an input of it.

    Nodes that were fused into one are that again in the file unless they are cut; what is between them is alive as
    long as it is whole.
    """
    between: list[int] = []
    for _ in node.fused[1:]:
        yield lives.steps, between
        between = [lives.add(node.outputs[0], lives.steps, passing=True)]
        lives.steps += 1
    yield lives.steps, between


def _moments(lives: _Lives) -> csr_array:
    """Which tensors are alive at the steps that no other step outdoes, shape (steps, tensors)."""
    born, dies = np.array(lives.born, np.int64), np.array(lives.dies, np.int64)
    begins, ends = np.zeros(lives.steps + 1, np.int64), np.zeros(lives.steps + 1, np.int64)
    np.add.at(begins, born, 1)
    np.add.at(ends, dies, 1)
    last = np.flatnonzero(ends)
    since = np.diff(np.concatenate([[0], np.cumsum(begins)[last]]))
    steps = last[since > 0]  # something dies there, and something was born since the step before that one
    first, behind = np.searchsorted(steps, born), np.searchsorted(steps, dies, side="right")
    counts = behind - first
    tensors = np.repeat(np.arange(len(born)), counts)
    rows = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    return csr_array((np.ones(len(rows)), (rows, tensors)), shape=(len(steps), len(born)))
