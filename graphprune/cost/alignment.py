"""The widths that the runtime favours here: the staircase of one convolution, measured once."""

from __future__ import annotations

import numpy as np
import onnx

from graphprune.cost.operators import Dim, Operand, Operator
from graphprune.cost.staircase import CLASSES
from graphprune.cost.stopwatch import SessionStopwatch, Shape, Stopwatch
from graphprune.cost.times import Note, TimesFile
from graphprune.graph.timing import Machine, Setting

FALLBACK = 8
_FULL, _SIDE = 128, 14
_AT = (64, 96)
_SLOWER = 0.05  # time per channel above the favoured widths' that is worth avoiding


def favoured_alignment(
    setting: Setting,
    *,
    stopwatch: Stopwatch | None = None,
    times: TimesFile | None = None,
    note: Note = lambda _: None,
) -> int:
    """The smallest alignment whose widths cost, per channel, hardly more than multiples of 16.

    Args:
        setting: Provider and threads.
        stopwatch: Times shapes; by default in onnxruntime.
        times: Times known from before, None for those of this machine.
        note: Told what is worth knowing.
    """
    times = TimesFile(Machine.here(setting), note=note) if times is None else times
    shape = _convolution()
    known = times.get(shape.key)
    if known is None:
        at = [(w, w) for base in _AT for w in range(base - 16, base + 1)] + [(_FULL, _FULL)]
        known = (SessionStopwatch(setting) if stopwatch is None else stopwatch)(shape, list(dict.fromkeys(at)))
        times.put(shape.key, shape.describe(), known)
        times.flush()
    if not known:
        return FALLBACK
    cost = {c: _per_channel(known, c) for c in CLASSES}
    return min((c for c in CLASSES if cost[c] <= cost[CLASSES[0]] * (1 + _SLOWER)), default=FALLBACK)


def _per_channel(known: dict[tuple[int, ...], float], step: int) -> float:
    """Mean time of multiples of a step by what a time in proportion to the multiply-accumulates would be."""
    pairs = [(w, base) for base in _AT for w in range(base - 16 + step, base + 1, step)]
    found = [known[w, w] / (known[b, b] * (w / b) ** 2) for w, b in pairs if (w, w) in known and (b, b) in known]
    return float(np.mean(found)) if found else np.inf


def _convolution() -> Shape:
    """A convolution of 3x3 as most networks have it."""
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    read, made = (0,), (1,)
    one, side, three = Dim(1.0), Dim(float(_SIDE)), Dim(3.0)
    x = Operand((one, Dim(1.0, read), side, side), onnx.TensorProto.FLOAT, stored=False)
    w = Operand((Dim(1.0, made), Dim(1.0, read), three, three), onnx.TensorProto.FLOAT, stored=True)
    y = (one, Dim(1.0, made), side, side)
    return Shape(Operator("favoured", "Conv", node, 11, (x, w), (y,), 0.0), (read, made), (_FULL, _FULL), joint=False)
