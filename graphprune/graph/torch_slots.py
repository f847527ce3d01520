"""The tensors that a node of a captured graph reads, by the slots of the neutral graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx
from torch.utils._pytree import tree_leaves, tree_map


def given_tensors(n: fx.Node, args: Any, kwargs: Any) -> dict[int, Tensor]:
    """Tensor arguments by slot: in the order of the schema."""
    names = [a.name for a in n.target._schema.arguments]  # type: ignore[union-attr]
    given = [*tree_leaves(args), *tree_leaves([kwargs[k] for k in sorted(kwargs, key=names.index)])]
    return dict(enumerate(v for v in given if isinstance(v, Tensor)))


def put_back(n: fx.Node, args: Any, kwargs: Any, changed: Mapping[int, Tensor]) -> tuple[Any, Any]:
    """The arguments with other tensors in their slots."""
    names = [a.name for a in n.target._schema.arguments]  # type: ignore[union-attr]
    queue = iter(range(len(changed) + 1))

    def swap(value: Any) -> Any:
        return changed[next(queue)] if isinstance(value, Tensor) else value

    args = tree_map(swap, args)
    return args, {k: tree_map(swap, kwargs[k]) for k in sorted(kwargs, key=names.index)}
