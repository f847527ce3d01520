"""The dependency graph: groups of interchangeable units, what they span, and what is blocked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from graphprune.algebra import Axis, Reason
from graphprune.algebra.axis import Ids
from graphprune.coupling.box import Ragged
from graphprune.coupling.cut import Cut
from graphprune.coupling.interface import opened
from graphprune.coupling.names import CHANNELS, kinds
from graphprune.coupling.propagate import propagate
from graphprune.graph.model import Graph
from graphprune.rules.context import Site, State

if TYPE_CHECKING:
    import networkx

    from graphprune.coupling.fibres import Chosen
    from graphprune.coupling.free import Freedom


@dataclass(frozen=True, slots=True)
class Member:
    """A tensor axis that a group cuts.

    Attributes:
        tensor: Name of the tensor.
        axis: Axis number.
        rows: Positions that one unit occupies there.
        weight: Whether the tensor is stored in the file.
    """

    tensor: str
    axis: int
    rows: int
    weight: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Units of one kind, such as the 64 channels of a stage or the 12 heads of a block.

    Attributes:
        name: "tensor[axis]" of the widest weight it cuts, with a suffix when several kinds share that axis.
        units: Ids of the units, shape (size,), in order of their first position.
        members: Weight axes that it cuts.
        kind: What it is, see :mod:`graphprune.coupling.names`.
    """

    name: str
    units: Ids
    members: tuple[Member, ...]
    kind: str = CHANNELS

    @property
    def size(self) -> int:
        """Number of units."""
        return len(self.units)

    @property
    def rows(self) -> int:
        """Positions that a unit occupies on the narrowest axis."""
        return min(m.rows for m in self.members)


@dataclass(frozen=True, slots=True)
class Blocked:
    """A weight axis with positions that cannot be removed.

    Attributes:
        tensor: Name of the weight.
        axis: Axis number.
        positions: How many of its positions are frozen.
        size: Length of the axis.
        reason: What froze most of them.
    """

    tensor: str
    axis: int
    positions: int
    size: int
    reason: Reason


@dataclass(frozen=True)
class DependencyGraph:
    """Which positions of which tensor axes must be removed together.

    Attributes:
        source: The neutral graph.
        state: Labels, sites and costs as the rules left them.
        types: Resolved labels per tensor axis.
        groups: All prunable groups, in graph order.
        allow_io: Patterns of graph inputs and outputs that may shrink.
        ragged: Labels per block of axes that are cut differently in every block, see
            :mod:`graphprune.coupling.fibres`; empty unless such choices were made.
        chosen: Those choices.
        shared: The graph without them, None when there are none.
    """

    source: Graph
    state: State = field(repr=False)
    types: Mapping[str, tuple[Axis | None, ...]] = field(repr=False)
    groups: tuple[Group, ...]
    _final: Mapping[int, Axis] = field(repr=False)
    allow_io: tuple[str, ...] = ()
    ragged: Mapping[tuple[str, int], Ragged] = field(repr=False, default_factory=dict)
    chosen: tuple[Chosen, ...] = field(repr=False, default=())
    shared: DependencyGraph | None = field(repr=False, default=None)

    def final(self, axis: Axis) -> Axis:
        """Resolved labels of a raw axis; equal axes share one object."""
        return self._final.get(id(axis)) or self.state.store.resolve(axis)

    @property
    def sites(self) -> Sequence[Site]:
        """Inputs over which nodes sum or take statistics."""
        return self.state.sites

    @property
    def units(self) -> int:
        """Number of removable units."""
        return sum(g.size for g in self.groups)

    def cut(self, units: Ids) -> Cut:
        """What is left when ``units`` are removed."""
        removed = np.zeros(self.state.store.count, bool)
        removed[units] = True
        return Cut(self, removed)

    def weight_axes(self) -> Iterator[tuple[str, int, Axis]]:
        """Every labelled axis of every stored tensor, in graph order; kernel windows are no channels."""
        reasons = self.state.store.reasons
        for name in self.source.weights:
            for a, axis in enumerate(self.types.get(name) or ()):
                if axis is not None and axis.n > 1 and not (axis.units is None and reasons[axis.why].window):
                    yield name, a, axis

    @cached_property
    def blocked(self) -> tuple[Blocked, ...]:
        """Weight axes that are frozen in whole or in part, with the reason."""
        return tuple(self._blocked())

    def _blocked(self) -> Iterator[Blocked]:
        store = self.state.store
        for name, a, axis in self.weight_axes():
            stuck = np.ones(axis.n, bool) if axis.units is None else ~axis.units.any(axis=1)
            if stuck.any():
                raw = self.state.types[name][a]
                assert raw is not None
                most = int(np.bincount(store.why(raw)[stuck]).argmax())
                yield Blocked(name, a, int(stuck.sum()), axis.n, store.reasons[most])

    def granularity(self) -> float:
        """Weight-size-weighted share of distinct removable rows per weight axis; 1.0 = every channel free."""
        total = free = 0.0
        for name, _, axis in self.weight_axes():
            size = float(np.prod(self.source.weights[name].shape, dtype=np.float64))
            total += size
            if axis.units is not None:
                rows = axis.units[axis.units.any(axis=1)]
                free += size * len(np.unique(rows, axis=0)) / axis.n
        return free / total if total else 0.0

    @cached_property
    def fibres(self) -> Freedom:
        """Units that only have to leave in equal number from every block, see :mod:`graphprune.coupling.free`."""
        from graphprune.coupling.free import free

        return free(self) if self.shared is None else self.shared.fibres

    @cached_property
    def graph(self) -> networkx.Graph[Any]:
        """Groups and tensor axes as a networkx graph, see :mod:`graphprune.coupling.explain`."""
        from graphprune.coupling.explain import build

        return build(self)

    def explain(self, name: str) -> str:
        """In words: what a group spans and through which operators, or why a tensor is frozen.

        Raises:
            InputError: No group, tensor or node has this name.
        """
        from graphprune.coupling.explain import explain

        text: str = explain(self, name)
        return text


