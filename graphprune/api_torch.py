"""What the verbs need for PyTorch: imported only when a module is given, so that files need no torch."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graphprune.errors import InputError
from graphprune.graph.model import Graph

if TYPE_CHECKING:
    import torch

    from graphprune.search import Result

_MISSING = 'this needs PyTorch: pip install "graphprune[torch]"'


def is_torch(source: object) -> bool:
    """Whether something is a module or an exported program; a torch that was never imported made nothing."""
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    from torch.export import ExportedProgram

    return isinstance(source, torch.nn.Module | ExportedProgram)


def trace(
    module: Any,
    example_inputs: Any = (),
    *,
    kwargs: Mapping[str, Any] | None = None,
    name: str = "",
    dynamic_shapes: Any = None,
    opaque: Sequence[Any] = (),
) -> Graph:
    """Read a PyTorch module into a neutral graph.

    Args:
        module: A module, a ``GraphModule`` of ``torch.fx.symbolic_trace``, or an exported program. It is captured in
            evaluation mode and never changed; weights may lie on the meta device.
        example_inputs: A tensor, a tuple of what ``forward`` takes, or a dictionary of what it takes by keyword.
        kwargs: Example inputs by keyword, beside a tuple.
        name: Name for messages; by default that of the class.
        dynamic_shapes: Which input sizes may change, as for ``torch.export.export``.
        opaque: Submodules that are not looked into, as paths (with * and ?), classes or modules: what they touch stays
            whole.

    Returns:
        The graph; weights have their state_dict names. Sizes that the module says with one number stay equal; what
        only training reads, and rows of tables that longer inputs may read, stay.

    Raises:
        InputError: PyTorch is not installed, torch.export cannot capture the module, or it does not run.
    """
    try:
        from graphprune.graph.torch_read import read
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        raise InputError(_MISSING) from None
    if isinstance(example_inputs, Mapping):
        example_inputs, kwargs = (), {**example_inputs, **(kwargs or {})}
    return read(module, example_inputs, kwargs, name=name, dynamic_shapes=dynamic_shapes, opaque=opaque)


def traced_module(graph: Graph) -> Any:
    """The module that a graph was read from, None for a graph of a file."""
    return getattr(graph.source, "module", None)


def check_destination(graph: Graph, output: object, *, inplace: bool) -> None:
    """Make sure that what becomes of the result fits the kind of model.

    Raises:
        InputError: A file is to be changed in place, or a module to be written to a file.
    """
    if traced_module(graph) is None and inplace:
        raise InputError("inplace=True is for modules; files are never changed in place")
    if traced_module(graph) is not None and output is not None:
        raise InputError("prune returns a module and writes no file; graphprune.save writes one")


def carried_out_inplace(result: Result) -> Result:
    """The result with the original module itself cut in the way that was proved right.

    Raises:
        InputError: Only a graph module could be made.
    """
    import torch

    from graphprune.graph.torch_program import named_tensors
    from graphprune.plan import planned_cut
    from graphprune.rewrite.torch import boxes_of, note, rebuilt

    made = note(result.model)
    cut = planned_cut(result.deps, result.plan)
    module = rebuilt(result.deps.source.source.module, boxes_of(cut), made, inplace=True)
    if result.recovery is not None:
        fitted = dict(named_tensors(result.model))
        with torch.no_grad():
            for name, tensor in named_tensors(module):
                tensor.copy_(fitted[name])
    return replace(result, model=module)


def slice_optimizer(optimizer: torch.optim.Optimizer, result: Result) -> torch.optim.Optimizer:
    """An optimiser for a pruned module that goes on where the one for the original was.

    Args:
        optimizer: The optimiser of the original module; it is not changed.
        result: What :func:`graphprune.prune` gave for that module.

    Returns:
        An optimiser of the same class with the same settings; per-element state (momenta) is cut like the parameters.

    Raises:
        InputError: The result is not one of a module, or the optimiser has parameters that are not the module's.
    """
    if traced_module(result.deps.source) is None:
        raise InputError("slice_optimizer needs the result of pruning a module")
    from graphprune.rewrite.torch_optimizer import sliced_optimizer

    return sliced_optimizer(optimizer, result.deps, result.plan, result.model)
