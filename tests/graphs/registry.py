"""Where the graph families register their builders and their hand-made counts.

A *group* here is a set of interchangeable units: units that partition the same axes (one column) and touch
the same weights, on the same axes, the same number of times. So the two halves of a split with different
consumers are two groups, and so are heads and head dims of one projection. Frozen axes do not appear.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import ModelProto

    Maker = Callable[[], ModelProto]

GRAPHS: dict[str, Maker] = {}
GOLDEN: dict[str, list[int]] = {}
AMBIGUOUS: dict[str, list[list[int]]] = {}


def golden(*sizes: int) -> Callable[[Maker], Maker]:
    """Register a graph with the sorted sizes of its groups, derived by hand."""

    def decorate(maker: Maker) -> Maker:
        GRAPHS[maker.__name__] = maker
        GOLDEN[maker.__name__] = sorted(sizes)
        return maker

    return decorate


def ambiguous(*answers: list[int]) -> Callable[[Maker], Maker]:
    """Register a graph with several defensible answers (see its docstring); it is not in ``GOLDEN``."""

    def decorate(maker: Maker) -> Maker:
        GRAPHS[maker.__name__] = maker
        AMBIGUOUS[maker.__name__] = [sorted(a) for a in answers]
        return maker

    return decorate