def analyze(graph: Graph, allow_io: Sequence[str] = ()) -> DependencyGraph:
    """Find the coupled channels of a graph.

    Args:
        graph: The graph.
        allow_io: Patterns of graph inputs and outputs whose axes may shrink.

    Raises:
        InputError: A pattern matches no input and no output.
    """
    state = propagate(graph, opened(graph, allow_io))
    types, final = _resolved(state)
    groups = list(_groups(graph, types, state.store.count))
    named = zip(groups, kinds(graph, state, types, groups), strict=True)
    groups = [replace(group, kind=kind) for group, kind in named]
    return DependencyGraph(graph, state, types, tuple(groups), final, tuple(allow_io))


def _resolved(state: State) -> tuple[dict[str, tuple[Axis | None, ...]], dict[int, Axis]]:
    """Final labels; equal axes share one object so that later work is done once per distinct axis."""
    memo: dict[int, Axis] = {}
    content: dict[bytes, Axis] = {}

    def final(axis: Axis) -> Axis:
        found = memo.get(id(axis))
        if found is None:
            found = state.store.resolve(axis)
            if found.units is not None:
                found = content.setdefault(found.units.tobytes() + bytes(found.units.shape[1:2]), found)
            memo[id(axis)] = found
        return found

    types = {name: tuple(a if a is None else final(a) for a in axes) for name, axes in state.types.items()}
    for term in state.macs:
        for axis in term.axes:
            for part, _ in axis.parts or [(axis, False)]:
                final(part)
    return types, memo


def _groups(graph: Graph, types: Mapping[str, tuple[Axis | None, ...]], count: int) -> Iterator[Group]:
    """Units with the same (weight axis, rows) everywhere are of one kind."""
    signature = np.zeros(count, np.uint64)
    order = np.full(count, np.iinfo(np.int64).max, np.int64)
    axes: list[tuple[str, int, Axis]] = []
    tallies: dict[int, tuple[Ids, Ids]] = {}
    mix = np.random.default_rng(0)
    for name in graph.weights:
        for a, axis in enumerate(types.get(name) or ()):
            if axis is None or axis.units is None:
                continue
            if id(axis) not in tallies:
                ids, first, rows = np.unique(axis.units, return_index=True, return_counts=True)
                held = ids > 0
                tallies[id(axis)] = ids[held], rows[held].astype(np.int32)
                fresh = order[ids[held]] == np.iinfo(np.int64).max
                order[ids[held][fresh]] = (len(axes) << 32) + first[held][fresh]
            held_ids, held_rows = tallies[id(axis)]
            salt = mix.integers(1, 1 << 62, dtype=np.uint64) | np.uint64(1)
            signature[held_ids] += salt * (held_rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1))
            axes.append((name, a, axis))
    units = np.flatnonzero(signature).astype(np.int32)
    units = units[np.argsort(order[units], kind="stable")]
    _, first, kind = np.unique(signature[units], return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    by_kind = np.argsort(rank[kind], kind="stable")
    if not len(units):
        return
    bounds = np.cumsum(np.bincount(rank[kind], minlength=len(first)))[:-1]
    taken: dict[str, int] = {}
    split = np.split(units[by_kind], bounds)
    for ids, members in zip(split, _members(np.array([ids[0] for ids in split]), axes, tallies), strict=True):
        widest = max(members, key=lambda m: (int(np.prod(graph.weights[m.tensor].shape)), -m.axis))
        name = f"{widest.tensor}[{widest.axis}]"
        taken[name] = taken.get(name, 0) + 1
        yield Group(name if taken[name] == 1 else f"{name}/{taken[name]}", ids, tuple(members))


def _members(
    heads: Ids, axes: Sequence[tuple[str, int, Axis]], tallies: Mapping[int, tuple[Ids, Ids]]
) -> list[list[Member]]:
    """For one unit of each group, the weight axes that hold it, in graph order."""
    found: dict[int, tuple[list[int], list[int]]] = {}
    for key, (ids, rows) in tallies.items():
        place = np.minimum(np.searchsorted(ids, heads), max(len(ids) - 1, 0))
        held = np.flatnonzero(ids[place] == heads) if len(ids) else np.zeros(0, np.intp)
        found[key] = held.tolist(), rows[place[held]].tolist()
    out: list[list[Member]] = [[] for _ in heads]
    for name, a, axis in axes:
        for group, count in zip(*found[id(axis)], strict=True):
            out[group].append(Member(name, a, count, weight=True))
    return out
