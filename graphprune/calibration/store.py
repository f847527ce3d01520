"""Arrays per feed, in memory up to a limit and in a temporary folder beyond it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from graphprune.graph.model import Array


class Store:
    """Values of all feeds by name.

    Args:
        memory: Bytes held in memory; what comes later goes to files, which are mapped when read.
    """

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._held = 0
        self._arrays: dict[tuple[str, int], Any] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files = 0

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Forget everything and remove the files."""
        self._arrays.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def put(self, name: str, feed: int, array: Any) -> None:
        """Keep what a value holds for a feed."""
        size = getattr(array, "nbytes", 0)
        mappable = isinstance(array, np.ndarray) and array.dtype.kind in "fiub" and size > 0
        if mappable and self._held + size > self._memory:
            self._arrays[name, feed] = self._spilled(array)
            return
        self._held += size
        self._arrays[name, feed] = array

    def get(self, name: str, feed: int) -> Array:
        """What a value holds for a feed."""
        found = self._arrays[name, feed]
        held: Array = np.load(found, mmap_mode="r") if isinstance(found, Path) else found
        return held

    def drop(self, name: str, feeds: int) -> None:
        """Forget a value."""
        for feed in range(feeds):
            found = self._arrays.pop((name, feed), None)
            if isinstance(found, Path):
                found.unlink()
            elif found is not None:
                self._held -= getattr(found, "nbytes", 0)

    def _spilled(self, array: Array) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="graphprune-")
        self._files += 1
        path = Path(self._folder.name) / f"{self._files}.npy"
        np.save(path, array, allow_pickle=False)
        return path
