"""Models timed in turns, so that whatever slows the machine down slows both."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphprune.graph.model import Array
from graphprune.graph.run import CannotRun, harmful, loadable
from graphprune.graph.timing import Clock, Setting, session, undisturbed

PAIRED_SECONDS = 6.0
_PAIRED_ROUNDS = (15, 400)
_WARM = 3
_SESSIONS = (4, 16)


@dataclass(frozen=True)
class Paired:
    """Two models timed in turns.

    Attributes:
        first: Times of the first, seconds.
        second: Times of the second, in the same rounds.
    """

    first: Array = field(repr=False)
    second: Array = field(repr=False)

    @property
    def ratio(self) -> float:
        """Median over the rounds of the second model's time by the first one's."""
        return float(np.median(self.second / self.first))

    @property
    def seconds(self) -> tuple[float, float]:
        """Median time of both."""
        return float(np.median(self.first)), float(np.median(self.second))


def paired(
    first: Callable[[], object],
    second: Callable[[], object],
    *,
    seconds: float = PAIRED_SECONDS,
    rounds: tuple[int, int] = _PAIRED_ROUNDS,
    clock: Clock = time.perf_counter,
) -> Paired:
    """Time two models in turns, so that whatever slows the machine down slows both.

    Args:
        first: Runs the first.
        second: Runs the second.
        seconds: Time to spend, about.
        rounds: Least and most rounds, each a run of both, in alternating order.
        clock: Gives seconds.
    """
    for _ in range(_WARM):
        first()
        second()
    times: list[tuple[float, float]] = []
    begun = time.monotonic()
    while len(times) < rounds[0] or (len(times) < rounds[1] and time.monotonic() - begun < seconds):
        order = (first, second) if len(times) % 2 == 0 else (second, first)
        a, b, c = _laps(order, clock)
        times.append((b - a, c - b) if len(times) % 2 == 0 else (c - b, b - a))
    found = np.maximum(np.array(times), 1e-9)
    return Paired(found[:, 0], found[:, 1])


def raced(
    first: Callable[[], Callable[[], object]],
    second: Callable[[], Callable[[], object]],
    *,
    seconds: float = PAIRED_SECONDS,
    sessions: tuple[int, int] = _SESSIONS,
    clock: Clock = time.perf_counter,
) -> Paired:
    """Time two models in turns in several sessions: by where its memory lies a session can be some percent off.

    Args:
        first: Opens the first, gives what runs it.
        second: Opens the second.
        seconds: Time to spend, about.
        sessions: How often both are opened anew, least and most; most for models that are soon timed.
        clock: Gives seconds.
    """
    parts: list[Paired] = []
    begun = time.monotonic()
    least, most = (-(-n // sessions[0]) for n in _PAIRED_ROUNDS)
    while len(parts) < sessions[0] or (len(parts) < sessions[1] and time.monotonic() - begun < seconds):
        share = seconds / sessions[0]
        parts.append(paired(first(), second(), seconds=share, rounds=(least, most), clock=clock))
    return Paired(np.concatenate([p.first for p in parts]), np.concatenate([p.second for p in parts]))


def _laps(calls: Sequence[Callable[[], object]], clock: Clock) -> tuple[float, float, float]:
    a = clock()
    calls[0]()
    b = clock()
    calls[1]()
    return a, b, clock()


def ready(model: ir.Model, feed: Mapping[str, Array], setting: Setting) -> Callable[[], object]:
    """A function that runs a model once.

    Args:
        model: The model.
        feed: Inputs of the original; those that the model has smaller are cut to its sizes.
        setting: How it runs.

    Raises:
        CannotRun: onnxruntime refuses it.
    """
    with loadable(model) as source:
        made = session(source, setting, without=harmful(model))
    sizes = {i.name: i.shape for i in made.get_inputs()}
    given = {name: _cut(feed[name], shape) for name, shape in sizes.items()}

    def run() -> object:
        return made.run(None, given)

    try:
        run()
    except Exception as error:
        raise CannotRun(" ".join(str(error).split())[:300]) from None
    return run


def _cut(array: Array, shape: Sequence[int | str | None]) -> Array:
    fixed = [slice(n) if isinstance(n, int) else slice(None) for n in shape]
    return np.ascontiguousarray(array[tuple(fixed)]) if len(fixed) == array.ndim else array


def alone(run: Callable[[], object], *, seconds: float = 2.0, clock: Clock = time.perf_counter) -> float:
    """Seconds of a run that nothing disturbs."""
    for _ in range(_WARM):
        run()
    times: list[float] = []
    begun = time.monotonic()
    while len(times) < _PAIRED_ROUNDS[0] or (len(times) < _PAIRED_ROUNDS[1] and time.monotonic() - begun < seconds):
        start = clock()
        run()
        times.append(clock() - start)
    return undisturbed(times)
