"""What modules and exported programs hold, and in which order a program takes its inputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export._tree_utils import reorder_kwargs
from torch.fx._pytree import tree_flatten_spec


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers under every name that they have, buffers that are not saved as well."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def unlifted(program: ExportedProgram) -> fx.GraphModule:
    """A program as a module that holds the tensors of the program."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    return module


def flat_inputs(graph: fx.GraphModule, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Inputs in the order of an unlifted program's placeholders."""
    spec = graph._in_spec
    return tree_flatten_spec((tuple(args), reorder_kwargs(dict(kwargs), spec)), spec)
