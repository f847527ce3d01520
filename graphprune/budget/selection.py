"""Which units the user's patterns allow to leave."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphprune.coupling.cut import Mask
from graphprune.coupling.groups import DependencyGraph, Group
from graphprune.errors import InputError

KIND = "kind:"
_RANGE = re.compile(r"(?P<pattern>.+)=(?P<low>\d*)(?P<span>:?)(?P<high>\d*)")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many units a group keeps.

    Attributes:
        low: At least.
        high: At most.
        text: The constraint as it was given.
    """

    low: int
    high: int
    text: str


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
    if pattern.startswith(KIND):
        return _of_kind(deps, pattern, option)
    tensors = list(matching(deps, pattern, option))
    if not tensors and not deps.source.bypassed:  # else it may have named what was left out
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
    wanted = pattern.removeprefix(KIND).strip()
    parts = [g.units for g in deps.groups if g.kind == wanted]
    if not parts and deps.source.bypassed:
        return np.zeros(0, np.int32)
    if not parts:
        known = ", ".join(sorted({g.kind for g in deps.groups}))
        raise InputError(f"{option} {pattern}: no group is of this kind (there are {known})")
    return np.concatenate(parts)


def matching(deps: DependencyGraph, pattern: str, option: str = "") -> Iterator[str]:
    """Tensors that a pattern names: weights by their own names, else those that a node of that name works on.

    Raises:
        InputError: It is no regular expression.
    """
    regex = _regex(pattern, f"{option} {pattern}")
    for name, weight in deps.source.weights.items():
        if regex.search(weight.source):
            yield name
    for node in deps.source.nodes:
        if regex.search(node.name) or (node.scope and regex.search(node.scope)):
            stored = [n for n in node.inputs if n in deps.source.weights]
            yield from stored or [n for n in (*node.inputs, *node.outputs) if n]


def _regex(pattern: str, said: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            return re.compile(pattern)
    except re.error as error:
        raise InputError(f"{said}: not a regular expression ({error})") from None


# -- whole groups ----------------------------------------------------------------------------------------------


def width_bounds(deps: DependencyGraph, given: Sequence[str]) -> dict[str, Bounds]:
    """Floors and ceilings by group name, from "PATTERN=16:48", "PATTERN=16:", "PATTERN=:48" or "PATTERN=32".

    A pattern matches names of groups, "conv1.weight[0]" (``re.search``), or is "kind:heads". Several that match one
    group hold together.

    Raises:
        InputError: One cannot be read, matches nothing, or they contradict each other.
    """
    out: dict[str, Bounds] = {}
    for text in given:
        match = _RANGE.fullmatch(text)
        if match is None or not match["low"] + match["high"]:
            raise InputError(f"--width {text}: cannot be read; write PATTERN=16:48, PATTERN=16: or PATTERN=32")
        low = int(match["low"] or 1)
        high = low if not match["span"] else int(match["high"]) if match["high"] else 1 << 62
        if low < 1 or low > high:
            raise InputError(f"--width {text}: the least must be 1 or more and not above the most")
        for group, _ in _named(deps, match["pattern"], f"--width {text}"):
            old = out.get(group.name, Bounds(1, 1 << 62, text))
            new = Bounds(max(low, old.low), min(high, old.high), text)
            if new.low > new.high:
                raise InputError(f"--width {text}: contradicts --width {old.text} for group {group.name}")
            if new.low > group.size:
                raise InputError(f"--width {text}: group {group.name} has only {group.size} units")
            out[group.name] = new
    return out


def equal_classes(deps: DependencyGraph, given: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Class of equal width by group name: the pattern, and the text that its brackets captured.

    Raises:
        InputError: A pattern matches less than two groups, or a group is in two classes.
    """
    out: dict[str, tuple[str, str]] = {}
    for text in given:
        found = list(_named(deps, text, f"--equal {text}"))
        if len(found) < 2 and deps.source.bypassed:
            continue
        if len(found) < 2:
            raise InputError(f"--equal {text}: matches only group {found[0][0].name}; a class has at least two")
        for group, captured in found:
            old = out.setdefault(group.name, (text, captured))
            if old[0] != text:
                raise InputError(f"--equal {text}: group {group.name} is in the class --equal {old[0]} already")
    return out


def _named(deps: DependencyGraph, pattern: str, said: str) -> Iterator[tuple[Group, str]]:
    """Groups whose names a pattern matches, and what its brackets captured.

    Raises:
        InputError: There are none.
    """
    found = False
    wanted = pattern.removeprefix(KIND).strip() if pattern.startswith(KIND) else None
    regex = _regex(pattern, said)
    for group in deps.groups:
        match = regex.search(group.name)
        if group.kind == wanted or (wanted is None and match is not None):
            found = True
            yield group, " ".join(g or "" for g in match.groups()) if match is not None else ""
    if not found and not deps.source.bypassed:
        known = ", ".join(g.name for g in deps.groups[:3])
        raise InputError(f"{said}: matches no group (they are called {known}, as analyze shows)")
