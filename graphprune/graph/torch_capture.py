"""Capturing a module: torch.export in evaluation mode, and in-place operators read as what they compute."""

from __future__ import annotations

import logging
import sysconfig
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram, export

from graphprune.errors import InputError
from graphprune.graph.torch_known import free_nodes
from graphprune.graph.torch_nodes import is_getitem
from graphprune.graph.torch_opaque import Mark, as_operators


def captured(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    dynamic_shapes: Any,
    opaque: Sequence[Mark],
    name: str,
) -> ExportedProgram:
    """A module's program in evaluation mode.

    Raises:
        InputError: torch.export cannot capture the module, or it does not run on these inputs.
    """
    try:
        with (
            evaluation(module),
            torch.no_grad(),
            _quiet(),
            whole_attention(),
            as_operators(module, opaque, args, kwargs),
        ):
            return export(module, args, dict(kwargs), dynamic_shapes=dynamic_shapes, strict=False)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name}: {_place(error)}{_said(error)}; {_advice(module, args, kwargs, error)}") from error


def _said(error: Exception) -> str:
    """The error in one line."""
    text = " ".join(str(error).strip().split("\n\n")[0].split()).removesuffix("(Size-like symbols: none)")
    return f"{type(error).__name__}: {text[:300].rstrip(' .')}"


def _place(error: Exception) -> str:
    """Where in the user's code it happened: the innermost frame outside torch and Python's own library."""
    own = sysconfig.get_paths()["stdlib"]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = frame.filename
        installed = "site-packages" in file
        if "/torch/" not in file and "/graphprune/" not in file and (installed or not file.startswith((own, "<"))):
            return f"{file}:{frame.lineno}: `{frame.line}`: "
    return ""


def _advice(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: Exception) -> str:
    """What to do: the module runs on these inputs and cannot be captured, or it does not even run."""
    try:
        module(*args, **kwargs)
    except Exception:
        return f"it does not run on the example inputs ({', '.join(_inputs(args, kwargs))}): give inputs it takes"
    advice = "the module runs, but torch.export cannot capture it: "
    if "Cache'> in output" in str(error):
        return f"{advice}give use_cache=False with the example inputs, so that no cache is returned"
    if "data-dependent" in str(error) or "DataDependent" in type(error).__name__:
        advice += "what it does depends on the values of its inputs; write it with torch.where, or "
    return f"{advice}leave the submodule out: trace(..., opaque=[{_running(module, error)!r}])"


def _running(module: nn.Module, error: Exception) -> str:
    """Path of the innermost submodule that was running when the error came."""
    paths: dict[int, str] = {id(m): path for path, m in module.named_modules() if path}
    running = (id(frame.f_locals.get("self")) for frame, _ in traceback.walk_tb(error.__traceback__))
    return ["path.of.the.submodule", *(paths[i] for i in running if i in paths)][-1]


def _inputs(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[str]:
    for name, value in (*enumerate(args), *kwargs.items()):
        shown = (
            f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}" if hasattr(value, "shape") else repr(value)
        )
        yield shown[:60] if isinstance(name, int) else f"{name}={shown[:60]}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings, log lines and graphs that torch.export prints: what goes wrong is in the error."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


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
        with _quiet():
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
