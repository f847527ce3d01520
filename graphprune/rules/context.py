"""What a rule sees: one node, the labels of its inputs, and verbs to say what must hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphprune.algebra import Axis, Reason, Units, concat, eq, index, merge, product, split
from graphprune.graph.model import Array, Graph, Node, Value


class Unsupported(Exception):
    """A rule cannot describe this node; everything it touches is frozen for this reason."""


@dataclass(frozen=True, slots=True)
class Site:
    """An input axis over which a node sums or takes statistics.

    Attributes:
        node: Name of the node.
        slot: Input index.
        axis: Axis of that input.
        mode: "zero" where removed positions count as zeros (contractions, sums), "restrict" where the
            operator runs on the kept positions only (means, norms).
        fill: Input that says what counts as zero at this site (the zero point of an integer operand, which
            broadcasts to it), -1 for zero itself.
    """

    node: str
    slot: int
    axis: int
    mode: str
    fill: int = -1


@dataclass(frozen=True, slots=True)
class Macs:
    """Multiply-accumulates of a node: a factor times the product of the kept lengths of ``axes``."""

    node: str
    factor: int
    axes: tuple[Axis, ...]


@dataclass(slots=True)
class State:
    """What propagation has found so far."""

    graph: Graph
    store: Units = field(default_factory=Units)
    types: dict[str, list[Axis | None]] = field(default_factory=dict)
    sites: list[Site] = field(default_factory=list)
    macs: list[Macs] = field(default_factory=list)
    opaque: dict[str, str] = field(default_factory=dict)


class Relate:
    """The relation side of a rule for one node.

    ``slot`` counts inputs; axes may be negative. Weights get their labels from the first rule that uses them.
    """

    def __init__(self, state: State, node: Node) -> None:
        self.state = state
        self.graph = state.graph
        self.store = state.store
        self.node = node
        self.key = node.key  # who is to blame, whatever operator the node is taken for

    # -- facts -------------------------------------------------------------------------------------------

    def has(self, slot: int) -> bool:
        """Whether input ``slot`` is given."""
        return 0 <= slot < len(self.node.inputs) and bool(self.node.inputs[slot])

    def value(self, slot: int) -> Value:
        """Facts of input ``slot``; its rank is known.

        Raises:
            Unsupported: The rank is unknown.
        """
        value = self.graph.values[self.node.inputs[slot]]
        if value.shape is None:
            raise Unsupported(f"the rank of {value.name} is unknown")
        return value

    def shape(self, slot: int) -> tuple[int, ...]:
        """Sizes of input ``slot`` at the first probe."""
        shape = self.value(slot).shape
        assert shape is not None
        return shape

    def rank(self, slot: int) -> int:
        """Number of axes of input ``slot``."""
        return len(self.shape(slot))

    def output(self, slot: int = 0) -> Value:
        """Facts of output ``slot``; its rank is known."""
        value = self.graph.values[self.node.outputs[slot]]
        if value.shape is None:
            raise Unsupported(f"the rank of {value.name} is unknown")
        return value

    def attr(self, name: str, default: Any = None) -> Any:
        """Attribute value or ``default``."""
        return self.node.attrs.get(name, default)

    def const(self, slot: int) -> Array | None:
        """Fixed content of input ``slot``, None when absent or computed from data or dynamic sizes."""
        return self.graph.constant(self.node.inputs[slot]) if self.has(slot) else None

    def ints(self, slot: int) -> list[int] | None:
        """Fixed integer content of input ``slot`` as a flat list."""
        array = self.const(slot)
        return None if array is None else [int(v) for v in array.ravel()]

    def why(self, text: str, mend: str = "") -> int:
        """Reason id that blames this node."""
        return self.store.reason(Reason(self.node.name, self.key, text, mend))

    # -- labels ------------------------------------------------------------------------------------------

    def axis(self, slot: int, axis: int) -> Axis:
        """Labels of an input axis; the axis of an unlabelled weight gets fresh units."""
        name = self.node.inputs[slot]
        axes = self._axes(name)
        found = axes[axis]
        if found is None:
            found = axes[axis] = self.fresh(self._size(name, axis))
        return found

    def axes(self, slot: int) -> list[Axis]:
        """Labels of all axes of an input."""
        return [self.axis(slot, a) for a in range(self.rank(slot))]

    def tie(self, slot: int, axis: int, other: Axis) -> None:
        """State that an input axis is removed exactly where ``other`` is."""
        axes = self._axes(self.node.inputs[slot])
        mine = axes[axis]
        if mine is None and self._size(self.node.inputs[slot], axis) == other.n:
            axes[axis] = other
        else:
            self.eq(self.axis(slot, axis), other)

    def freeze(self, slot: int, axis: int, text: str, mend: str = "") -> None:
        """Never remove anything of an input axis."""
        self._freeze(self.node.inputs[slot], axis, text, mend)

    def _freeze(self, name: str, axis: int, text: str, mend: str = "") -> None:
        axes = self._axes(name)
        mine = axes[axis]
        if mine is None:
            axes[axis] = self.frozen(self._size(name, axis), text, mend)
        elif not mine.frozen:
            self.store.freeze(mine, self.why(text, mend))

    def freeze_window(self, slot: int, axis: int) -> None:
        """Freeze an axis of a kernel's window: no channels lie there."""
        axes = self._axes(self.node.inputs[slot])
        why = self.store.reason(Reason(self.node.name, self.key, "an axis of the kernel's window", window=True))
        if axes[axis] is None:
            axes[axis] = self.store.frozen(self._size(self.node.inputs[slot], axis), why)
        else:
            self.store.freeze(self.axis(slot, axis), why)

    def freeze_all(self, slot: int, text: str, mend: str = "") -> None:
        """Freeze every axis of an input."""
        self.freeze_value(self.node.inputs[slot], text, mend)

    def freeze_value(self, name: str, text: str, mend: str = "") -> None:
        """Freeze every axis of a value, such as one that the node's subgraphs read."""
        shape = self.graph.values[name].shape
        for axis in range(len(shape or ())):
            self._freeze(name, axis, text, mend)

    def unlabelled(self, slot: int) -> bool:
        """Whether the input is a weight that no rule has labelled yet."""
        name = self.node.inputs[slot]
        return name in self.graph.weights and name not in self.state.types

    def _axes(self, name: str) -> list[Axis | None]:
        axes = self.state.types.get(name)
        if axes is None:
            shape = self.graph.values[name].shape
            if shape is None:
                raise Unsupported(f"the rank of {name} is unknown")
            if name in self.graph.weights:
                axes = [None] * len(shape)
            else:
                axes = [self.frozen(n, "computed from sizes alone") for n in shape]
            self.state.types[name] = axes
        return axes

    def _size(self, name: str, axis: int) -> int:
        shape = self.graph.values[name].shape
        assert shape is not None
        return shape[axis]

    def out(self, axes: Sequence[Axis], slot: int = 0) -> None:
        """Give output ``slot`` its labels; dynamic axes are frozen whatever they are given."""
        if slot >= len(self.node.outputs) or not self.node.outputs[slot]:
            return
        value = self.output(slot)
        assert value.shape is not None
        if len(axes) != len(value.shape):
            raise Unsupported(f"the rule expects rank {len(axes)} for {value.name}, the file says {value.shape}")
        typed: list[Axis | None] = []
        for a, (axis, size) in enumerate(zip(axes, value.shape, strict=True)):
            if axis.parts and axis.n == size:
                pass
            elif value.dynamic[a] or axis.n != size:
                if not axis.frozen:
                    self.store.freeze(axis, self.why("its size changes with the input size"))
                axis = self.frozen(size, "its size changes with the input size")  # noqa: PLW2901
            typed.append(axis)
        self.state.types[value.name] = typed

    def out_frozen(self, slot: int, text: str) -> None:
        """Freeze every axis of an output."""
        if slot < len(self.node.outputs) and self.node.outputs[slot]:
            name = self.node.outputs[slot]
            shape = self.graph.values[name].shape
            if shape is not None:
                self.state.types[name] = [self.frozen(n, text) for n in shape]

    # -- algebra with this node as the culprit ---------------------------------------------------------------

    def fresh(self, n: int) -> Axis:
        """An axis of n free units (frozen when it has one position)."""
        return self.store.fresh(n) if n > 1 else self.frozen(n, "an axis of one position")

    def frozen(self, n: int, text: str, mend: str = "") -> Axis:
        """An axis that is never cut."""
        return self.store.frozen(n, self.why(text, mend))

    def eq(self, a: Axis, b: Axis) -> None:
        """State that two axes of one length are removed alike."""
        if a.n != b.n:
            raise Unsupported(f"axes of {a.n} and {b.n} positions cannot be matched")
        eq(self.store, a, b, self.why("its axes factor in ways that do not fit each other"))

    def split(self, axis: Axis, *sizes: int) -> list[Axis]:
        """Factor an axis into axes of ``sizes``, outermost first."""
        out = []
        why = self.why("the axis is reshaped in a way that mixes its groups")
        rest = axis
        for i, size in enumerate(sizes[:-1]):
            inner = int(np.prod(sizes[i + 1 :], dtype=np.int64))
            first, rest = split(self.store, rest, size, inner, why)
            out.append(first)
        return [*out, rest]

    def merge(self, *axes: Axis) -> Axis:
        """C-order product of axes."""
        return merge(self.store, axes)

    def product(self, factors: Sequence[tuple[Axis, bool]]) -> Axis:
        """C-order product of axes of which some, flagged, are dynamic."""
        return product(self.store, factors)

    def concat(self, axes: Sequence[Axis]) -> Axis:
        """Axes one after the other."""
        return concat(self.store, axes)

    def index(self, axis: Axis, positions: Array) -> Axis:
        """The axis read at 1-D ``positions``; -1 stands for a new position that stays."""
        return index(self.store, axis, positions)

    # -- what verification and costs need ------------------------------------------------------------------

    def contract(self, slot: int, axis: int, mode: str = "zero", *, fill: int = -1) -> None:
        """Note that the node sums ("zero") or takes statistics ("restrict") over an input axis.

        ``fill`` is the input that holds the zero point of an integer operand.
        """
        axis %= self.rank(slot)
        labels = self.axis(slot, axis)
        if labels.parts:
            self.store.freeze(labels, self.why("it is summed together with an axis whose size changes"))
        self.state.sites.append(Site(self.node.name, slot, axis, mode, fill if self.has(fill) else -1))

    def macs(self, factor: int, *axes: Axis) -> None:
        """Add multiply-accumulates: ``factor`` times the kept lengths of ``axes``."""
        self.state.macs.append(Macs(self.node.name, factor * self.node.times, axes))
