"""Groups side by side on an axis, each too narrow to be aligned alone: they take widths whose sum is aligned.

The shortcuts of a ResNet that pad with zeros are such a case: 16 channels of the first stage and 16 of the second make
one axis of 32. With an alignment of 16 either may keep 8, but 8 beside 16 are 24, for which a kernel takes the time of
32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from graphprune.budget.curves import Curve
from graphprune.coupling.groups import Group

Counts = NDArray[np.int64]
Part = tuple[Group, Curve, Counts]
_MOST = 3  # groups that are tied together: more, as in a long concat, would lose more by the tie than by their widths


def abreast(parts: Sequence[Part], align: int) -> Iterator[tuple[tuple[Group, ...], tuple[Curve, ...], Counts]]:
    """Groups to take together, with their curves and what each has lost at every level, shape (levels, groups).

    Args:
        parts: Groups, their curves, and how many units each may lose, ascending from 0.
        align: What widths are multiples of.
    """
    narrow = [p for p in parts if len(p[2]) > 1 and (_widths(p[0], p[2]) % align).any()]
    graph: nx.Graph[int] = nx.Graph()
    for shared in _axes(narrow):
        nx.add_path(graph, shared)
    for found in nx.connected_components(graph):
        together = [narrow[i] for i in sorted(found)] if 1 < len(found) <= _MOST else []
        if together and len(levels := _levels(together, align)) > 1:
            yield tuple(g for g, _, _ in together), tuple(c for _, c, _ in together), levels


def _levels(parts: Sequence[Part], align: int) -> Counts:
    """From nothing lost on, the cheapest unit next, what each has lost wherever all shared axes are aligned."""
    lost = np.zeros(len(parts), np.int64)
    found, axes = [lost], [list(at) for at in _axes(parts) if len(at) > 1]
    while steps := [(_price(p, n), i) for i, (p, n) in enumerate(zip(parts, lost, strict=True)) if n < p[2][-1]]:
        at = min(steps)[1]
        lost = lost.copy()
        lost[at] = _after(parts[at], lost[at])
        widths = np.concatenate([_widths(p[0], lost[i : i + 1]) for i, p in enumerate(parts)])
        if all(widths[axis].sum() % align == 0 for axis in axes):
            found.append(lost)
    return np.stack(found)


def _widths(group: Group, lost: Counts) -> Counts:
    """Positions left on the narrowest axis."""
    out: Counts = (group.size - lost) * group.rows
    return out


def _after(part: Part, lost: np.int64) -> np.int64:
    """What is lost one step on."""
    following: np.int64 = part[2][np.searchsorted(part[2], lost, side="right")]
    return following


def _price(part: Part, lost: np.int64) -> float:
    """What a unit costs on the next step."""
    following = _after(part, lost)
    return float((part[1].loss[following] - part[1].loss[lost]) / (following - lost))


def _axes(parts: Sequence[Part]) -> set[tuple[int, ...]]:
    """The groups that lie on a weight axis, for every one."""
    found: dict[tuple[str, int], dict[int, None]] = {}
    for i, (group, _, _) in enumerate(parts):
        for member in group.members:
            found.setdefault((member.tensor, member.axis), {})[i] = None
    return {tuple(at) for at in found.values()}
