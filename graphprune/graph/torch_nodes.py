"""Nodes and values of an exported graph in the terms of the neutral graph."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from graphprune.graph.model import Node, Value
from graphprune.graph.torch_types import dtype_name

_SETTINGS = (torch.dtype, torch.device, torch.layout, torch.memory_format)


class Names:
    """Value names of a graph's tensors.

    Args:
        graph: The exported graph.
        placeholders: Name of the stored tensor by placeholder.
        renamed: For every node that is written to, the node that holds its content afterwards.
    """

    def __init__(self, graph: fx.Graph, placeholders: Mapping[str, str], renamed: Mapping[fx.Node, fx.Node]) -> None:
        self.placeholders = placeholders
        self.stored = set(placeholders.values())
        self.renamed = renamed
        self.place = {node: i for i, node in enumerate(graph.nodes)}

    def value(self, node: fx.Node, reader: fx.Node | None = None) -> str:
        """Name of a node's (first) tensor as ``reader`` sees it: after the writes that come before the reader."""
        node = self.now(node, reader)
        if node.name in self.placeholders:
            return self.placeholders[node.name]
        if is_getitem(node):
            return f"{self._own(node.args[0])}#{node.args[1]}"
        return f"{self._own(node)}#0" if isinstance(node.meta.get("val"), list | tuple) else self._own(node)

    def now(self, node: fx.Node, reader: fx.Node | None) -> fx.Node:
        """The node that holds a tensor's content when ``reader`` runs (None: at the end)."""
        end = len(self.place) if reader is None else self.place[reader]
        while node in self.renamed and self.place[self.renamed[node]] < end:
            node = self.renamed[node]
        return node

    def _own(self, node: Any) -> str:
        """The node's name, altered where a stored tensor has the same."""
        return f"{node.name}'" if node.name in self.stored else str(node.name)

    def outputs(self, node: fx.Node) -> list[tuple[str, Any]]:
        """Names of all results of a node with their fake tensors; "" for one that is no tensor."""
        made = node.meta.get("val")
        if isinstance(made, list | tuple):
            return [(f"{self._own(node)}#{k}" if isinstance(t, torch.Tensor) else "", t) for k, t in enumerate(made)]
        return [(self.value(node) if node not in self.renamed else self._own(node), made)]


def is_getitem(node: fx.Node) -> bool:
    """Whether a node only picks one result of a node with several."""
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"


def values_of(graph: fx.Graph, names: Names) -> dict[str, Value]:
    """Values of all tensors that nodes make."""
    out: dict[str, Value] = {}
    for node in graph.nodes:
        if node.op in ("output", "get_attr") or node.name in names.placeholders or is_getitem(node):
            continue
        for name, made in names.outputs(node):
            if name and isinstance(made, torch.Tensor):
                out[name] = _value(name, made)
    return out


def _value(name: str, made: torch.Tensor) -> Value:
    shape = tuple(_size(n) for n in made.shape)
    dynamic = tuple(not isinstance(n, int) for n in made.shape)
    return Value(name, shape, dynamic, dtype_name(made.dtype), shape)


def _size(n: Any) -> int:
    """A size, of a symbolic one that of the example inputs."""
    if isinstance(n, int):
        return n
    hint = n.node.hint if n.node.has_hint() else None
    return int(hint) if hint is not None else -1


def neutral_nodes(graph: fx.Graph, names: Names, values: Mapping[str, Value]) -> tuple[Node, ...]:
    """Nodes that make tensors, in order."""
    return tuple(
        neutral(node, names)
        for node in graph.nodes
        if node.op == "call_function" and not is_getitem(node) and any(n in values for n, _ in names.outputs(node))
    )


def neutral(node: fx.Node, names: Names) -> Node:
    """A node with tensor arguments as inputs in the order of its schema and everything else as attributes."""
    domain, op = operator(node)
    inputs: list[str] = []
    slots: dict[str, Any] = {}
    attrs: dict[str, Any] = {"slots": slots}
    schema = getattr(node.target, "_schema", None)
    given = _arguments(node, schema)
    for name, (value, tensor) in given.items():
        if tensor:
            slots[name] = _slots(value, inputs, names, node)
        else:
            attrs[name] = _setting(value)
    return Node(
        name=node.name,
        op=op,
        domain=domain,
        version=1,
        inputs=tuple(inputs),
        outputs=tuple(n for n, _ in names.outputs(node)),
        attrs=attrs,
        scope=scope(node),
    )


def operator(node: fx.Node) -> tuple[str, str]:
    """Namespace and name with overload: ("aten", "conv2d.default")."""
    if isinstance(node.target, torch._ops.OpOverload):
        domain, _, name = str(node.target).replace(".", "::", 1).partition("::")
        return domain, name if "." in name else f"{name}.default"
    module = getattr(node.target, "__module__", "") or "python"
    return module.rpartition(".")[2].lstrip("_") or "python", getattr(node.target, "__name__", str(node.target))


def _arguments(node: fx.Node, schema: Any) -> dict[str, tuple[Any, bool]]:
    """Arguments by name with defaults filled in, and whether each is a tensor (or a list of them)."""
    if schema is None:
        given = {f"arg{i}": a for i, a in enumerate(node.args)} | dict(node.kwargs)
        return {k: (v, _holds_tensor(v)) for k, v in given.items()}
    out = {}
    for i, argument in enumerate(schema.arguments):
        value = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
        number = isinstance(value, bool | int | float | complex)  # what torch takes for a tensor of one element
        out[argument.name] = (value, _holds_tensor(value) or ("Tensor" in str(argument.type) and not number))
    return out


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_holds_tensor(v) for v in value)
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), torch.Tensor)


def _slots(value: Any, inputs: list[str], names: Names, node: fx.Node) -> Any:
    """Slots of a tensor argument, which are added to ``inputs``."""
    if isinstance(value, list | tuple):
        return [_slots(v, inputs, names, node) for v in value]
    if not isinstance(value, fx.Node):
        return None
    inputs.append(names.value(value, node))
    return len(inputs) - 1


def _setting(value: Any) -> Any:
    """An argument as plain Python: sizes of the example inputs for symbolic ones, names of types and devices."""
    if isinstance(value, fx.Node):
        made = value.meta.get("val")
        return _size(made) if isinstance(made, int | torch.SymInt) else made
    if isinstance(value, list | tuple):
        return [_setting(v) for v in value]
    if isinstance(value, _SETTINGS):
        return str(value).removeprefix("torch.")
    return value


def scope(node: fx.Node) -> str:
    """Path of the module in whose forward the node was made, such as "layer1.0.conv1"."""
    stack = node.meta.get("nn_module_stack") or {}
    path = str(list(stack.values())[-1][0]) if stack else ""
    path = re.sub(r"^L\['self'\]\.?", "", path)
    return re.sub(r"\[(\d+)\]", r".\1", re.sub(r"@\d+$", "", path)).strip(".")
