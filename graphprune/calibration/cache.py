"""Statistics on disk, so that a calibration that was interrupted goes on where it stopped."""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphprune.data.parts import Feed
from graphprune.graph.model import Array, Graph

_EVERY = 30.0  # seconds between writes, or 20 times what a write takes
_HEAD = ("@done", "@digest")


def model_key(graph: Graph) -> str:
    """Digest of a model: its operators, their wiring and settings, and the content of its weights."""
    found = hashlib.sha256()
    for node in graph.nodes:
        attrs = sorted((k, _plain(v)) for k, v in node.attrs.items())
        found.update(repr((node.key, node.version, node.inputs, node.outputs, attrs)).encode())
    for name, weight in sorted(graph.weights.items()):
        found.update(repr((name, weight.shape, weight.dtype)).encode())
        if weight.origin != "shape":
            _content(found, weight.read())
    return found.hexdigest()


def _plain(value: Any) -> Any:
    return (value.shape, str(value.dtype), value.tobytes()) if isinstance(value, np.ndarray) else value


def _content(found: Any, array: Array) -> None:
    if array.dtype == object:
        found.update(repr(array.tolist()).encode())
    else:
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


class Digest:
    """Digest of the feeds seen so far."""

    def __init__(self) -> None:
        self._found = hashlib.sha256()

    def add(self, feed: Feed) -> None:
        """See one more feed."""
        for name in sorted(feed):
            array = np.asarray(feed[name])
            self._found.update(repr((name, array.shape, str(array.dtype))).encode())
            _content(self._found, array)

    def __str__(self) -> str:
        return self._found.hexdigest()


class Checkpoint:
    """The file of one pass over the data.

    Args:
        folder: The cache folder; it is made.
        key: What tells this pass from others: the model, the data's first feed and length, and what is summed.
    """

    def __init__(self, folder: Path, key: Iterable[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256("\n".join(key).encode()).hexdigest()[:32]
        self._path = folder / f"calibration-{name}.npz"
        self._last, self._took = time.monotonic(), 0.0

    def read(self) -> tuple[int, str, dict[str, Array]]:
        """Feeds that are done, their digest, and the sums; (0, "", {}) where there is no file that can be read."""
        try:
            with np.load(self._path, allow_pickle=False) as archive:
                found = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return 0, "", {}
        if not all(name in found for name in _HEAD):
            return 0, "", {}
        return int(found.pop("@done")), str(found.pop("@digest")), found

    def due(self) -> bool:
        """Whether it is time to write again."""
        return time.monotonic() - self._last > max(_EVERY, 20 * self._took)

    def write(self, done: int, digest: str, state: Mapping[str, Array]) -> None:
        """Write the sums beside the file and put them in its place."""
        start = time.monotonic()
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        try:
            with beside.open("wb") as file:
                np.savez(file, **{"@done": np.array(done), "@digest": np.array(digest)}, **state)  # type: ignore[arg-type]
            beside.replace(self._path)
        finally:
            beside.unlink(missing_ok=True)
        self._last = time.monotonic()
        self._took = self._last - start
