"""Makes samples of whatever a user calls data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphprune.data.arrays import ENDINGS, File, Stack, folder, named
from graphprune.data.collection import BATCH, Samples
from graphprune.data.drawn import COUNT, Random
from graphprune.data.records import Records
from graphprune.data.streams import from_python
from graphprune.data.wanted import Layout, checked, layout_of
from graphprune.errors import InputError
from graphprune.graph.model import Graph

RANDOM = "random"


def samples(
    source: Any,
    graph: Graph,
    *,
    limit: int | None = None,
    batch: int = BATCH,
    seed: int = 0,
) -> Samples:
    """Samples for a graph.

    Where axis 0 of every input is free, it is the batch: samples with equal sizes are put together, ``batch`` to a
    feed, and larger batches are split. A batch of a fixed size is filled; what is left over is dropped. Where inputs
    have no such axis in common, each item of a source is one feed.

    Args:
        source: One of

            - a path: a .npz or .npy file with samples stacked on axis 0, a folder of such files;
            - an array, or a mapping from input names to arrays, stacked in the same way;
            - a list, tuple or dataset of items; an iterable; a DataLoader; a generator function, which is called again
              for every pass; an iterator, generator or calibration data reader of onnxruntime, which goes to a
              temporary file. An item is a mapping by input name, a tuple of inputs in order (what comes after them,
              such as labels, is left out), or an array; one sample or a batch;
            - "random", for random inputs.
        graph: The graph; feeds have the names of its inputs.
        limit: Samples to take at most. Files, arrays and sequences give that many drawn with ``seed``, in their
            order; what goes by only once gives its first ones.
        batch: Samples per feed where the batch is free.
        seed: Seed of the draw.

    Raises:
        InputError: The data cannot be read, does not fit the inputs, is empty, or holds NaN or infinity.
    """
    layout = layout_of(graph)
    if not layout.inputs:
        raise InputError(f"{graph.name}: has no inputs, so that there is nothing to give data for")
    return Samples(_records(source, graph, layout, limit, seed), layout, limit, batch, seed)


def _records(source: Any, graph: Graph, layout: Layout, limit: int | None, seed: int) -> Records:
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        if text == RANDOM:
            return Random(graph, layout, limit or COUNT, seed)
        return _from_path(Path(text), layout)
    if isinstance(source, Mapping):
        return Stack(named(source, layout, "the data"), layout, "the data")
    if isinstance(source, np.ndarray) or hasattr(source, "detach"):
        array = checked(source, layout.inputs[0], "the data") if len(layout.inputs) == 1 else np.zeros(0)
        return Stack(named(array, layout, "the data"), layout, "the data")
    return from_python(source, layout, limit, seed)


def _from_path(path: Path, layout: Layout) -> Records:
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if not path.is_dir():
        return File(path, layout)
    files = sorted(
        p for p in path.rglob("*") if p.is_file() and not any(q.startswith(".") for q in p.parts[len(path.parts) :])
    )
    arrays = [p for p in files if p.suffix.lower() in ENDINGS]
    if not arrays:
        raise InputError(f"{path}: the folder has no {' or '.join(ENDINGS)} files")
    return folder(path, arrays, layout)
