"""Capturing a module: torch.export in evaluation mode, and in-place operators read as what they compute."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from graphprune.errors import InputError
from graphprune.graph.torch_known import free_nodes
from graphprune.graph.torch_nodes import is_getitem


def captured(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, dynamic_shapes: Any, name: str
) -> ExportedProgram:
    """A module's program in evaluation mode.

    Raises:
        InputError: torch.export cannot capture the module, or it does not run on these inputs.
    """
    try:
        with evaluation(module), torch.no_grad(), whole_attention(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(module, args, dict(kwargs or {}), dynamic_shapes=dynamic_shapes, strict=False)
    except Exception as error:
        raise InputError(_explained(name, error)) from error


def _explained(name: str, error: Exception) -> str:
    text = " ".join(str(error).split("\n\n")[0].split())[:300]
    return f"{name}: {_place(error)}{type(error).__name__}: {text}"


def _place(error: Exception) -> str:
    """Where in the user's code it happened: the innermost frame outside torch."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/torch/" not in f.filename and "graphprune" not in f.filename]
    return f"{own[-1].filename}:{own[-1].lineno}: {own[-1].line}: " if own else ""


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Every submodule in evaluation mode within the block, and in its own mode again after it."""
    modes = [(m, m.training) for m in module.modules()]
    for m, _ in modes:
        m.training = False
    try:
        yield
    finally:
        for m, training in modes:
            m.training = training


@contextmanager
def whole_attention() -> Iterator[None]:
    """nn.MultiheadAttention written out as its matrix products: its fused kernel is for inference only."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def functional(program: ExportedProgram) -> tuple[ExportedProgram, dict[fx.Node, fx.Node], set[fx.Node]]:
    """A program whose in-place operators can be read as if they made new tensors.

    Returns:
        The program; for every node that is written to the node that holds its content afterwards: readers after
        the write mean that one; and the nodes that depend on no input and no weight. Where a view of a written
        tensor is read later, torch makes the program functional.
    """
    free = free_nodes(program.graph_module.graph, program.graph_signature.inputs_to_lifted_tensor_constants)
    renamed = _written(program.graph_module.graph, free)
    if renamed is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = program.run_decompositions({})
        free = free_nodes(program.graph_module.graph, program.graph_signature.inputs_to_lifted_tensor_constants)
        renamed = _written(program.graph_module.graph, free) or {}
    return program, renamed, free


def _written(graph: fx.Graph, free: set[fx.Node]) -> dict[fx.Node, fx.Node] | None:
    """Writes by the node that is written to; None where another view of it is read afterwards.

    Tensors that depend on nothing are worked out write by write; they only must not be read before the last one.
    """
    place = {node: i for i, node in enumerate(graph.nodes)}
    root: dict[fx.Node, fx.Node] = {}
    alike: dict[fx.Node, list[fx.Node]] = {}
    out: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        schema = getattr(node.target, "_schema", None)
        base = _base(node, schema)
        root[node] = root.get(base, base) if base is not None else node
        if schema is not None and schema.is_mutable:
            target = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
            if target is None or base is not target:
                return None
            now, others = place[node], alike.get(root[node], [])
            if node in free and root[node] in free:
                if any(place[u] < now and u not in free for n in others for u in n.users):
                    return None
            else:
                out[target] = node
                if any(place[u] > now for n in others if n is not target for u in n.users):
                    return None
                if target.op == "placeholder" and any(u.op == "output" for u in target.users):
                    return None
        alike.setdefault(root[node], []).append(node)
    return out


def _base(node: fx.Node, schema: Any) -> fx.Node | None:
    """The argument of which a node's result is a view (or which it writes to)."""
    if schema is None:
        first = node.args[0] if is_getitem(node) else None
        return first if isinstance(first, fx.Node) else None
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and position < len(node.args):
            given = node.args[position]
            return given if isinstance(given, fx.Node) else None
    return None
