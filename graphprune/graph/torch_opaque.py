"""Modules that are not looked into: in the captured graph each is one operator."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.errors import InputError

Mark = str | type[nn.Module] | nn.Module


@dataclass
class _Call:
    """One call of an opaque module.

    Attributes:
        forward: What it runs.
        given: Structure of its arguments.
        rest: Arguments that are no tensors, by place; None for a tensor.
        made: Structure of its results, whose leaves are all tensors.
        like: Sizes and types of those.
    """

    forward: Callable[..., Any]
    given: Any
    rest: list[Any]
    made: Any
    like: list[tuple[tuple[int, ...], torch.dtype]]


_CALLS: list[_Call] = []


@torch.library.custom_op("graphprune::opaque", mutates_args=())
def opaque(tensors: list[torch.Tensor], call: int) -> list[torch.Tensor]:
    """Run an opaque module; ``call`` says which, and how its other arguments were."""
    entry = _CALLS[call]
    given = iter(tensors)
    leaves = [next(given) if isinstance(leaf, _Tensor) else leaf for leaf in entry.rest]
    args, kwargs = pytree.tree_unflatten(leaves, entry.given)
    return [t.clone() for t in pytree.tree_leaves(entry.forward(*args, **kwargs))]


@opaque.register_fake
def _(tensors: list[torch.Tensor], call: int) -> list[torch.Tensor]:
    return [torch.empty(size, dtype=dtype, device=tensors[0].device) for size, dtype in _CALLS[call].like]


class _Tensor:
    """Stands for a tensor among arguments."""


def marked(module: nn.Module, marks: Sequence[Mark]) -> dict[str, nn.Module]:
    """Opaque submodules by path; those inside others are left out.

    Args:
        module: The module.
        marks: Paths (with * and ?), classes, or the submodules themselves.

    Raises:
        InputError: A mark fits no submodule.
    """
    found: dict[str, nn.Module] = {}
    for mark in marks:
        here = {n: m for n, m in module.named_modules() if n and _fits(mark, n, m)}
        if not here:
            raise InputError(f"opaque={mark!r}: no submodule of {type(module).__name__} is that")
        found |= here
    return {n: m for n, m in found.items() if not any(n.startswith(f"{o}.") for o in found)}


def _fits(mark: Mark, name: str, module: nn.Module) -> bool:
    if isinstance(mark, str):
        return fnmatch.fnmatchcase(name, mark)
    return isinstance(module, mark) if inspect.isclass(mark) else module is mark


@contextmanager
def as_operators(
    module: nn.Module, marks: Sequence[Mark], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[None]:
    """Within the block every call of an opaque submodule is one operator; the module runs once to see what they make.

    Raises:
        InputError: A mark fits no submodule, or an opaque module takes or returns no tensor.
    """
    if not marks:
        yield
        return
    targets = marked(module, marks)
    calls: dict[str, list[int]] = {name: [] for name in targets}
    hooks = [m.register_forward_hook(_recorder(n, calls[n]), with_kwargs=True) for n, m in targets.items()]
    try:
        module(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    own = {name: m.__dict__.get("forward") for name, m in targets.items()}
    try:
        for name, m in targets.items():
            object.__setattr__(m, "forward", _leaf(calls[name]))
        yield
    finally:
        for name, m in targets.items():
            if own[name] is None:
                del m.__dict__["forward"]
            else:
                object.__setattr__(m, "forward", own[name])


def _recorder(name: str, calls: list[int]) -> Callable[..., None]:
    def record(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        leaves, given = pytree.tree_flatten((args, kwargs))
        results, made = pytree.tree_flatten(result)
        if not all(isinstance(t, torch.Tensor) for t in results) or not _tensors(leaves):
            raise InputError(f"opaque module {name}: it has to take and return tensors")
        rest = [_Tensor() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        like = [(tuple(t.shape), t.dtype) for t in results]
        calls.append(len(_CALLS))
        _CALLS.append(_Call(type(module).forward.__get__(module), given, rest, made, like))

    return record


def _tensors(leaves: Sequence[Any]) -> list[torch.Tensor]:
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _leaf(calls: Sequence[int]) -> Callable[..., Any]:
    """A forward that makes one operator of each call, in the order in which they were seen."""
    turn = iter(calls)

    def forward(*args: Any, **kwargs: Any) -> Any:
        call = next(turn)
        made: Any = opaque(_tensors(pytree.tree_leaves((args, kwargs))), call)
        return pytree.tree_unflatten(made, _CALLS[call].made)

    return forward
