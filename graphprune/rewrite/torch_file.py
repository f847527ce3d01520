"""Carries out a plan on files of torch.save; only tensors and plain containers are ever unpickled."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from graphprune.coupling.box import Box
from graphprune.errors import InputError
from graphprune.graph.model import Array
from graphprune.plan import Plan
from graphprune.rewrite.pieces import pieces
from graphprune.rewrite.replay import Shape, Stored, fit
from graphprune.rewrite.torch_mapped import Pages, Writer, mapped

State = MutableMapping[str, Any]
Sizes = dict[str, tuple[Shape, int]]
_DEPTH = 4
_INTS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_NO_CHANNELS = {torch.bool, torch.int32, torch.int64}


def shrink(plan: Plan, source: Path, target: Path) -> tuple[Sizes, Sizes, tuple[str, ...]]:
    """Write a .pt file without what a plan removes.

    Every state dict in it whose names fit is cut: the file itself, its "state_dict", "model", "ema" ... Optimiser
    states are left out. Sliced tensors lie in files until the end, so that memory stays near the largest one.

    Returns:
        Sizes and bytes of every tensor before and after, and notes.

    Raises:
        InputError: The file cannot be read, holds more than tensors and plain containers, or does not fit.
    """
    loaded, is_mapped = _read(source)
    if not isinstance(loaded, MutableMapping):
        raise InputError(f"{source}: holds a {type(loaded).__name__}, not a state dict")
    notes = _without_optimisers(loaded, source)
    states = [*_states(loaded)]
    if not states:
        raise InputError(f"{source}: no state dict in it (a mapping of names to tensors)")
    before = _sizes(states)
    with TemporaryDirectory(prefix=".slices-", dir=target.parent.parent) as scratch:
        pages = Pages()
        for _, state in states if is_mapped else ():
            for tensor in _tensors(state).values():
                pages.add(tensor)
        slicer = _Slicer(Path(scratch), pages)
        errors, cut = [], 0
        for where, state in states:
            try:
                found = fit(plan, _stored(state), f"{source}{where}")
            except InputError as error:
                if any(n.rpartition(".")[2] and _ends(n, plan) for n in state):
                    raise
                errors.append(error)
                continue
            cut += 1
            slicer.cut(state, found, f"{source}{where}")
        if not cut:
            raise errors[0]
        after = _sizes(states)
        with target.open("wb") as file:
            torch.save(loaded, cast("BinaryIO", Writer(file, pages)))
        del loaded, states, state, slicer
    return before, after, notes


def _read(path: Path) -> tuple[Any, bool]:
    """What a file of torch.save holds and whether it is mapped, as its format allows; no code of it runs.

    Raises:
        InputError: It is missing, truncated, or holds more than tensors and plain containers.
    """
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True), True
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True), False  # the old format
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"holds {found[1]}, which is code" if found else "is no file of torch.save, or holds more than tensors"
        raise InputError(f"{path}: {what}; it is not run: save module.state_dict() instead") from None
    except Exception as error:  # whatever a broken archive raises
        raise InputError(f"{path}: not a readable file of torch.save, or truncated ({_line(error)})") from None


def _line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:160]


def _without_optimisers(loaded: State, source: Path) -> tuple[str, ...]:
    """Drop optimiser states, whose tensors have no names to follow."""
    gone = [n for n, v in loaded.items() if isinstance(v, MutableMapping) and {"state", "param_groups"} <= v.keys()]
    for name in gone:
        del loaded[name]
    return (f"left out of {source.name}, since it would no longer fit: {', '.join(gone)}",) if gone else ()


def _states(level: State, where: str = "", depth: int = 0) -> Iterator[tuple[str, State]]:
    """Mappings that hold tensors under names, with the way to them."""
    if any(isinstance(n, str) and isinstance(v, Tensor) for n, v in level.items()):
        yield where, level
    for name, value in level.items():
        if isinstance(value, MutableMapping) and depth < _DEPTH:
            yield from _states(value, f"{where}[{name!r}]", depth + 1)


def _tensors(state: State) -> dict[str, Tensor]:
    return {n: v for n, v in state.items() if isinstance(n, str) and isinstance(v, Tensor)}


def _stored(state: State) -> dict[str, Stored]:
    return {n: Stored(tuple(t.shape), t.dtype not in _NO_CHANNELS, _key(t)) for n, t in _tensors(state).items()}


def _sizes(states: list[tuple[str, State]]) -> Sizes:
    """Sizes and bytes of every tensor; tied ones count once."""
    out, seen = {}, set()
    for where, state in states:
        for name, tensor in _tensors(state).items():
            key = _key(tensor)
            size = 0 if key in seen else tensor.numel() * tensor.element_size()
            seen.add(key)
            out[f"{where}{name}"] = tuple(tensor.shape), size
    return out


def _ends(name: str, plan: Plan) -> bool:
    """Whether the plan cuts a weight of this name, up to a prefix."""
    return any(name == n or name.endswith(f".{n}") or n.endswith(f".{name}") for n in plan.weights)


def _key(tensor: Tensor) -> tuple[Any, ...]:
    """Equal for tensors that are one and the same in memory."""
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return (id(tensor),)
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype


class _Slicer:
    """Slices tensors into files and maps those.

    Args:
        folder: Where the files go.
        pages: What is mapped.
    """

    def __init__(self, folder: Path, pages: Pages) -> None:
        self.folder, self.pages = folder, pages
        self.made: dict[tuple[Any, ...], Tensor] = {}
        self.sources: list[Tensor] = []  # alive, so that no address is used twice

    def cut(self, state: State, boxes: dict[str, Box], where: str) -> None:
        """Replace the tensors of a state dict by what is kept of them; one tensor under two names stays one."""
        tensors = _tensors(state)
        own = {_key(tensors[n]): box for n, box in boxes.items()}
        for name, tensor in tensors.items():
            box = boxes.get(name) or own.get(_key(tensor))
            if box is None:
                continue
            if own[_key(tensor)].key() != box.key():
                raise InputError(f"{where}: {name} shares memory with another weight that is cut otherwise")
            if tensor.layout is not torch.strided or tensor.is_quantized or tensor.element_size() not in _INTS:
                raise InputError(f"{where}: {name} is a {tensor.dtype} tensor of {tensor.layout}, which cannot be cut")
            new = self._slice(tensor, box)
            wrapped = isinstance(tensor, torch.nn.Parameter)
            state[name] = torch.nn.Parameter(new, tensor.requires_grad) if wrapped else new

    def _slice(self, tensor: Tensor, box: Box) -> Tensor:
        key = (_key(tensor), box.key())
        if key not in self.made:
            self.sources.append(tensor)
            self.made[key] = self._mapped(tensor.detach(), box)
        return self.made[key]

    def _mapped(self, tensor: Tensor, box: Box) -> Tensor:
        size, shape = tensor.element_size(), tuple(tensor.shape)
        numbers = tensor.view(_INTS[size])

        def rows(first: int, last: int) -> Array:
            return np.asarray(numbers[first:last].numpy())

        path = self.folder / str(len(self.made))
        with path.open("wb") as file:
            for piece in pieces(rows, shape, size, box):
                file.write(piece.data)
        kept = tuple(box.shape(shape))
        self.pages.release(tensor)
        out = mapped(path, kept, numbers.dtype).view(tensor.dtype)
        self.pages.add(out)
        return out
