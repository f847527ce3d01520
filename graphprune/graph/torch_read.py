"""A module as a graph, with all that its own code asks of the sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphprune.graph.model import Graph
from graphprune.graph.torch import trace
from graphprune.graph.torch_numbers import with_equal_sizes
from graphprune.graph.torch_training import with_training_kept
from graphprune.graph.torch_unread import with_unread_kept


def read(
    module: Any,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    name: str = "",
    dynamic_shapes: Any = None,
    opaque: Sequence[Any] = (),
) -> Graph:
    """Trace a module, see :func:`graphprune.graph.torch.trace`.

    Returns:
        The graph. Sizes that the module says with one number stay equal; what only training reads, and stored
        positions that inputs of other sizes may read, stay.
    """
    graph = trace(module, args, kwargs, name=name, dynamic_shapes=dynamic_shapes, opaque=opaque)
    return with_unread_kept(with_training_kept(with_equal_sizes(graph)))
