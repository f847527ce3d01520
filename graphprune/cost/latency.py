"""Latency as a function of kept lengths, from measured times of every operator that the runtime runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphprune.cost.lengths import Lengths
from graphprune.cost.measure import Measure, Numbers, Reals, padded
from graphprune.cost.operators import Dim, Operator, operators
from graphprune.cost.staircase import Staircase, disturbed, widths
from graphprune.cost.stopwatch import SessionStopwatch, Shape, Stopwatch, Times, shape_of
from graphprune.cost.times import Note, TimesFile
from graphprune.coupling.groups import DependencyGraph
from graphprune.graph.timing import Machine, Setting

NAME = "latency"
NANO = 1e9
_HOT = 0.003  # share of the model's time from which an operator is timed at several widths
_AGAIN, _DOUBTFUL = 3, 0.12
_ENTRIES = 1 << 22  # of one table
_SUMMED = ("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "MatMulInteger")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Piece:
    """An operator's time as a function of kept lengths.

    Attributes:
        name: Its name.
        seconds: Time at full widths.
        axes: Its widths, each a product of axes.
        sizes: Full width of each.
        curve: Time relative to the full one, at widths of shape (m, widths); None: in proportion to their product.
        joint: True where the curve is over the first width alone, the others scaled with it.
    """

    name: str
    seconds: float
    axes: tuple[tuple[int, ...], ...] = ()
    sizes: tuple[int, ...] = ()
    curve: Callable[[Reals], Reals] | None = None
    joint: bool = False


@dataclass(frozen=True)
class Latency:
    """The latency of a model.

    Attributes:
        measure: The cost for the solver, in nanoseconds.
        pieces: What it is the sum of.
        seconds: Time of the original.
        overhead: The part of it that no width changes.
    """

    measure: Measure
    pieces: tuple[Piece, ...]
    seconds: float
    overhead: float


def latency(
    deps: DependencyGraph,
    lengths: Lengths,
    setting: Setting,
    *,
    total: Callable[[], float],
    stopwatch: Stopwatch | None = None,
    found: Sequence[Operator] | None = None,
    times: TimesFile | None = None,
    note: Note = lambda _: None,
) -> Latency:
    """The latency of a model in onnxruntime, measured on this machine.

    Every operator has its time in the model itself; those that matter are timed at several widths besides, which
    tells what becomes of it. All of it is scaled so that it gives the measured time of the whole.

    Args:
        deps: The dependency graph.
        lengths: The lengths that costs are functions of.
        setting: Provider and threads.
        total: Measures the time of the whole model in seconds.
        stopwatch: Times shapes; by default in onnxruntime.
        found: The operators of the optimised model, None to find out.
        times: Times known from before, None for those of this machine.
        note: Told what is worth knowing.

    Raises:
        InputError: The model cannot be run.
    """
    found = operators(deps, lengths, setting) if found is None else found
    times = TimesFile(Machine.here(setting), note=note) if times is None else times
    stopwatch = SessionStopwatch(setting) if stopwatch is None else stopwatch
    whole = sum(o.seconds for o in found)
    size = sizes_of(lengths)
    pieces, fresh = list[Piece](), False
    curves: dict[str, Callable[[Reals], Reals] | None] = {}
    for operator in found:
        shape = shape_of(operator, size) if operator.seconds >= _HOT * whole else None
        curve = None
        if shape is not None and shape.key not in curves:
            known = times.get(shape.key)
            if known is None:
                known, fresh = _timed(stopwatch, shape, operator.seconds), True
                times.put(shape.key, shape.describe(), known)
            curves[shape.key] = curve_of(shape, known)
        curve = curves[shape.key] if shape is not None else None
        pieces.append(piece(operator, shape, curve, size))
    if fresh:
        times.flush()
    return assembled(pieces, lengths, total())


def sizes_of(lengths: Lengths) -> Callable[[tuple[int, ...]], int]:
    """The full size of a product of axes."""
    return lambda axes: int(np.prod([lengths.axes[a].n for a in axes], dtype=np.int64))


def _timed(stopwatch: Stopwatch, shape: Shape, seconds: float) -> Times:
    """Times of a shape, again where they contradict each other: the shortest count."""
    at = widths(shape.steps)
    known = stopwatch(shape, at)
    for _ in range(_AGAIN):
        if not known or (
            disturbed(shape.steps, known) < _DOUBTFUL and known[shape.steps] < seconds * (1 + _DOUBTFUL) + 2e-6
        ):
            break
        more = stopwatch(shape, at)
        known = {w: min(t, more.get(w, t)) for w, t in known.items()}
    return known


def curve_of(shape: Shape, known: Times) -> Callable[[Reals], Reals] | None:
    """Time of a shape relative to that at full widths; None where nothing was measured."""
    if not known or known.get(shape.steps, 0.0) <= 0:
        return None
    stairs = Staircase.fitted(shape.steps, list(known), list(known.values()))
    full = known[shape.steps]
    return lambda at: stairs(at) / full


def piece(
    operator: Operator,
    shape: Shape | None,
    curve: Callable[[Reals], Reals] | None,
    size: Callable[[tuple[int, ...]], int],
) -> Piece:
    """An operator as a piece: by its curve, or in proportion to what it sums up or makes."""
    if shape is not None and curve is not None:
        return Piece(operator.name, operator.seconds, shape.axes, shape.sizes, curve, joint=shape.joint)
    made: list[Dim] = [d for dims in operator.outputs[:1] for d in dims]
    if operator.op in _SUMMED:
        made = [d for x in operator.inputs[:2] if x is not None for d in x.dims] + made
    axes = tuple(dict.fromkeys(d.axes for d in made if d.axes))
    return Piece(operator.name, operator.seconds, axes, tuple(size(a) for a in axes))


def assembled(pieces: Sequence[Piece], lengths: Lengths, seconds: float) -> Latency:
    """The latency of a model whose pieces are known, scaled to the time of the whole.

    What the whole takes beyond its pieces counts as fixed up to some microseconds for each, the rest is a factor.
    """
    known = sum(p.seconds for p in pieces)
    overhead = float(np.clip(seconds - known, 0.0, 2e-5 + 5e-6 * len(pieces)))
    factor = (seconds - overhead) / known if known > 0 else 1.0
    fixed = overhead + factor * sum(p.seconds for p in pieces if not p.axes)
    moving = [p for p in pieces if p.axes]
    return Latency(_measure(moving, lengths, fixed, factor), tuple(pieces), seconds, overhead)


def _measure(pieces: Sequence[Piece], lengths: Lengths, fixed: float, factor: float) -> Measure:
    """Pieces as a measure; the first is what never changes."""
    index = padded([(), *(tuple(a for axes in p.axes for a in axes) for p in pieces)], len(lengths.axes))
    tables = _Tables(pieces, index.shape)
    scale = np.array([fixed, *(factor * p.seconds for p in pieces)]) * NANO

    def function(numbers: Numbers, kept: Reals) -> Reals:
        return scale[numbers] * tables(numbers, kept)

    return Measure(NAME, index, function)


class _Tables:
    """Relative times at all widths, end to end, so that any number of pieces is one look-up."""

    def __init__(self, pieces: Sequence[Piece], shape: tuple[int, ...]) -> None:
        count = len(pieces) + 1
        self.column = np.zeros(shape, np.intp)  # which of the two widths an axis counts to
        self.power, self.base = np.ones(count), np.ones(count)
        self.rate, self.start = np.zeros(count), np.zeros(count, np.intp)
        self.stride, self.reach = np.ones((count, 2)), np.ones((count, 2))
        tables, made, length = [np.ones(1, np.float32)], dict[int, tuple[int, Reals, Reals]](), 1
        for row, p in enumerate(pieces, 1):
            if p.curve is None or p.joint:
                whole = float(np.prod(p.sizes, dtype=np.float64))
                self.power[row] = 1 / len(p.sizes) if p.joint else 1.0
                self.base[row] = p.sizes[0] / whole ** self.power[row]
                self.rate[row] = 1 / whole if p.curve is None else 0.0
            else:
                places = [d for d, axes in enumerate(p.axes) for _ in axes]
                self.column[row, : len(places)] = places
            if p.curve is not None and id(p.curve) not in made:
                table, stride, reach = _table(p.curve, p.sizes[:1] if p.joint else p.sizes)
                tables.append(table)
                made[id(p.curve)] = length, stride, reach
                length += len(table)
            if p.curve is not None:
                self.start[row], self.stride[row], self.reach[row] = made[id(p.curve)]
        self.flat = np.concatenate(tables)

    def __call__(self, numbers: Numbers, kept: Reals) -> Reals:
        place, stride, reach = self.column[numbers], self.stride[numbers], self.reach[numbers]
        first = self.base[numbers] * np.where(place == 0, kept, 1.0).prod(axis=1) ** self.power[numbers]
        wide = np.stack([first, np.where(place == 1, kept, 1.0).prod(axis=1)], axis=1)
        at = np.clip(np.ceil((wide - 1e-6) / stride), 1, reach) - 1
        looked = self.flat[self.start[numbers] + (at[:, 0] * reach[:, 1] + at[:, 1]).astype(np.intp)]
        rate = self.rate[numbers]
        out: Reals = np.where(rate > 0, rate * kept.prod(axis=1), looked.astype(np.float64))
        return out


def _table(curve: Callable[[Reals], Reals], sizes: Sequence[int]) -> tuple[NDArray[np.float32], Reals, Reals]:
    """Values at every width, at every second or fourth where they are too many; stride and number per width."""
    stride = 1
    while np.prod([-(-n // stride) for n in sizes], dtype=np.float64) > _ENTRIES:
        stride *= 2
    lines = [np.minimum(np.arange(1, -(-n // stride) + 1) * stride, n) for n in sizes]
    mesh = np.stack([m.ravel() for m in np.meshgrid(*lines, indexing="ij")], axis=1).astype(np.float64)
    reach = np.ones(2)
    reach[: len(sizes)] = [len(line) for line in lines]
    strides = np.ones(2)
    strides[: len(sizes)] = stride
    return curve(mesh).astype(np.float32), strides, reach
