"""Tensors of a graph that are known without its inputs: index tables, masks, positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from graphprune.graph.model import Array
from graphprune.graph.torch_nodes import Names, is_getitem
from graphprune.graph.torch_types import array_of

_LARGEST = 1 << 22  # elements; what is larger is not worked out, its axes just stay
_FILLS = {"zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty"}
_VIEWS = {"expand", "view", "reshape", "unsqueeze", "squeeze", "transpose", "permute", "contiguous", "clone", "to",
          "_to_copy", "repeat", "flatten", "alias", "detach", "slice"}  # fmt: skip


def known_values(graph: fx.Graph, names: Names, lifted: Mapping[str, torch.Tensor | None]) -> dict[str, Array]:
    """Contents of the tensors that depend on no input and on no weight.

    Float tensors that hold one value everywhere are left out: they are as wide as the network around them.

    Args:
        graph: The exported graph.
        names: Value names.
        lifted: Tensors that ``forward`` makes from literals, by placeholder.
    """
    content: dict[fx.Node, Any] = {}
    uniform: set[fx.Node] = set()
    out: dict[str, Array] = {}
    with torch.no_grad():
        for node in graph.nodes:
            if node.op == "placeholder":
                tensor = lifted.get(node.name)
                if isinstance(tensor, torch.Tensor) and not tensor.is_meta:
                    content[node] = torch.as_tensor(tensor).cpu()
            elif node.op == "call_function":
                _follow(node, content, uniform, names)
            if isinstance(content.get(node), torch.Tensor) and node not in uniform and node not in names.renamed:
                out[names.value(node)] = array_of(content[node])
    return out


def _follow(node: fx.Node, content: dict[fx.Node, Any], uniform: set[fx.Node], names: Names) -> None:
    """Work out one node, if everything it reads is known."""
    name = getattr(node.target, "_opname", "") or (node.target.__name__ if is_getitem(node) else "")
    read = [names_now(n, node, names) for n in node.all_input_nodes]
    fill = name in _FILLS
    if not fill and ((not read and name == "") or any(n not in content for n in read)):
        return
    schema = getattr(node.target, "_schema", None)
    if (schema is None and not is_getitem(node)) or _large(node.meta.get("val")):
        return
    if schema is not None and torch.Tag.nondeterministic_seeded in node.target.tags:
        return
    made = node.meta.get("val")
    floating = isinstance(made, torch.Tensor) and made.is_floating_point() and made.numel() > 1
    if (fill and floating) or (name in _VIEWS and floating and read and read[0] in uniform):
        uniform.add(node)
    try:
        content[node] = _run(node, content, names, fill)
    except Exception:
        uniform.discard(node)


def names_now(node: fx.Node, reader: fx.Node, names: Names) -> fx.Node:
    """The node that holds a tensor's content when ``reader`` runs."""
    while node in names.renamed and names.place[names.renamed[node]] < names.place[reader]:
        node = names.renamed[node]
    return node


def _large(made: Any) -> bool:
    return any(
        isinstance(t, torch.Tensor) and not (t.numel() <= _LARGEST)
        for t in (made if isinstance(made, list | tuple) else [made])
    )


def _run(node: fx.Node, content: Mapping[fx.Node, Any], names: Names, fill: bool) -> Any:  # noqa: FBT001
    def load(n: fx.Node) -> Any:
        n = names_now(n, node, names)
        if n not in content and fill:
            return torch.empty((), dtype=n.meta["val"].dtype)
        held = content[n]
        return held.clone() if isinstance(held, torch.Tensor) else held

    args = fx.map_arg(node.args, load)
    kwargs = dict(fx.map_arg(dict(node.kwargs), load))
    if "device" in kwargs:
        kwargs["device"] = "cpu"
    args = tuple(torch.device("cpu") if isinstance(a, torch.device) else a for a in args)
    return node.target(*args, **kwargs)
