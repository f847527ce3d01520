"""PyTorch modules as neutral graphs, captured by torch.export with their operators left whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from graphprune.errors import InputError
from graphprune.graph.model import Array, Graph, Node, Value, Weight
from graphprune.graph.torch_call import TorchBox
from graphprune.graph.torch_capture import captured, functional
from graphprune.graph.torch_known import known_values
from graphprune.graph.torch_nodes import Names, neutral_nodes, values_of
from graphprune.graph.torch_opaque import Mark
from graphprune.graph.torch_record import Recording
from graphprune.graph.torch_types import array_of, dtype_name


@dataclass(frozen=True)
class Traced:
    """What a neutral graph of a PyTorch module was read from.

    Attributes:
        module: The module as the user gave it; of an exported program its unlifted module.
        program: The exported program, in evaluation mode.
        graph_module: The module of its graph: nodes have the names of the neutral graph.
        args: Positional example inputs.
        kwargs: Example inputs by keyword.
        placeholders: Name in the state_dict by the name of the graph's placeholder.
        tied: Name that the neutral graph uses by every other name of the same tensor.
        recording: What the module and its graph do, where that was recorded.
    """

    module: nn.Module
    program: ExportedProgram
    graph_module: fx.GraphModule
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    placeholders: Mapping[str, str]
    tied: Mapping[str, str] = field(default_factory=dict)
    recording: Recording | None = field(default=None, repr=False)

    def black_box(self, node: Node) -> TorchBox:
        """A node's operator, to be run on any inputs."""
        return TorchBox(node)


def trace(
    module: nn.Module | ExportedProgram,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    name: str = "",
    dynamic_shapes: Any = None,
    opaque: Sequence[Mark] = (),
) -> Graph:
    """Read a PyTorch module into a neutral graph.

    Args:
        module: A module, a ``GraphModule`` of ``torch.fx.symbolic_trace``, or an exported program. It is captured in
            evaluation mode and never changed; weights may lie on the meta device.
        args: Example inputs: a tensor or a tuple of what ``forward`` takes.
        kwargs: Example inputs by keyword.
        name: Name for messages; by default that of the class.
        dynamic_shapes: Which input sizes may change, as for ``torch.export.export``; axes that follow them stay whole.
        opaque: Submodules that are not looked into, as paths (with * and ?), classes or modules: what they touch stays
            whole. Each is one operator of the graph, so torch.export need not be able to capture it.

    Returns:
        The graph; ``graph.source`` is a :class:`Traced`. Weights have their state_dict names.

    Raises:
        InputError: torch.export cannot capture the module, or it does not run on these inputs.
    """
    args = tuple(args) if isinstance(args, tuple | list) else (args,)
    name = name or type(module).__name__
    owner: nn.Module
    if isinstance(module, ExportedProgram):
        program, owner = module, module.module()
        args, kwargs = module.example_inputs or (args, kwargs or {})
    elif isinstance(module, nn.Module):
        program, owner = captured(module, args, kwargs or {}, dynamic_shapes, opaque, name), module
    else:
        raise InputError(f"{name} is neither a torch.nn.Module nor an exported program")
    program, renamed, free = functional(program)
    return _build(program, owner, args, dict(kwargs or {}), name, renamed, free)


def _build(
    program: ExportedProgram,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    name: str,
    renamed: Mapping[fx.Node, fx.Node],
    free: set[fx.Node],
) -> Graph:
    state, tied = _state(module, program)
    signature = program.graph_signature
    lifted = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    placeholders = {p: tied.get(s, s) for p, s in lifted.items()}
    graph_module = program.graph_module
    names = Names(graph_module.graph, placeholders, renamed)
    weights = {n: _weight(n, t) for n, t in state.items()}
    values = {n: Value(n, w.shape, (False,) * len(w.shape), w.dtype, w.shape) for n, w in weights.items()}
    values |= values_of(graph_module.graph, names)
    literals = {p: program.constants.get(c) for p, c in signature.inputs_to_lifted_tensor_constants.items()}
    constants = known_values(graph_module.graph, names, literals, free)
    inputs = tuple(n for n in signature.user_inputs if isinstance(n, str) and n in values)
    shapes = {n: values[n].shape or () for n in inputs}
    return Graph(
        name=name,
        nodes=neutral_nodes(graph_module.graph, names, values),
        values=values,
        weights=weights,
        constants=constants,
        varying={},
        inputs=inputs,
        outputs=_outputs(graph_module.graph, names, weights),
        source=Traced(module, program, graph_module, args, kwargs, placeholders, tied),
        input_shapes=(shapes,),
        file_bytes=partial(_stored_bytes, tuple(state.values())),
    )


def _outputs(graph: fx.Graph, names: Names, weights: Mapping[str, Weight]) -> tuple[str, ...]:
    """Tensors that the module returns (and writes back), each once; a weight that is returned stays whole as well."""
    found: list[str] = []
    for node in graph.find_nodes(op="output"):
        fx.map_arg(node.args, lambda n: found.append(names.value(n)))
    return tuple(dict.fromkeys(n for n in found if n or n in weights))


def _state(module: nn.Module, program: ExportedProgram) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Parameters and buffers by their first name, and the other names of those that have several."""
    state: dict[str, torch.Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[int, str] = {}
    found = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    known = {n for n, _ in found}
    program_state = {**program.state_dict, **{n: t for n, t in program.constants.items() if _is_tensor(t)}}
    signature = program.graph_signature
    wanted = {*signature.inputs_to_parameters.values(), *signature.inputs_to_buffers.values()}
    found += [(n, t) for n, t in program_state.items() if n in wanted and n not in known]
    for name, tensor in found:
        real = first.setdefault(id(tensor), name)
        if real == name:
            state[name] = tensor
        else:
            tied[name] = real
    return state, tied


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def _weight(name: str, tensor: torch.Tensor) -> Weight:
    origin = "shape" if tensor.is_meta else "initializer"
    return Weight(name, name, tuple(tensor.shape), dtype_name(tensor.dtype), origin, _reader(name, tensor))


def _reader(name: str, tensor: torch.Tensor) -> Callable[[], Array]:
    def read() -> Array:
        if tensor.is_meta:
            raise InputError(f"{name} is on the meta device: it has a shape and no values")
        return array_of(tensor)

    return read


def _stored_bytes(tensors: Sequence[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


__all__ = ["Node", "Traced", "trace"]
