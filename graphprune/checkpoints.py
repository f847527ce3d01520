"""Verbs on stored weights: carry a plan out on a checkpoint or state dict, scatter back, save and restore modules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from graphprune.errors import InputError
from graphprune.plan import Plan
from graphprune.rewrite.checkpoint import Shrunk, shrink
from graphprune.rewrite.replay import Stored, fit, position
from graphprune.rewrite.replay import channel_map as _channel_map

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Shrunk", "apply_plan", "as_plan", "channel_map", "restore", "save_module", "scatter"]

State = Mapping[str, Any]


class HasPlan(Protocol):
    """What a prune gives back, or whatever else carries its plan."""

    @property
    def plan(self) -> Plan:
        """What was removed."""


AnyPlan = Plan | HasPlan | str | Path


def as_plan(plan: AnyPlan) -> Plan:
    """A plan, the plan of a result, or the plan in a file.

    Raises:
        InputError: The file is no plan.
    """
    if isinstance(plan, Plan):
        return plan
    return Plan.read(plan) if isinstance(plan, str | Path) else plan.plan


def apply_plan(plan: AnyPlan, checkpoint: str | Path | State, output: str | Path | None = None) -> Any:
    """Carry out a plan on a checkpoint whose tensors have the names and sizes of the plan's weights.

    Args:
        plan: Plan, result of a prune, or path of a plan.
        checkpoint: Path of a .safetensors, .safetensors.index.json, .pt or .pth file or of a Hugging Face folder; or
            a state dict of torch tensors or numpy arrays.
        output: Where the smaller checkpoint goes; none for a state dict.

    Returns:
        For a path what became of it, a :class:`Shrunk`; for a state dict a new one, whose whole tensors are shared.

    Raises:
        InputError: A file cannot be read or written, or the plan does not fit.
    """
    ready = as_plan(plan)
    if isinstance(checkpoint, Mapping):
        if output is not None:
            raise InputError("a state dict gives a state dict; leave out the output and save what is returned")
        return _cut(ready, checkpoint)
    if output is None:
        raise InputError(f"{checkpoint}: say where the smaller checkpoint goes")
    return shrink(ready, Path(checkpoint), Path(output))


def channel_map(plan: AnyPlan) -> dict[str, dict[int, NDArray[np.int64]]]:
    """New position of every old one on the cut axes, -1 where it leaves.

    Args:
        plan: Plan, result of a prune, or path of a plan.

    Returns:
        Weight → axis → int64 array with an entry per old position. Where every block (group of a convolution, head)
        keeps positions of its own there is a row for each position of the block axis.

    Raises:
        InputError: The plan does not say what sizes the weights have.
    """
    return _channel_map(as_plan(plan))


def scatter(full: State, pruned: State, plan: AnyPlan) -> dict[str, Any]:
    """Put the weights of a pruned model, trained further perhaps, back to their places in the full model.

    Args:
        full: State dict of the original, torch tensors or numpy arrays; what had left keeps these values.
        pruned: State dict of the pruned model under the same names.
        plan: Plan, result of a prune, or path of a plan.

    Returns:
        A state dict of the original's sizes; neither argument is changed.

    Raises:
        InputError: Names or sizes do not fit.
    """
    found = fit(as_plan(plan), _stored(full), "the full state dict")
    out = {}
    for name, value in full.items():
        if name not in pruned:
            raise InputError(f"the pruned state dict has no {name}")
        box, small = found.get(name), pruned[name]
        if not _is_array(value):
            out[name] = small
            continue
        shape = tuple(value.shape)
        wanted = shape if box is None else tuple(box.shape(shape))
        if tuple(small.shape) != wanted:
            raise InputError(f"{name} has shape {list(small.shape)} in the pruned state dict, not {list(wanted)}")
        out[name] = _copy(value)
        if box is None:
            out[name][...] = small
        else:
            out[name][position(box, shape)] = _like(value, small)
    return out


def save_module(module: nn.Module, folder: str | Path) -> None:
    """Write a pruned module as safetensors and plan; see :func:`restore`.

    Raises:
        InputError: torch is missing, the module was not made by graphprune, or the folder cannot be written.
    """
    _torch().save(module, Path(folder))


def restore(module: nn.Module, folder: str | Path, *, example_inputs: Any = None, inplace: bool = False) -> nn.Module:
    """Rebuild a pruned module from a new instance of its original class; nothing is unpickled.

    Args:
        module: An instance of the original, with any weights.
        folder: What ``save`` wrote, or a Hugging Face folder that ``apply`` wrote.
        example_inputs: What the module takes; needed where its class could not say the new sizes and its graph was
            pruned instead, and for folders that ``apply`` wrote of modules with sizes of heads and the like.
        inplace: Cut the instance itself.

    Raises:
        InputError: torch is missing, the folder is not such a one, or the module is another one.
    """
    made: nn.Module = _torch().restore(module, Path(folder), example_inputs=example_inputs, inplace=inplace)
    return made


def _torch() -> Any:
    try:
        from graphprune.rewrite import torch_state
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise InputError('modules need torch; pip install "graphprune[torch]"') from None
    return torch_state


# -- arrays of numpy and of torch ------------------------------------------------------------------------


def _cut(plan: Plan, state: State) -> dict[str, Any]:
    found = fit(plan, _stored(state), "the state dict")
    return {n: v[position(found[n], tuple(v.shape))] if n in found else v for n, v in state.items()}


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _stored(state: State) -> dict[str, Stored]:
    wide = ("bool", "int32", "int64", "uint32", "uint64")
    arrays = {n: v for n, v in state.items() if _is_array(v)}
    return {n: Stored(tuple(v.shape), str(v.dtype).rpartition(".")[2] not in wide) for n, v in arrays.items()}


def _copy(array: Any) -> Any:
    return array.copy() if isinstance(array, np.ndarray) else array.detach().clone()


def _like(full: Any, small: Any) -> Any:
    """The small tensor in the element type and on the device of the full one."""
    return small if isinstance(full, np.ndarray) else small.detach().to(full)
