"""Follows a plan without the graph it was made for: by the names and sizes of stored tensors alone."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphprune.coupling.box import Box
from graphprune.errors import InputError
from graphprune.plan import Listed, Plan, PlannedBlocks, is_lossless

Shape = tuple[int, ...]
Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a checkpoint.

    Attributes:
        shape: Sizes.
        counts: Whether it may hold channels at all: integers of 32 and 64 bits and booleans do not.
        memory: Equal for names of one tensor, None where that is not known.
    """

    shape: Shape
    counts: bool = True
    memory: Hashable = None


def boxes(plan: Plan) -> dict[str, Box]:
    """What a plan keeps of every weight that it cuts.

    Raises:
        InputError: The plan was written without the sizes of the weights, or its entries do not fit them.
    """
    out = {}
    for name, axes in plan.weights.items():
        shape = plan.shapes.get(name)
        if shape is None:
            raise InputError(
                f"the plan does not say what sizes weight {name} has; plans for checkpoints are made with"
                " this version of graphprune or a later one"
            )
        blocks = plan.blocks.get(name, {})
        out[name] = _box(name, shape, axes, blocks)
    return out


def _box(name: str, shape: Shape, axes: Mapping[int, Listed], blocks: Mapping[int, PlannedBlocks]) -> Box:
    plain: dict[int, Index] = {}
    ragged: dict[int, tuple[int, Index]] = {}
    for axis, listed in axes.items():
        if not 0 <= axis < len(shape):
            raise InputError(f"the plan cuts axis {axis} of weight {name}, which has {len(shape)} axes")
        if not _nested(listed):
            plain[axis] = _kept(name, axis, shape[axis], [listed])[0]
            continue
        if axis not in blocks or not 0 <= blocks[axis].axis < len(shape):
            raise InputError(f"the plan does not say where the blocks of weight {name} axis {axis} lie")
        rows, block = _kept(name, axis, shape[axis], listed), blocks[axis]
        of = _block_of(block, shape[block.axis], len(rows))
        if of is None or block.axis == axis:
            raise InputError(f"the plan's blocks of weight {name} axis {axis} do not fit its sizes")
        plain[axis], ragged[axis] = rows[0], (block.axis, rows[of])
    return Box(plain, ragged)


def _nested(listed: Listed) -> bool:
    return bool(listed) and isinstance(listed[0], list)


def _block_of(block: PlannedBlocks, size: int, number: int) -> Index | None:
    """Number of the block at each position of the block axis, None where they do not fit."""
    if not block.of:
        return np.arange(size) * number // size if size % number == 0 else None
    of = np.array(block.of, np.int64)
    return of if len(of) == size and of.min() >= 0 and of.max() < number else None


def _kept(name: str, axis: int, size: int, listed: Sequence[Any]) -> Index:
    """Kept positions for each list of removed ones, shape (lists, kept)."""
    keep = np.ones((len(listed), size), bool)
    for row, gone in zip(keep, listed, strict=True):
        if gone and not (min(gone) >= 0 and max(gone) < size):
            raise InputError(f"the plan removes position {max(gone)} of weight {name} axis {axis}, which has {size}")
        row[gone] = False
    counts = keep.sum(axis=1)
    if not counts[0] or (counts != counts[0]).any():
        raise InputError(f"the plan leaves no equal number of positions of weight {name} axis {axis}")
    return np.nonzero(keep)[1].reshape(len(listed), -1)


def channel_map(plan: Plan) -> dict[str, dict[int, Index]]:
    """New position of every old one on the cut axes, -1 where it leaves.

    Returns:
        Weight → axis → int64 array, one entry per old position. Where every block keeps its own positions there
        is a row for each position of the block axis.

    Raises:
        InputError: The plan does not say what sizes the weights have.
    """
    return {name: {a: _numbers(box, a, plan.shapes[name][a]) for a in box.axes} for name, box in boxes(plan).items()}


def _numbers(box: Box, axis: int, size: int) -> Index:
    rows = box.ragged[axis][1] if axis in box.ragged else box.axes[axis][None]
    out = np.full((len(rows), size), -1, np.int64)
    np.put_along_axis(out, rows, np.arange(rows.shape[1])[None], axis=1)
    return out if axis in box.ragged else out[0]


def position(box: Box, shape: Shape) -> tuple[Index, ...]:
    """Index arrays that broadcast to the shape of what is kept: ``full[position]`` is the cut tensor."""
    kept = [box.axes.get(a, np.arange(n)) for a, n in enumerate(shape)]
    out = []
    for a, line in enumerate(kept):
        form = [1] * len(shape)
        if a not in box.ragged:
            form[a] = len(line)
            out.append(line.reshape(form))
            continue
        block, rows = box.ragged[a]
        table = rows[kept[block]]
        form[block], form[a] = table.shape
        out.append((table if block < a else table.T).reshape(form))
    return tuple(out)


