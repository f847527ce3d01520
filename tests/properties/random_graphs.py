"""Hypothesis strategies for small valid ONNX models of any wiring."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from tests.graphs.builder import Builder
from tests.properties import ops_compute, ops_layout, ops_rare
from tests.properties.registry import OPS, names
from tests.properties.state import State, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnx import ModelProto

__all__ = ["OPS", "models", "ops_compute", "ops_layout", "ops_rare"]

BATCH = "batch"


def _source(s: State, index: int) -> Value:
    """A graph input of rank 2 to 4, mostly an image."""
    rank = s.pick([2, 4, 3, 4])
    shape = [2 if s.dynamic else s.number(1, 3), s.number(2, 10), s.number(2, 6), s.number(2, 6)][:rank]
    dims: list[int | str] = [BATCH if s.dynamic else shape[0], *shape[1:]]
    return Value(s.b.source(f"input{index}", dims), tuple(shape))


def _step(s: State, v: Value, names: Sequence[str]) -> bool:
    """Apply one applicable operator to ``v`` and put the results in the pool."""
    options = [n for n in names if OPS[n].test(s, v) for _ in range(OPS[n].weight)]
    if options:
        name = s.pick(options)
        s.pool += OPS[name].build(s, v)
        s.story.append(name)
    return bool(options)


def _head(s: State, v: Value, index: int) -> str:
    """A last weight that contracts the channels, the last axis, or all axes of ``v``; its width is frozen."""
    b, name, kinds = s.b, f"head{index}", ["flatten"] if v.rank > 1 else []
    if v.rank in (3, 4):
        kinds.append("channels")
    if v.rank > s.first:
        kinds.append("last")
    kind, n = s.pick(kinds), s.number(2, 4)
    if kind == "flatten":
        n_in = prod(v.shape[1:])
        return b.gemm(b.op("Flatten", v.name, axis=1), n_in, n, name)
    if kind == "last":
        return b.linear(v.name, v.shape[-1], n, name)
    shape = (n, v.shape[1], *[1] * (v.rank - 2))
    return b.op("Conv", v.name, b.weight(*shape, fan_in=v.shape[1], name=f"{name}.weight"))


@st.composite
def models(
    draw: st.DrawFn,
    *,
    min_nodes: int = 2,
    max_nodes: int = 14,
    dynamic_batch: bool = False,
    tied_weights: bool = True,
    shared_bias: bool = True,
    only: Sequence[str] = (),
) -> ModelProto:
    """A random model: one or two inputs, each into a weight, some operators, a weight before each output.

    ``dynamic_batch`` makes axis 0 of all inputs symbolic. ``tied_weights`` lets nodes share matrices (also
    transposed) and kernels, ``shared_bias`` 1-D biases. ``only`` restricts the operators to some names of
    ``OPS``; growth ends early where none of them applies. The graph's doc string lists the operators drawn.
    """
    b = Builder("random", seed=draw(st.integers(0, 2**16)))
    s = State(draw, b, dynamic_batch, tied_weights, shared_bias)
    return grown(s, only or names(""), min_nodes, max_nodes)


def grown(
    s: State,
    among: Sequence[str],
    min_nodes: int,
    max_nodes: int,
    sources: Sequence[str] = ("conv", "conv", "linear", "flatten_gemm"),
    source: Callable[[State, int], Value] = _source,
    head: Callable[[State, Value, int], str] = _head,
) -> ModelProto:
    """Grow a graph from one or two inputs, each read by one of ``sources``, with operators named in ``among``."""
    for i in range(s.pick([1, 1, 2])):
        _step(s, source(s, i), sources)
    goal = s.number(min_nodes, max_nodes)
    grows = True
    while grows and len(s.b.nodes) < goal:
        leaves = s.leaves()
        v = s.pick((leaves * 3 + s.pool)[::-1] if len(leaves) < 4 else leaves)
        grows = _step(s, v, among)
    model = s.b.build(*(head(s, v, i) for i, v in enumerate(s.leaves())))
    model.graph.doc_string = " ".join(s.story)
    return model
