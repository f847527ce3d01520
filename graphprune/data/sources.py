"""Makes samples of whatever a user calls data."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from graphprune.data import arrays, images
from graphprune.data.collection import BATCH, Samples
from graphprune.data.drawn import Random
from graphprune.data.labels import NAMES, Labelled, apart, is_file, names_of, only
from graphprune.data.polygraphy import saved_folder, saved_inputs
from graphprune.data.preprocess import Preprocess
from graphprune.data.records import Chain, Kept, Records
from graphprune.data.scripts import is_script, load_function
from graphprune.data.streams import from_python
from graphprune.data.wanted import LABELS, Layout, checked, label_array, layout_of
from graphprune.errors import InputError
from graphprune.graph.model import Graph


@dataclass(frozen=True, slots=True)
class Made:
    """Samples that are made for a graph.

    Attributes:
        make: Function (graph, layout, samples or None, seed) → records.
        slow: Whether each costs so much that their number is left to it where none is given.
    """

    make: Callable[[Graph, Layout, int | None, int], Records]
    slow: bool = False


MADE: dict[str, Made] = {"random": Made(Random)}
"""By the word that asks for them."""
SAMPLES = 1024  # taken where no number is given


def samples(
    source: Any,
    graph: Graph,
    *,
    limit: int | None = None,
    batch: int = BATCH,
    seed: int = 0,
    preprocess: Preprocess | Mapping[str, Any] | None = None,
    labels: Any = None,
) -> Samples:
    """Samples for a graph.

    Where axis 0 of every input is free, it is the batch: samples with equal sizes are put together, ``batch`` to a
    feed, and larger batches are split. A batch of a fixed size is filled; what is left over is dropped. Where inputs
    have no such axis in common, each item of a source is one feed.

    Args:
        source: One of

            - a path: a .npz or .npy file with samples stacked on axis 0, a folder of such files or of images, a JSON
              file (or a folder of them) of Polygraphy's --save-inputs, or file.py:function for a function that gives
              items (load_data where none is named);
            - an array, or a mapping from input names to arrays, stacked in the same way;
            - a list, tuple or dataset of items; an iterable; a DataLoader; a generator function, which is called again
              for every pass; an iterator, generator or calibration data reader of onnxruntime, which goes to a
              temporary file. An item is a mapping by input name, a tuple of inputs in order (what comes after them,
              such as labels, is left out), or an array; one sample or a batch;
            - "random" for random inputs, "synthetic" for ones that the model's BatchNormalizations take for real.
        graph: The graph; feeds have the names of its inputs.
        limit: Samples to take at most. Files, arrays and sequences give that many drawn with ``seed``, in their
            order; what goes by only once gives its first ones.
        batch: Samples per feed where the batch is free.
        seed: Seed of the draw.
        preprocess: How images become inputs: a mapping with the names of :class:`Preprocess`.
        labels: What is right for each sample, for criteria and metrics that ask for it: True where items are pairs
            (input, label) or have it under "labels", "label" or "y"; another name; a .npy or .npz file; or an array
            in the order of the source.

    Raises:
        InputError: The data cannot be read, does not fit the inputs, is empty, or holds NaN or infinity.
    """
    layout = replace(layout_of(graph), labels=names_of(labels))
    if not layout.inputs:
        raise InputError(f"{graph.name}: has no inputs, so that there is nothing to give data for")
    if seed < 0:
        raise InputError(f"seed {seed}: must be 0 or more")
    if labels is None or not apart(labels):
        records = _records(source, graph, layout, limit, seed, preprocess)
    else:
        records = _labelled(source, graph, layout, limit, seed, preprocess, labels)
    if labels is not None and LABELS not in records.reader()(0):
        raise InputError(f"{records.name}: has no labels; give them in a file of their own")
    return Samples(records, layout, limit, batch, seed)


def given_samples(
    source: Any, graph: Graph, count: int | None, seed: int, preprocess: Mapping[str, Any] | None, labels: Any = None
) -> Samples | None:
    """Samples as the options of a run say, 1,024 at most where no number is given; None without data.

    Raises:
        InputError: See :func:`samples`; or there is no data, but options for it.
    """
    if source is not None:
        slow = isinstance(source, str) and source in MADE and MADE[source].slow
        limit = SAMPLES if count is None and not slow else count
        return samples(source, graph, limit=limit, seed=seed, preprocess=preprocess, labels=labels)
    for name, value in (("samples", count), ("preprocess", preprocess), ("labels", labels)):
        if value is not None:
            raise InputError(f"{name} is given, but no data that it is for")
    return None


def _labelled(
    source: Any, graph: Graph, layout: Layout, limit: int | None, seed: int, preprocess: Any, labels: Any
) -> Records:
    """Samples with labels from somewhere else."""
    file = Path(labels) if is_file(labels) else None
    where = str(file) if file is not None else "labels"
    right = only(arrays.read_file(file), where) if file is not None else label_array(labels, where)
    if isinstance(source, list | tuple):
        if right.ndim == 0 or len(right) != len(source):
            raise InputError(f"{where}: {len(np.atleast_1d(right))} labels for the {len(source)} items of the data")
        pairs = [({**i} | {NAMES[0]: y} if hasattr(i, "keys") else (i, y)) for i, y in zip(source, right, strict=True)]
        return from_python(pairs, replace(layout, labels=NAMES), limit, seed)
    made = _records(source, graph, layout, limit, seed, preprocess)
    stacked = isinstance(made, arrays.Stack | Kept | Chain) and not _is_json(source)
    if not stacked:
        raise InputError(
            f"{where}: labels in an array of their own go with arrays, files and images; else let items be pairs"
            " (input, label), and say labels=True"
        )
    return Labelled(made, right, layout, where)


def _is_json(source: Any) -> bool:
    path = Path(source) if isinstance(source, str | os.PathLike) else Path()
    return path.suffix.lower() == ".json" or (path.is_dir() and not _files(path, arrays.ENDINGS + images.ENDINGS))


def _records(source: Any, graph: Graph, layout: Layout, limit: int | None, seed: int, preprocess: Any) -> Records:
    text = os.fspath(source) if isinstance(source, str | os.PathLike) else None
    pictures = text is not None and Path(text).is_dir() and bool(_files(Path(text), images.ENDINGS))
    if preprocess is not None and not pictures:
        raise InputError(f"{text or 'the data'}: preprocess is for folders of images")
    if text in MADE:
        return MADE[text].make(graph, layout, limit, seed)
    if text is not None and is_script(text):
        return from_python(load_function(text, "load_data"), layout, limit, seed, name=text)
    if text is not None:
        return _from_path(Path(text), layout, limit, seed, preprocess)
    if isinstance(source, Mapping):
        return arrays.Stack(arrays.named(source, layout, "the data"), layout, "the data")
    if isinstance(source, np.ndarray) or hasattr(source, "detach"):
        array = checked(source, layout.inputs[0], "the data") if len(layout.inputs) == 1 else np.zeros(0)
        return arrays.Stack(arrays.named(array, layout, "the data"), layout, "the data")
    return from_python(source, layout, limit, seed)


def _from_path(path: Path, layout: Layout, limit: int | None, seed: int, preprocess: Any) -> Records:
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if not path.is_dir():
        if path.suffix.lower() in images.ENDINGS:
            raise InputError(f"{path}: is one image; give a folder of images")
        return saved_inputs(path, layout, limit, seed) if path.suffix.lower() == ".json" else arrays.File(path, layout)
    found = {kind: files for kind in (arrays.ENDINGS, images.ENDINGS) if (files := _files(path, kind))}
    if len(found) > 1:
        said = " and ".join(files[0].name for files in found.values())
        raise InputError(f"{path}: the folder has several kinds of data ({said}); give a folder with one of them")
    files = next(iter(found.values())) if found else _files(path, (".json",))
    if arrays.ENDINGS in found:
        return arrays.folder(path, files, layout)
    if images.ENDINGS in found:
        return Kept(images.Images(path, files, layout, preprocess))
    if files:
        return saved_folder(path, files, layout, limit, seed)
    raise InputError(f"{path}: the folder has no .npz or .npy files, no images, and no .json files of Polygraphy")


def _files(path: Path, endings: tuple[str, ...]) -> list[Path]:
    """Files below a folder with one of these endings, sorted; hidden ones are left out."""
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in endings and p.is_file())
    return [p for p in files if not any(part.startswith(".") for part in p.relative_to(path).parts)]
