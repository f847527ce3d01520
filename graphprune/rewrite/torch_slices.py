"""Slices the parameters and buffers of a module and brings the attributes of its layers in line with them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphprune.coupling.box import Box
from graphprune.errors import InputError
from graphprune.graph.torch_program import named_tensors
from graphprune.rewrite.torch_layers import fit_layer

Boxes = Mapping[str, Box]


def sliced(module: nn.Module, boxes: Boxes, *, inplace: bool = False) -> nn.Module:
    """A module of the same class with smaller parameters and buffers.

    Names, ``requires_grad``, dtypes, devices and ties stay; layers of ``torch.nn`` get the sizes of what is left
    of them. Literal sizes elsewhere are another step's business.

    Args:
        module: The original; not changed unless ``inplace``.
        boxes: What is kept of tensors, by ``state_dict`` name (the first one of a tied tensor).
        inplace: Cut the module itself; its parameters stay the same objects.

    Raises:
        InputError: A name is unknown, or a box does not fit its tensor.
    """
    tensors = dict(named_tensors(module))
    for name, box in boxes.items():
        _check(tensors, name, box)
    chosen = {name: box for name, box in boxes.items() if box}
    small = {name: take(tensors[name].detach(), box) for name, box in chosen.items()}
    out = module if inplace else copied(module, {id(tensors[n]): _like(tensors[n], t) for n, t in small.items()})
    if inplace:
        for name, tensor in small.items():
            _replace(tensors[name], tensor, chosen[name])
    by_tensor = {id(tensors[name]): box for name, box in chosen.items()}
    for path, layer in module.named_modules():
        own = {n: by_tensor[id(t)] for n, t in _owned(layer) if id(t) in by_tensor}
        if own:
            fit_layer(out, path, own)
    return out


def take(tensor: Tensor, box: Box) -> Tensor:
    """The kept elements of a tensor, on its device and in its dtype."""
    for axis, (block, kept) in sorted(box.ragged.items()):
        rows = kept[np.arange(tensor.shape[block]) % len(kept)]
        shape = list(tensor.shape)
        shape[axis] = rows.shape[1]
        index = torch.from_numpy(np.ascontiguousarray(rows if block < axis else rows.T)).to(tensor.device)
        sizes = [1] * tensor.ndim
        sizes[block], sizes[axis] = rows.shape
        tensor = torch.gather(tensor, axis, index.reshape(sizes).expand(shape))
    plain = [(a, k) for a, k in box.axes.items() if a not in box.ragged]
    for axis, kept in sorted(plain, key=lambda item: len(item[1]) / tensor.shape[item[0]]):
        tensor = tensor.index_select(axis, torch.from_numpy(np.asarray(kept, np.int64)).to(tensor.device))
    return tensor.contiguous()


def copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy in which some tensors, by id, are replaced; what cannot be copied is shared with the original."""
    for layer in module.modules():
        for value in vars(layer).values():  # what hooks compute from parameters cannot be copied with its history
            if isinstance(value, Tensor) and value.requires_grad and not value.is_leaf:
                memo.setdefault(id(value), value.detach().clone())
    try:
        return copy.deepcopy(module, dict(memo))
    except Exception:  # a lock, a file, a generator: whatever a class may hold
        return _copied_by_parts(module, dict(memo))


def _copied_by_parts(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    if id(module) in memo:
        return memo[id(module)]  # type: ignore[no-any-return]
    new = type(module).__new__(type(module))
    memo[id(module)] = new
    parts: dict[str, Any] = {}
    for name, value in vars(module).items():
        if name == "_modules":
            parts[name] = {k: None if m is None else _copied_by_parts(m, memo) for k, m in value.items()}
            continue
        if isinstance(value, nn.Module):
            parts[name] = _copied_by_parts(value, memo)
            continue
        try:
            parts[name] = copy.deepcopy(value, memo)
        except Exception:
            parts[name] = copy.copy(value) if isinstance(value, dict | list) else value
    new.__dict__.update(parts)
    return new


def _owned(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors that a layer registers itself, and those behind its parametrizations."""
    for name, tensor in (*layer._parameters.items(), *layer._buffers.items()):
        if tensor is not None:
            yield name, tensor
    hidden = layer._modules.get("parametrizations")
    for name, made in hidden.named_children() if hidden is not None else ():
        for part, tensor in made.named_parameters():
            yield f"{name}.{part}", tensor


def _like(old: Tensor, new: Tensor) -> Tensor:
    if isinstance(old, nn.Parameter):
        out: Tensor = type(old)(new, requires_grad=old.requires_grad)
        out.__dict__.update(vars(old))
        return out
    return new.requires_grad_(old.requires_grad)


def _replace(old: Tensor, new: Tensor, box: Box) -> None:
    """Give a tensor other content and size; its gradient follows."""
    grad = None if old.grad is None else take(old.grad, box)
    old.grad = None
    old.data = new
    old.grad = grad


def _check(tensors: Mapping[str, Tensor], name: str, box: Box) -> None:
    tensor = tensors.get(name)
    if tensor is None:
        raise InputError(f"the module has no parameter or buffer {name}")
    if nn.parameter.is_lazy(tensor):
        raise InputError(f"{name} has no size yet; run the module once before pruning it")
    for axis, kept in box.axes.items():
        size = tensor.shape[axis] if axis < tensor.ndim else 0
        if not len(kept) or kept.min() < 0 or kept.max() >= size:
            raise InputError(f"{name} has shape {tuple(tensor.shape)}, which does not fit the cut of its axis {axis}")
