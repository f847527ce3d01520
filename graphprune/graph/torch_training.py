"""Values that a module reads in training alone, such as those that feed auxiliary classifiers.

The captured graph is that of evaluation. What only training runs is not in it and keeps its widths, so what it reads
has to stay whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._pytree import tree_leaves

from graphprune.graph.model import Graph, Node
from graphprune.graph.torch_capture import evaluation
from graphprune.graph.torch_record import Recorder, record


def with_training_kept(graph: Graph) -> Graph:
    """The graph of a traced module with the values that stay whole because training reads them."""
    traced = graph.source
    if isinstance(traced.module, fx.GraphModule) or traced.recording is None:
        return graph
    used = {node.scope for node in graph.nodes}
    ran = {path for stack in traced.recording.seen.stacks for path in stack}
    idle = [p for p, m in traced.module.named_modules() if p not in ran and any(True for _ in m.parameters())]
    if not any(p and p not in used for p in idle):
        return graph
    found = list(_read_in_training(traced, set(idle), quick=traced.recording.quick))
    last = {path: _result(graph, path, shape) for path, shape in found}
    return replace(graph, whole=tuple(dict.fromkeys(name for name in last.values() if name)))


def _read_in_training(traced: Any, idle: set[str], *, quick: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Modules whose results are read by modules that evaluation does not run, with the shapes of these results."""
    paths = {id(m): p for p, m in traced.module.named_modules()}
    maker: dict[int, tuple[Tensor, str]] = {}
    read: dict[tuple[str, tuple[int, ...]], None] = {}

    def enter(module: nn.Module, args: Any) -> None:
        if paths.get(id(module)) in idle:
            for tensor in (t for t in tree_leaves(args) if isinstance(t, Tensor)):
                made = maker.get(id(tensor))
                if made is not None and made[1] not in idle:
                    read[made[1], tuple(tensor.shape)] = None

    def leave(module: nn.Module, _: Any, out: Any) -> None:
        for tensor in (t for t in tree_leaves(out) if isinstance(t, Tensor)):
            maker[id(tensor)] = (tensor, paths.get(id(module), ""))  # held, so that no other gets its id

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        with _training(traced.module):
            record(traced.module, traced.args, traced.kwargs, Recorder(), quick=quick)
    finally:
        for handle in handles:
            handle.remove()
    yield from read


@contextmanager
def _training(module: nn.Module) -> Iterator[None]:
    with evaluation(module):  # which restores every mode
        for part in module.modules():
            part.training = True
        yield


def _result(graph: Graph, path: str, shape: tuple[int, ...]) -> str:
    """The value that a module gives: the last one made in it of this shape."""
    inside = [n for n in graph.nodes if n.scope == path or n.scope.startswith(f"{path}.")]
    return next((name for node in reversed(inside) for name in _of_shape(graph, node, shape)), "")


def _of_shape(graph: Graph, node: Node, shape: tuple[int, ...]) -> list[str]:
    return [name for name in node.outputs if name and graph.values[name].shape == shape]
