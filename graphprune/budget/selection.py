"""Which units the user's patterns allow to leave."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from graphprune.coupling.cut import Mask
from graphprune.coupling.groups import DependencyGraph
from graphprune.errors import InputError

_KIND = "kind:"


def allowed_units(deps: DependencyGraph, ignore: Sequence[str], only: Sequence[str]) -> Mask:
    """Bool per unit id: True where it may leave.

    A pattern matches node names, weight names and the exporter's module paths (``re.search``), or is "kind:heads".
    An ignored layer keeps its weights untouched, so the inputs it reads stay whole as well.

    Raises:
        InputError: A pattern is no regular expression, or matches nothing.
    """
    out = np.ones(deps.state.store.count, bool)
    if only:
        out[:] = False
        for pattern in only:
            out[_touched(deps, pattern, "--only")] = True
    for pattern in ignore:
        out[_touched(deps, pattern, "--ignore")] = False
    return out


def _touched(deps: DependencyGraph, pattern: str, option: str) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Units on any axis of the weights that a pattern names, directly or through their node; or of a kind."""
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            regex = re.compile(pattern)
    except re.error as error:
        raise InputError(f"{option} {pattern}: not a regular expression ({error})") from None
    if pattern.startswith(_KIND):
        return _of_kind(deps, pattern, option)
    tensors = list(_matching(deps, regex))
    if not tensors:
        names = [n.name for n in deps.source.nodes][:3]
        raise InputError(
            f"{option} {pattern}: matches no node, weight or module path (names look like {', '.join(names)})"
        )
    parts = [
        axis.units.ravel()
        for name in tensors
        for axis in deps.types.get(name) or ()
        if axis is not None and axis.units is not None
    ]
    return np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int32)


def _of_kind(deps: DependencyGraph, pattern: str, option: str) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Units of all groups of a kind, "kind:heads"."""
    wanted = pattern.removeprefix(_KIND).strip()
    parts = [g.units for g in deps.groups if g.kind == wanted]
    if not parts:
        known = ", ".join(sorted({g.kind for g in deps.groups}))
        raise InputError(f"{option} {pattern}: no group is of this kind (there are {known})")
    return np.concatenate(parts)


def _matching(deps: DependencyGraph, regex: re.Pattern[str]) -> Iterator[str]:
    for name, weight in deps.source.weights.items():
        if regex.search(weight.source):
            yield name
    for node in deps.source.nodes:
        if regex.search(node.name) or (node.scope and regex.search(node.scope)):
            stored = [n for n in node.inputs if n in deps.source.weights]
            yield from stored or [n for n in (*node.inputs, *node.outputs) if n]
