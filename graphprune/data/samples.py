"""Calibration data as feeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from graphprune.graph.model import Array

Feed = dict[str, Array]


class Samples(Protocol):
    """Feeds, the same ones in the same order each time they are asked for."""

    def __len__(self) -> int:
        """Number of feeds."""

    def __iter__(self) -> Iterator[Feed]:
        """All feeds."""
