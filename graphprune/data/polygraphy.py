"""Samples that Polygraphy saved: JSON with a dictionary of arrays per run, as its --save-inputs writes.

An array is ``{"array": <a .npy file in base64>, "polygraphy_class": "ndarray"}``; files of older versions mark it with
a key instead, and may hold the .npy file as latin-1 text. A folder holds one file per run.
"""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from graphprune.data.records import Chain, Records
from graphprune.data.streams import sequence, spooled
from graphprune.data.wanted import Layout
from graphprune.errors import InputError
from graphprune.graph.model import Array

_CLASS, _OLD = "polygraphy_class", "__polygraphy_encoded_"


def saved_inputs(path: Path, layout: Layout, limit: int | None, seed: int) -> Records:
    """Samples of one file; arrays are decoded one run at a time and put on a temporary file.

    Raises:
        InputError: The file cannot be read, holds something else, or does not fit.
    """
    return sequence(_Runs(path, _runs(path)), layout, limit, seed, str(path))


def saved_folder(path: Path, files: list[Path], layout: Layout, limit: int | None, seed: int) -> Records:
    """Samples of a folder with a file per run; only the drawn files are read."""
    if limit is not None:
        files = [files[k] for k in np.random.default_rng(seed).permutation(len(files)).tolist()]
    parts: list[Records] = []
    left = limit
    for file in files:
        items = (_feed(run, f"{file}: item {k}") for k, run in enumerate(_runs(file)))
        part = spooled(items, layout, left, str(file))
        parts.append(part)
        left = left - sum(s.rows for s in part.sizes) if left is not None else None
        if left is not None and left <= 0:
            break
    return Chain(str(path), parts)


class _Runs:
    """Runs of a file, decoded when asked for."""

    def __init__(self, path: Path, runs: list[Any]) -> None:
        self._path, self._runs = path, runs

    def __len__(self) -> int:
        return len(self._runs)

    def __getitem__(self, k: int) -> dict[str, Array]:
        return _feed(self._runs[k], f"{self._path}: item {k}")

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return (self[k] for k in range(len(self)))


def _runs(path: Path) -> list[Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable JSON file ({str(error)[:200]})") from None
    return found if isinstance(found, list) else [found]


def _feed(run: Any, where: str) -> dict[str, Array]:
    if not isinstance(run, dict):
        raise InputError(f"{where}: is no dictionary of arrays as Polygraphy's --save-inputs writes")
    kind = _kind(run)
    if kind:
        raise InputError(f"{where}: holds {kind}; save the inputs of the model with Polygraphy's --save-inputs")
    return {name: _array(entry, f"{where}: {name}") for name, entry in run.items()}


def _kind(entry: Mapping[str, Any]) -> str:
    """The type that an entry is marked with, "" for a plain dictionary."""
    old = [k.removeprefix(_OLD) for k in entry if k.startswith(_OLD)]
    return str(entry.get(_CLASS) or (old[0] if old else ""))


def _array(entry: Any, where: str) -> Array:
    kind = _kind(entry) if isinstance(entry, dict) else ""
    if isinstance(entry, dict) and kind in ("LazyArray", "LazyNumpyArray"):
        return _array(entry.get("values"), where)
    text = entry.get("array") if isinstance(entry, dict) else None
    if kind != "ndarray" or not isinstance(text, str):
        given = f"a {kind}" if kind else "no array"
        raise InputError(f"{where} is {given}; save numpy arrays")
    for content in _contents(text):
        try:
            loaded: Any = np.load(io.BytesIO(content), allow_pickle=False)
            return loaded if isinstance(loaded, np.ndarray) else np.asarray(loaded[loaded.files[0]])
        except ValueError as error:
            if "pickle" in str(error) and content.startswith(b"\x93NUMPY"):
                raise InputError(f"{where} holds Python objects; pickled objects are refused") from None
        except (OSError, EOFError, IndexError, zipfile.BadZipFile):
            pass
    raise InputError(f"{where} cannot be decoded")


def _contents(text: str) -> Iterator[bytes]:
    """What a text may stand for: base64, or latin-1 in old files."""
    with suppress(ValueError):
        yield base64.b64decode(text.encode(), validate=True)
    with suppress(ValueError):
        yield text.encode("latin-1")
