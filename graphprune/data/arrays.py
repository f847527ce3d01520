"""Samples from .npz and .npy files, checked against a model's inputs. Pickled content is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphprune.errors import InputError
from graphprune.graph.model import Array, Graph, Value

BATCH = 8  # samples per feed where the batch size is free


def load_feeds(path: str | Path, graph: Graph, limit: int = 2) -> list[dict[str, Array]]:
    """The first samples of a file as inputs of a model.

    Samples are stacked on axis 0. An input whose own axis 0 is the batch gets as many as its batch holds, a few
    where the batch is free; an input without a batch (one axis less than the array) gets one.

    Args:
        path: A .npz with an array per input, or a .npy for a model with one input.
        graph: The model.
        limit: Feeds to make at most.

    Raises:
        InputError: The file cannot be read, or an array does not fit its input.
    """
    path = Path(path)
    stacks = _stacks(_arrays(path, graph), graph)
    for name, stack in stacks.items():
        if stack.count == 0:
            raise InputError(
                f"{path}: {name} has {len(stack.array)} samples, the model's batch is fixed at {stack.step}"
            )
    lengths = {(s.step, len(s.array)) for s in stacks.values()}
    if len(lengths) > len({s.step for s in stacks.values()}) or len({s.count for s in stacks.values()}) > 1:
        sizes = ", ".join(f"{n}: {len(s.array)}" for n, s in stacks.items())
        raise InputError(f"{path}: the inputs have different numbers of samples ({sizes})")
    count = min(limit, *(s.count for s in stacks.values()))
    return [{name: stack.part(k) for name, stack in stacks.items()} for k in range(count)]


@dataclass(frozen=True, slots=True)
class _Stack:
    """Samples of one input.

    Attributes:
        array: They, on axis 0.
        step: How many make a feed.
        alone: Whether the input has no batch axis, so that axis 0 goes away.
        free: Whether a last, smaller feed is fine.
    """

    array: Array
    step: int
    alone: bool
    free: bool

    @property
    def count(self) -> int:
        """Number of feeds."""
        return -(-len(self.array) // self.step) if self.free else len(self.array) // self.step

    def part(self, k: int) -> Array:
        """Feed number k."""
        if self.alone:
            return np.asarray(self.array[k])
        return np.ascontiguousarray(self.array[k * self.step : (k + 1) * self.step])


def _stacks(arrays: Mapping[str, Array], graph: Graph) -> dict[str, _Stack]:
    shapes = {name: graph.values[name].shape for name in arrays}
    alone = {name for name, shape in shapes.items() if shape is not None and arrays[name].ndim == len(shape) + 1}
    fixed = {n: s[0] for n, s in shapes.items() if n not in alone and s and not graph.values[n].dynamic[0]}
    few = 1 if alone else max(fixed.values(), default=BATCH)
    return {
        name: _Stack(array, 1 if name in alone else fixed.get(name, few), name in alone, name not in fixed)
        for name, array in arrays.items()
    }


def _arrays(path: Path, graph: Graph) -> dict[str, Array]:
    """Checked arrays by input name."""
    found = _read(path)
    if isinstance(found, np.ndarray):
        if len(graph.inputs) != 1:
            raise InputError(
                f"{path}: {graph.name} has {len(graph.inputs)} inputs ({', '.join(graph.inputs)});"
                " give a .npz with an array for each"
            )
        found = {graph.inputs[0]: found}
    missing = [name for name in graph.inputs if name not in found]
    if missing:
        raise InputError(
            f"{path}: no array for input {', '.join(missing)}; the file has {', '.join(found) or 'no arrays'},"
            f" the model's inputs are {', '.join(graph.inputs)}"
        )
    return {name: _checked(path, graph, name, found[name]) for name in graph.inputs}


def _read(path: Path) -> Array | Mapping[str, Array]:
    try:
        loaded = np.load(path, allow_pickle=False, mmap_mode="r")
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:
        cause = "pickled objects are refused" if "pickle" in str(error).lower() else " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not a readable .npz or .npy file ({cause})") from None


def _checked(path: Path, graph: Graph, name: str, array: Any) -> Array:
    """The array as the input wants it.

    Raises:
        InputError: Its type or shape differs, it is empty, or it holds NaN.
    """
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: {name} is no array")
    value = graph.values[name]
    wanted = _dtype(value.dtype)
    text = wanted is not None and wanted.kind == "O"
    if wanted is not None and (array.dtype.kind != "U" if text else array.dtype != wanted):
        raise InputError(f"{path}: {name} is {array.dtype}, the model's input is {wanted}; convert it with .astype")
    if not _fits(value, array.shape):
        sizes = ", ".join("?" if free else str(n) for n, free in zip(value.shape or (), value.dynamic, strict=True))
        raise InputError(
            f"{path}: {name} has shape {array.shape}, the model's input is [{sizes}]; samples are stacked on axis 0"
        )
    if array.size == 0:
        raise InputError(f"{path}: {name} is empty (shape {array.shape})")
    if array.dtype.kind == "f" and np.isnan(np.min(array)):
        raise InputError(f"{path}: {name} holds NaN")
    return array.astype(object) if text else array


def _fits(value: Value, shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape stacks samples of the input; the length of axis 0 is free."""
    if not shape or value.shape is None or len(shape) not in (len(value.shape), len(value.shape) + 1):
        return bool(shape) and value.shape is None
    skip = 1 if len(shape) == len(value.shape) else 0
    pairs = zip(shape[1:], value.shape[skip:], value.dynamic[skip:], strict=True)
    return all(free or a == n for a, n, free in pairs)


def _dtype(name: str) -> np.dtype[Any] | None:
    if not name:
        return None
    known = {"float": "float32", "double": "float64", "string": "object"}
    try:
        return np.dtype(known.get(name, name))
    except TypeError:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name)) if hasattr(ml_dtypes, name) else None