def fit(plan: Plan, stored: Mapping[str, Stored], where: str) -> dict[str, Box]:
    """What to keep of every tensor of a checkpoint; tensors that stay whole are left out.

    A prefix that all names have more or less than those of the plan ("module.", "model.") is passed over when there
    is one way only to do so.

    Args:
        plan: The plan.
        stored: Tensors of the checkpoint by name.
        where: Name of the checkpoint, for messages.

    Raises:
        InputError: The plan is lossless or bypasses branches, names are missing or ambiguous, sizes differ, or the
            checkpoint holds tensors that the plan does not know and whose axes may belong to those it cuts.
    """
    if is_lossless(plan):
        raise InputError(
            f"{where}: a lossless plan folds constants into weights, which needs the graph; apply it to the model"
        )
    if plan.bypassed:
        raise InputError(
            f"{where}: the plan bypasses {len(plan.bypassed)} branches, which needs the graph; apply it to the model"
        )
    wanted = {n: box for n, box in boxes(plan).items() if n not in plan.transient or n in stored}
    if not wanted:
        raise InputError(f"{where}: the plan removes nothing")
    names = _Names(plan, wanted, stored, where)
    found = {real: wanted[name] for name, real in names.cut()}
    names.check_rest(found)
    return found


class _Names:
    """How the names of a plan and of a checkpoint belong together."""

    def __init__(self, plan: Plan, wanted: Mapping[str, Box], stored: Mapping[str, Stored], where: str) -> None:
        self.plan, self.wanted, self.stored, self.where = plan, wanted, stored, where
        self.aliases: dict[str, list[str]] = {}
        for alias, name in plan.tied.items():
            self.aliases.setdefault(name, []).append(alias)
        self.less, self.more = self._prefix()

    def _real(self, name: str, less: str, more: str) -> str:
        return more + name.removeprefix(less)

    def _all(self, name: str) -> list[str]:
        """All names that a state dict of the model may have for a weight."""
        return [name, *self.aliases.get(name, ())]

    def _missing(self, less: str, more: str) -> list[str]:
        return [
            name for name in self.wanted if not any(self._real(n, less, more) in self.stored for n in self._all(name))
        ]

    def _prefix(self) -> tuple[str, str]:
        """What to take away from and to put before the plan's names."""
        if not self._missing("", ""):
            return "", ""
        ways = {}
        first = next(iter(self.wanted))
        for less in _common(self.plan.shapes):
            ends = [n.removeprefix(less) for n in self._all(first)]
            for more in {s.removesuffix(e) for s in self.stored for e in ends if s == e or s.endswith(f".{e}")}:
                if not self._missing(less, more):
                    ways[tuple(self._real(n, less, more) for n in self.wanted)] = less, more
        if len(ways) > 1:
            shown = ", ".join(sorted(f"{more or less}*" for less, more in ways.values()))
            raise InputError(f"{self.where}: the plan's names fit several parts of the checkpoint ({shown})")
        if not ways:
            raise InputError(self._no_such_names())
        return next(iter(ways.values()))

    def _no_such_names(self) -> str:
        missing = self._missing("", "")
        near = difflib.get_close_matches(missing[0], list(self.stored), 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return f"{self.where}: the plan cuts {missing[0]}{more}, which this checkpoint does not have{hint}"

    def cut(self) -> Iterable[tuple[str, str]]:
        """Names of the plan with those of the checkpoint, sizes checked; every name of a tied weight."""
        for name in self.wanted:
            for real in (self._real(n, self.less, self.more) for n in self._all(name)):
                if real in self.stored:
                    if self.stored[real].shape != self.plan.shapes[name]:
                        raise InputError(
                            f"{self.where}: {real} has shape {list(self.stored[real].shape)}, the plan was made"
                            f" for {list(self.plan.shapes[name])}"
                        )
                    yield name, real

    def check_rest(self, cut: Mapping[str, Box]) -> None:
        """Refuse tensors that the plan leaves whole although they may belong to what it cuts."""
        known = {self._real(n, self.less, self.more): name for name in self.plan.shapes for n in self._all(name)}
        lengths = {self.plan.shapes[name][a] for name, box in self.wanted.items() for a in box.axes}
        same = {self.stored[real].memory for real in cut} - {None}
        for real, stored in self.stored.items():
            if real in cut or stored.memory in same or not stored.counts:
                continue
            name = known.get(real)
            if name is not None and stored.shape != self.plan.shapes[name]:
                raise InputError(
                    f"{self.where}: {real} has shape {list(stored.shape)}, the plan was made"
                    f" for {list(self.plan.shapes[name])}"
                )
            if name is None and any(n % old == 0 for n in stored.shape for old in lengths if n):
                raise InputError(
                    f"{self.where}: the plan's model has no {real} {list(stored.shape)}, whose channels may belong"
                    " to those that leave; make the plan from a model that has it"
                )


def _common(names: Iterable[str]) -> list[str]:
    """Prefixes "a.", "a.b." that all names have, the empty one first."""
    split = [n.split(".")[:-1] for n in names]
    shortest = min(len(s) for s in split)
    depth = next((k for k in range(shortest) if len({s[k] for s in split}) > 1), shortest)
    return ["".join(f"{p}." for p in split[0][:k]) for k in range(depth + 1)]
