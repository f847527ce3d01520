"""Feeds by placeholder name as what a module's forward takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils._pytree import tree_unflatten

from graphprune.graph.model import Array
from graphprune.graph.torch_program import flat_inputs, unlifted

if TYPE_CHECKING:
    from graphprune.graph.torch import Traced


def tensor_of(array: Array) -> torch.Tensor:
    """An array as a tensor of its own; types that numpy lacks become torch's."""
    dtype = getattr(torch, array.dtype.name)
    if array.dtype.kind == "V":
        bits = np.array(array).view(f"i{array.dtype.itemsize}")
        return torch.from_numpy(bits).view(dtype)
    return torch.from_numpy(np.array(array))


class Call:
    """Makes inputs of a module from feeds.

    Args:
        traced: Where the graph came from; what is no tensor stays as in its example inputs.
    """

    def __init__(self, traced: Traced) -> None:
        whole = unlifted(traced.program)
        self._spec = whole._in_spec
        self._flat = flat_inputs(whole, traced.args, traced.kwargs)
        self._names = traced.program.graph_signature.user_inputs

    def __call__(self, feed: Mapping[str, Array]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional inputs and inputs by keyword."""
        flat = [
            tensor_of(feed[name]).to(example.device) if isinstance(name, str) and name in feed else example
            for name, example in zip(self._names, self._flat, strict=True)
        ]
        args, kwargs = tree_unflatten(flat, self._spec)
        return tuple(args), dict(kwargs)
