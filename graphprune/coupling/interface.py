"""Graph inputs and outputs: frozen, unless the user lets them shrink."""

from __future__ import annotations

import re
from collections.abc import Sequence

from graphprune.algebra import Reason
from graphprune.errors import InputError
from graphprune.graph.model import Graph
from graphprune.rules.context import State

_FIXED = "its width is the model's interface"


def opened(graph: Graph, patterns: Sequence[str]) -> frozenset[str]:
    """Names of graph inputs and outputs that match one of the patterns (``re.search``).

    Raises:
        InputError: A pattern is no regular expression, or matches no input and no output.
    """
    names = [*graph.inputs, *graph.outputs]
    found: set[str] = set()
    for pattern in patterns:
        try:
            matched = {n for n in names if re.search(pattern, n)}
        except re.error as error:
            raise InputError(f"--allow-io {pattern}: not a regular expression ({error})") from None
        if not matched:
            raise InputError(f"--allow-io {pattern}: matches no input and no output; there are {', '.join(names)}")
        found |= matched
    return frozenset(found)


def label_inputs(state: State, free: frozenset[str]) -> None:
    """Frozen labels for every input; fresh ones on the fixed axes of those that may shrink."""
    for name in state.graph.inputs:
        value, store = state.graph.values[name], state.store
        why = _reason(state, name, "graph input")
        state.types[name] = [
            store.fresh(n) if name in free and n > 1 and not moving else store.frozen(n, why)
            for n, moving in zip(value.shape or (), value.dynamic, strict=False)
        ]


def freeze_outputs(state: State, free: frozenset[str]) -> None:
    """Freeze every output but those that may shrink."""
    for name in state.graph.outputs:
        if name not in free:
            for axis in state.types.get(name) or ():
                if axis is not None:
                    state.store.freeze(axis, _reason(state, name, "graph output"))


def _reason(state: State, name: str, kind: str) -> int:
    return state.store.reason(Reason(name, kind, _FIXED, f"let it shrink with --allow-io {name}"))
