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
_LIKE = {"zeros_like", "ones_like", "full_like", "empty_like"}
_VIEWS = {"expand", "view", "reshape", "unsqueeze", "squeeze", "transpose", "permute", "contiguous", "clone", "to",
          "_to_copy", "repeat", "flatten", "alias", "detach", "slice"}  # fmt: skip


def free_nodes(graph: fx.Graph, lifted: Mapping[str, Any]) -> set[fx.Node]:
    """Nodes that depend on no input and on no weight.

    Args:
        graph: The exported graph.
        lifted: Tensors that ``forward`` makes from literals, by placeholder.
    """
    free: set[fx.Node] = set()
    for node in graph.nodes:
        if (node.op == "placeholder" and node.name in lifted) or (node.op == "call_function" and _free(node, free)):
            free.add(node)
    return free


def _free(node: fx.Node, free: set[fx.Node]) -> bool:
    name = opname(node)
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return is_getitem(node) and node.args[0] in free
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) or _large(node.meta.get("val")):
        return False
    if name in _FILLS:  # they read at most the type of a tensor
        return True
    if name in _LIKE and not _floating(node.args[0]):
        return True  # sizes of masks and ids are those of the graph's inputs
    return all(n in free for n in node.all_input_nodes)


def opname(node: fx.Node) -> str:
    """Name of an operator without namespace and overload, "" for a plain function."""
    return getattr(node.target, "_opname", "")


def _floating(node: Any) -> bool:
    made = node.meta.get("val") if isinstance(node, fx.Node) else None
    return isinstance(made, torch.Tensor) and (made.is_floating_point() or made.is_complex())


def _large(made: Any) -> bool:
    tensors = [t for t in (made if isinstance(made, list | tuple) else [made]) if isinstance(t, torch.Tensor)]
    return any(not isinstance(n, int) for t in tensors for n in t.shape) or any(t.numel() > _LARGEST for t in tensors)


def known_values(graph: fx.Graph, names: Names, lifted: Mapping[str, Any], free: set[fx.Node]) -> dict[str, Array]:
    """Contents of the tensors that depend on no input and on no weight, as they are after all writes.

    Float tensors that hold one value everywhere are left out: they are as wide as the network around them.

    Args:
        graph: The exported graph.
        names: Value names.
        lifted: Tensors that ``forward`` makes from literals, by placeholder.
        free: Those nodes, see :func:`free_nodes`.
    """
    run = _Run(names)
    with torch.no_grad():
        for node in graph.nodes:
            if node in free:
                run.follow(node, lifted.get(node.name))
    found = {n: t for n, t in run.content.items() if isinstance(t, torch.Tensor) and n not in run.uniform}
    return {names.value(n): array_of(t) for n, t in found.items() if n not in names.renamed}


def _whole(tensor: torch.Tensor) -> bool:
    """Whether a tensor is all of its storage."""
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()


class _Run:
    """Runs the nodes whose operands are known, on the CPU; views share their storage as in the module."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.content: dict[fx.Node, Any] = {}
        self.uniform: set[fx.Node] = set()

    def follow(self, node: fx.Node, literal: Any) -> None:
        """Work out one node; where that fails it stays unknown."""
        if node.op == "placeholder":
            if isinstance(literal, torch.Tensor) and not literal.is_meta:
                self.content[node] = literal.detach().cpu().clone()
            return
        name, made = opname(node), node.meta.get("val")
        read = [self.names.now(n, node) for n in node.all_input_nodes]
        sizes_only = name in _FILLS or name in _LIKE
        if not sizes_only and any(n not in self.content for n in read):
            return
        try:
            self.content[node] = result = self._call(node)
        except Exception:
            return
        schema = getattr(node.target, "_schema", None)
        if schema is not None and schema.is_mutable and isinstance(result, torch.Tensor):
            if name in ("fill_", "zero_") and read[0] in self.uniform and _whole(result):
                self.uniform.add(node)
            else:
                self._written(result)
        elif (
            isinstance(made, torch.Tensor)
            and made.is_floating_point()
            and made.numel() > 1
            and (name in _FILLS or (name in _VIEWS and read and read[0] in self.uniform))
        ):
            self.uniform.add(node)

    def _written(self, result: torch.Tensor) -> None:
        """Whatever shares the storage no longer holds one value."""
        place = result.untyped_storage().data_ptr()
        self.uniform -= {n for n in self.uniform if self.content[n].untyped_storage().data_ptr() == place}

    def _call(self, node: fx.Node) -> Any:
        def load(n: fx.Node) -> Any:
            n = self.names.now(n, node)
            if n in self.content:
                return self.content[n]
            made = n.meta["val"]
            return torch.empty(tuple(made.shape), dtype=made.dtype)  # only its type and sizes are read

        args = fx.map_arg(node.args, load)
        kwargs = dict(fx.map_arg(dict(node.kwargs), load))
        kwargs |= {"device": torch.device("cpu")} if kwargs.get("device") is not None else {}
        assert isinstance(args, tuple)
        args = tuple(torch.device("cpu") if isinstance(a, torch.device) else a for a in args)
        target: Any = node.target
        return target(*args, **kwargs)
