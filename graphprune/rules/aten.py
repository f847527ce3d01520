"""What rules for PyTorch's operators share: arguments by their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from graphprune.algebra import Axis
from graphprune.rules.context import Relate
from graphprune.rules.edit import Edit
from graphprune.rules.registry import Editor, Relation
from graphprune.rules.registry import rule as _rule


def aten(
    *ops: str, kind: str, edit: Editor | None = None, level: str = "exact", note: str = ""
) -> Callable[[Relation], Relation]:
    """Register a relation for operators by their names without namespace, overload and in-place underscore.

    A name with an overload, "max.dim", goes before one without.
    """
    return _rule(*(f"aten.{op}" for op in ops), kind=kind, edit=edit, level=level, note=note)


def slot(r: Relate | Edit, name: str) -> int:
    """Slot of a tensor argument, -1 where it is not given."""
    found = r.node.attrs["slots"].get(name)
    return -1 if found is None else int(found)


def slots(r: Relate | Edit, name: str) -> list[int]:
    """Slots of a list of tensors; -1 for None."""
    return [-1 if s is None else int(s) for s in r.node.attrs["slots"].get(name) or ()]


def given(r: Relate | Edit, *names: str) -> list[int]:
    """Slots of those of some tensor arguments that are given."""
    return [s for s in (slot(r, n) for n in names) if s >= 0]


def axis_of(value: Any, rank: int) -> int:
    """An axis number without its sign."""
    return int(value) % max(rank, 1)


def axes_of(value: Any, rank: int) -> list[int]:
    """Axis numbers of an argument that takes one, a list, or None (or an empty list) for all."""
    if value is None or (isinstance(value, Sequence) and not value):
        return list(range(rank))
    return [axis_of(v, rank) for v in (value if isinstance(value, Sequence) else [value])]


def per_axis(value: Any, dims: int, default: int) -> list[int]:
    """A setting of windows, given as one number or one for each axis."""
    if value is None or (isinstance(value, Sequence) and not value):
        return [default] * dims
    listed = [int(v) for v in value] if isinstance(value, Sequence) else [int(value)]
    return listed * dims if len(listed) == 1 else listed


def sized(e: Edit, name: str, start: int = 0) -> None:
    """New sizes in a list of sizes for the output's axes from ``start`` on; -1 keeps its meaning."""
    literal = [int(n) for n in e.attr(name)]
    new = e.out_sizes()[start : start + len(literal)]
    changed = [
        n if old == -1 or e.kept_out(start + a) is None else new[a]
        for a, (old, n) in enumerate(zip(literal, literal, strict=True))
    ]
    if changed != literal:
        e.change.attrs[name] = changed


def freeze_axis(r: Relate, at: int, axis: int, text: str) -> Axis:
    """Freeze an axis of an input and give its labels."""
    r.freeze(at, axis, text)
    return r.axis(at, axis)
