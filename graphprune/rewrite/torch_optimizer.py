"""Optimiser state, cut like the parameters it belongs to."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.coupling.groups import DependencyGraph
from graphprune.errors import InputError
from graphprune.plan import Plan, planned_cut
from graphprune.rewrite.torch import boxes_of
from graphprune.rewrite.torch_slices import take


def sliced_optimizer(
    optimizer: torch.optim.Optimizer, deps: DependencyGraph, plan: Plan, pruned: nn.Module
) -> torch.optim.Optimizer:
    """An optimiser of the pruned module in the state of the original's; see :func:`graphprune.slice_optimizer`.

    Raises:
        InputError: The optimiser has parameters that are not the module's.
    """
    traced = deps.source.source
    boxes = boxes_of(planned_cut(deps, plan))
    names = {id(p): n for n, p in traced.module.named_parameters()}
    new = dict(pruned.named_parameters(remove_duplicate=False))
    groups: list[dict[str, Any]] = []
    state: dict[Tensor, Any] = {}
    for group in optimizer.param_groups:
        params = []
        for parameter in group["params"]:
            name = names.get(id(parameter))
            if name is None or name not in new:
                raise InputError("the optimiser has parameters that are not the module's")
            params.append(new[name])
            shape = deps.source.weights[name].shape
            state[new[name]] = {k: _cut(v, boxes.get(name), shape) for k, v in optimizer.state[parameter].items()}
        groups.append({**{k: copy.copy(v) for k, v in group.items() if k != "params"}, "params": params})
    out: torch.optim.Optimizer = type(optimizer)(groups, **_settings(optimizer))
    out.state.update(state)
    return out


def _settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Defaults that the class takes."""
    import inspect

    taken = inspect.signature(type(optimizer)).parameters
    return {k: v for k, v in optimizer.defaults.items() if k in taken}


def _cut(value: Any, box: Any, shape: tuple[int, ...]) -> Any:
    """State of one parameter: what has its shape is cut, everything else is copied."""
    if not isinstance(value, Tensor):
        return copy.copy(value)
    whole = value.detach()
    return take(whole, box) if box and tuple(value.shape) == shape else whole.clone()
