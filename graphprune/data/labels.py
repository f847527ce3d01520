"""Labels beside the inputs: in the same items or archive under a name, or in a file or an array of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphprune.data.records import Read, Records, Size
from graphprune.data.wanted import LABELS, Layout, label_array
from graphprune.errors import InputError
from graphprune.graph.model import Array

NAMES = ("labels", "label", "y")
"""Names of labels in items and archives where the user says none."""


def is_file(labels: Any) -> bool:
    """Whether labels are said to lie in a file; any other text is a name in the data."""
    return isinstance(labels, Path) or (isinstance(labels, str) and labels.lower().endswith((".npy", ".npz")))


def names_of(labels: Any) -> tuple[str, ...]:
    """Names that labels may have in the data itself; none where they lie elsewhere, or there are none."""
    if labels is True:
        return NAMES
    return (labels,) if isinstance(labels, str) and not is_file(labels) else ()


def apart(labels: Any) -> bool:
    """Whether labels are given in a file or an array of their own."""
    return labels is not None and labels is not True and not names_of(labels)


def only(found: Array | Mapping[str, Array], where: str) -> Array:
    """The labels of a file.

    Raises:
        InputError: It is an archive with several arrays, none of which has the name of labels.
    """
    if isinstance(found, np.ndarray):
        return label_array(found, where)
    named = next((found[n] for n in NAMES if n in found), None)
    if named is None and len(found) == 1:
        (named,) = found.values()
    if named is None:
        raise InputError(f"{where}: which are the labels? it has {', '.join(found) or 'no arrays'}")
    return label_array(named, where)


class Labelled:
    """Records of stacked samples, with labels in the same order.

    Args:
        records: Inputs, all samples of their source in order.
        labels: One entry per sample on axis 0.
        layout: What the graph takes.
        where: What the labels are, for messages.

    Raises:
        InputError: There are more or fewer labels than samples.
    """

    def __init__(self, records: Records, labels: Array, layout: Layout, where: str) -> None:
        self._records, self._labels = records, labels
        self.name, self.sizes, self.cheap = records.name, records.sizes, records.cheap
        self._starts = np.cumsum([0, *(_rows(s, layout) for s in self.sizes)])
        self._single = layout.batch is None
        if labels.ndim == 0 or len(labels) != self._starts[-1]:
            count = len(labels) if labels.ndim else 1
            raise InputError(f"{where}: {count} labels for the {self._starts[-1]} samples of {self.name}")

    def reader(self) -> Read:
        """Reads any record with its labels."""
        read = self._records.reader()

        def both(record: int) -> Mapping[str, Array]:
            mine = self._labels[self._starts[record] : self._starts[record + 1]]
            return {**read(record), LABELS: mine[0] if self._single else mine}

        return both

    def where(self, record: int, row: int) -> str:
        """See :class:`Records`."""
        return self._records.where(record, row)


def _rows(size: Size, layout: Layout) -> int:
    return layout.batch if size.whole and layout.batch else size.rows
