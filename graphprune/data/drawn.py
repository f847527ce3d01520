"""Random samples, drawn only when asked for."""

from __future__ import annotations

from dataclasses import replace

from graphprune.data.records import Feed, Read, Size, size_of
from graphprune.data.wanted import Layout
from graphprune.graph.model import Graph
from graphprune.graph.run import random_feeds

COUNT = 64  # samples where no number is given


class Random:
    """Random inputs at the sizes of the first probe: normal floats, integers in the range of what they index.

    Args:
        graph: The graph.
        layout: What it takes.
        count: Samples; 64 when None.
        seed: Seed of the draw.
    """

    name = "random"
    cheap = False

    def __init__(self, graph: Graph, layout: Layout, count: int | None, seed: int) -> None:
        shapes = graph.input_shapes[0]
        if layout.batch == 0:
            shapes = {n: (1, *s[1:]) if s else s for n, s in shapes.items()}
        self._graph, self._seed = replace(graph, input_shapes=(shapes,)), seed
        each = size_of(self._draw(0), layout, self.name)
        if layout.batch:
            each = Size(layout.batch, each.key)  # whose samples count one by one
        self.sizes: list[Size] = [each] * -(-(COUNT if count is None else count) // each.rows)

    def _draw(self, k: int) -> Feed:
        return random_feeds(self._graph, 1, self._seed * 1_000_003 + k)[0]

    def reader(self) -> Read:
        """Draws any sample."""
        return self._draw

    def where(self, record: int, row: int) -> str:
        """See :class:`Records`."""
        return f"{self.name}: sample {record + row}"
