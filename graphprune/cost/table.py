"""Times of operators from another device: a CSV or JSON file, or a function in Python."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphprune.cost.latency import Latency, Piece, assembled, sizes_of
from graphprune.cost.lengths import Lengths
from graphprune.cost.measure import Reals
from graphprune.cost.operators import Dim
from graphprune.cost.staircase import Staircase, widths
from graphprune.coupling.groups import DependencyGraph
from graphprune.data.scripts import is_script, load_function
from graphprune.errors import InputError
from graphprune.graph.model import Node

Sizes = tuple[tuple[int, ...], ...]
Widths = tuple[int, ...]
Function = Callable[[str, Sizes, Mapping[str, Any]], float | None]

_MILLI = 1e-3
_AT_ONCE = 1 << 14  # widths looked at together
_NAMED = 4  # missing shapes listed in an error


@dataclass(frozen=True)
class Row:
    """A time.

    Attributes:
        operator: Operator, "Conv" or "com.microsoft.Attention".
        shapes: Shapes of its first inputs, weights among them.
        seconds: Its time.
        attributes: Attributes it holds for; those that are not named may be anything.
    """

    operator: str
    shapes: Sizes
    seconds: float
    attributes: Mapping[str, Any]


Table = Sequence[Row] | Function


def load_table(source: Any) -> Table:
    """A latency table.

    Args:
        source: Path of a .csv file with the columns operator, shapes ("1x64x56x56;128x64x1x1") and time (ms), of a
            .json file with a list of such objects (shapes as lists of lists), or FILE.py:FUNCTION; or a function of
            operator, shapes and attributes that returns milliseconds, or None for what it does not know.

    Raises:
        InputError: It cannot be read.
    """
    if callable(source):
        return source  # type: ignore[no-any-return]
    if is_script(str(source)):
        return load_function(str(source))
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8-sig")
        entries: Any = json.loads(text) if path.suffix.lower() == ".json" else list(csv.DictReader(text.splitlines()))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (ValueError, csv.Error, RecursionError) as error:
        raise InputError(f"{path}: not a readable latency table ({str(error)[:200]})") from None
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: a latency table is a list of rows with operator, shapes and time; it has none")
    return [_row(path, number, entry) for number, entry in enumerate(entries, 1)]


def _row(path: Path, number: int, entry: Any) -> Row:
    where = f"{path}: row {number}"
    missing = [k for k in ("operator", "shapes", "time") if not isinstance(entry, dict) or entry.get(k) in (None, "")]
    if missing:
        raise InputError(f"{where}: has no {missing[0]}; a row has operator, shapes and time (ms)")
    try:
        shapes = _shapes(entry["shapes"])
        milliseconds = float(entry["time"])
        attributes = entry.get("attributes") or {}
        attributes = json.loads(attributes) if isinstance(attributes, str) else dict(attributes)
    except (TypeError, ValueError):
        raise InputError(f"{where}: cannot be read; write Conv, 1x64x56x56;128x64x1x1, 0.42") from None
    if not math.isfinite(milliseconds) or milliseconds < 0 or not isinstance(attributes, dict):
        raise InputError(f"{where}: the time must be a number of milliseconds, 0 or more, not {entry['time']}")
    return Row(str(entry["operator"]).strip(), shapes, milliseconds * _MILLI, attributes)


def _shapes(given: Any) -> Sizes:
    if isinstance(given, str):
        parts = [p.strip() for p in given.split(";")]
        return tuple(tuple(int(n) for n in p.lower().split("x")) if p else () for p in parts)
    return tuple(tuple(int(n) for n in shape) for shape in given)


@dataclass(frozen=True)
class _Call:
    """An operator of the model: its shapes as functions of its widths."""

    node: Node
    dims: tuple[tuple[Dim, ...], ...]
    axes: tuple[tuple[int, ...], ...]
    sizes: Widths

    def shapes(self, at: Sequence[int]) -> Sizes:
        """Shapes of the inputs at some widths."""
        known = dict(zip(self.axes, at, strict=True))
        return tuple(tuple(round(d.factor * known.get(d.axes, 1)) for d in dims) for dims in self.dims)

    def at(self, shapes: Sizes) -> Widths | None:
        """The widths that give some shapes, None where none do."""
        known: dict[tuple[int, ...], int] = {}
        for dims, sizes in zip(self.dims, shapes, strict=False):
            if len(dims) != len(sizes):
                return None
            for d, n in zip(dims, sizes, strict=True):
                width = round(n / d.factor) if d.factor else 0
                if round(width * d.factor) != n or known.setdefault(d.axes, width if d.axes else 1) != width:
                    return None
        if len(shapes) > len(self.dims) or any(a not in known for a in self.axes):
            return None
        return tuple(known[a] for a in self.axes)


def table_latency(deps: DependencyGraph, lengths: Lengths, table: Table) -> Latency:
    """The latency of a model by a table; operators without multiply-accumulates that it leaves out count as free.

    Raises:
        InputError: The table lacks operators that do the work.
    """
    needed = {term.node for term in deps.state.macs}
    pieces, holes = list[Piece](), list[str]()
    for call in _calls(deps, lengths):
        known = _asked(table, call) if callable(table) else _found(table, call)
        full = known.get(call.sizes)
        if full is not None:
            few = len(call.axes) <= 2
            curve = _curve(call.sizes, known, sampled=callable(table)) if few and len(known) > 1 and full > 0 else None
            axes = call.axes if few or call.node.name in needed else call.axes[:1]
            pieces.append(Piece(call.node.name, full, axes, call.sizes[: len(axes)], curve))
        elif call.node.name in needed:
            said = ";".join("x".join(map(str, s)) for s in call.shapes(call.sizes))
            holes.append(f"{call.node.key} {said}")
    if holes:
        distinct = list(dict.fromkeys(holes))
        more = f" and {len(distinct) - _NAMED} more" if len(distinct) > _NAMED else ""
        raise InputError(f"the latency table has no time for {', '.join(distinct[:_NAMED])}{more}")
    return assembled(pieces, lengths, sum(p.seconds for p in pieces))


def _calls(deps: DependencyGraph, lengths: Lengths) -> Iterator[_Call]:
    size = sizes_of(lengths)
    for node in deps.source.nodes:
        dims = []
        for name in node.inputs:
            value = deps.source.values.get(name)
            weight = deps.source.weights.get(name)
            shape = weight.shape if weight is not None else value.shape if value is not None else None
            if name and shape is not None:
                dims.append(_dims(deps, lengths, name, shape))
        axes = tuple(dict.fromkeys(d.axes for found in dims for d in found if d.axes))
        yield _Call(node, tuple(dims), axes, tuple(size(a) for a in axes))


def _dims(deps: DependencyGraph, lengths: Lengths, name: str, shape: tuple[int, ...]) -> tuple[Dim, ...]:
    labels = deps.types.get(name) or ()
    if len(labels) != len(shape):
        return tuple(Dim(float(n)) for n in shape)
    out = []
    for axis, n in zip(labels, shape, strict=True):
        factor, found = (float(n), []) if axis is None else lengths.term(1.0, [axis])
        out.append(Dim(factor, tuple(sorted(found))))
    return tuple(out)


def _asked(function: Function, call: _Call) -> dict[Widths, float]:
    """What a function says at full widths and, where they vary, at others."""
    out: dict[Widths, float] = {}
    places = [call.sizes, *(widths(call.sizes) if 0 < len(call.sizes) <= 2 else ())]
    for at in dict.fromkeys(places):
        try:
            value = function(call.node.key, call.shapes(at), dict(call.node.attrs))
            if value is None:
                continue
            seconds = float(value) * _MILLI
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise InputError(f"the latency function fails on {call.node.key}: {text}") from error
        if not math.isfinite(seconds) or seconds < 0:
            raise InputError(f"the latency function gives {value} ms for {call.node.key}; a time is 0 or more")
        out[at] = seconds
    return out


def _found(rows: Sequence[Row], call: _Call) -> dict[Widths, float]:
    """The rows that are this operator at some widths."""
    out: dict[Widths, float] = {}
    for row in rows:
        if row.operator == call.node.key and row.shapes and _agrees(row.attributes, call.node.attrs):
            at = call.at(row.shapes)
            if at is not None and all(0 < w <= n for w, n in zip(at, call.sizes, strict=True)):
                out[at] = row.seconds
    return out


def _agrees(wanted: Mapping[str, Any], attrs: Mapping[str, Any]) -> bool:
    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, list | tuple | np.ndarray) else value

    return all(k in attrs and plain(attrs[k]) == plain(v) for k, v in wanted.items())


def _curve(sizes: Widths, known: Mapping[Widths, float], *, sampled: bool) -> Callable[[Reals], Reals]:
    """Relative time over widths: between the rows where they make a grid, else by the nearest rows' time per work."""
    full = known[sizes]
    stairs = Staircase.through(sizes, known)
    if stairs is None and sampled:
        stairs = Staircase.fitted(sizes, list(known), list(known.values()))
    if stairs is not None:
        return lambda at: stairs(at) / full
    places = np.log(np.array(list(known), np.float64))
    rates = np.array([t / np.prod(w, dtype=np.float64) for w, t in known.items()]) / full

    def near(at: Reals) -> Reals:
        if len(at) > _AT_ONCE:
            return np.concatenate([near(part) for part in np.array_split(at, -(-len(at) // _AT_ONCE))])
        apart = ((np.log(np.maximum(at, 1.0))[:, None, :] - places[None]) ** 2).sum(axis=2)
        weight = 1.0 / (apart + 1e-12)
        out: Reals = at.prod(axis=1) * (weight * rates).sum(axis=1) / weight.sum(axis=1)
        return out

    return near
