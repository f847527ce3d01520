"""Samples from .npz and .npy files, checked against a model's inputs. Pickled content is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphprune.errors import InputError
from graphprune.graph.model import Array, Graph

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
    arrays = _arrays(path, graph)
    single = any(a.ndim == _rank(graph, name) + 1 for name, a in arrays.items())
    steps = {name: _step(graph, name, a, single=single) for name, a in arrays.items()}
    counts = {name: -(-len(a) // steps[name]) if _free(graph, name) else len(a) // steps[name] for name, a in arrays.items()}
    for name, count in counts.items():
        if count == 0:
            raise InputError(
                f"{path}: {name} has {len(arrays[name])} samples; the model's batch is fixed at {steps[name]}"
            )
    if len({(len(a), steps[n]) for n, a in arrays.items()}) > 1 and len(set(counts.values())) > 1:
        sizes = ", ".join(f"{n}: {len(a)}" for n, a in arrays.items())
        raise InputError(f"{path}: the inputs have different numbers of samples ({sizes})")
    return [
        {name: _part(a, k, steps[name], _rank(graph, name)) for name, a in arrays.items()}
        for k in range(min(limit, *counts.values()))
    ]


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
    value, rank = graph.values[name], _rank(graph, name)
    wanted = _dtype(value.dtype)
    if wanted is not None and (array.dtype.kind not in "UO" if wanted.kind == "O" else array.dtype != wanted):
        raise InputError(f"{path}: {name} is {array.dtype}, the model's input is {wanted}; convert it with .astype")
    sizes = [("?" if free else str(n)) for n, free in zip(value.shape or (), value.dynamic, strict=False)]
    if value.shape is not None:
        tail = array.shape[array.ndim - rank :] if array.ndim == rank + 1 else (None, *array.shape[1:])
        fits = array.ndim in (rank, rank + 1) and array.ndim > 0
        fits = fits and all(
            a is None or free or a == n for a, n, free in zip(tail, value.shape, value.dynamic, strict=True)
        )
        if not fits:
            raise InputError(
                f"{path}: {name} has shape {array.shape}, the model's input is [{', '.join(sizes)}];"
                " samples are stacked on axis 0"
            )
    if array.size == 0:
        raise InputError(f"{path}: {name} is empty (shape {array.shape})")
    if array.dtype.kind == "f" and np.isnan(np.min(array)):
        raise InputError(f"{path}: {name} holds NaN")
    return array.astype(object) if wanted is not None and wanted.kind == "O" else array


def _dtype(name: str) -> np.dtype[Any] | None:
    if not name:
        return None
    known = {"float": "float32", "double": "float64", "string": "object"}
    try:
        return np.dtype(known.get(name, name))
    except TypeError:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name)) if hasattr(ml_dtypes, name) else None


def _rank(graph: Graph, name: str) -> int:
    shape = graph.values[name].shape
    return len(shape) if shape is not None else -2  # never equal to an array's rank: taken as it is


def _free(graph: Graph, name: str) -> bool:
    """Whether axis 0 of the input may have any size."""
    value = graph.values[name]
    return value.shape is None or bool(value.dynamic and value.dynamic[0])


def _step(graph: Graph, name: str, array: Array, *, single: bool) -> int:
    """Samples per feed."""
    rank = _rank(graph, name)
    if array.ndim == rank + 1:
        return 1
    shape = graph.values[name].shape
    if _free(graph, name) or not shape:
        return 1 if single else BATCH
    return shape[0]


def _part(array: Array, k: int, step: int, rank: int) -> Array:
    if array.ndim == rank + 1:
        return np.asarray(array[k])
    return np.ascontiguousarray(array[k * step : (k + 1) * step])
