"""A latency target: a limit on the predicted time, corrected by what candidates are measured to take."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from graphprune.budget.timing import setting_of
from graphprune.cost.latency import NAME, Latency, latency
from graphprune.cost.model import CostModel
from graphprune.cost.operators import checked
from graphprune.cost.table import load_table, table_latency
from graphprune.coupling.cut import Mask
from graphprune.coupling.groups import DependencyGraph
from graphprune.errors import InputError
from graphprune.graph.pairing import PAIRED_SECONDS, Paired, alone, raced, ready
from graphprune.graph.run import CannotRun, random_feeds
from graphprune.graph.timing import Setting

CLOSE = 0.05  # how near the target a measured time has to come
_NEAR = 0.02  # how near it ends the search: what is left below could be had for less loss
ROUNDS = 4
_GLANCE = 1.5  # seconds for a first look at a rival
_LOOSE = 0.97  # share of the limit below which it is another limit that binds
_UNITS = {"%": 0.01, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
_TEXT = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(%|s|ms|us|µs)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Timing:
    """What became of a latency target.

    Attributes:
        target: Time asked for, seconds.
        before: Time of the original, seconds.
        predicted: Predicted time of the result as a share of the original's.
        measured: The same, measured in turns with the original; None where nothing was measured.
        rounds: Candidates measured.
        provider: Execution provider, or the table that times come from.
        threads: Threads.
    """

    target: float
    before: float
    predicted: float
    measured: float | None = None
    rounds: int = 0
    provider: str = ""
    threads: int = 1

    @property
    def share(self) -> float:
        """The target as a share of the original's time."""
        return self.target / self.before

    @property
    def met(self) -> bool:
        """Whether the measured time is as close to the target as is asked for."""
        return self.measured is not None and abs(self.measured / self.share - 1) <= CLOSE

    @property
    def miss(self) -> float:
        """How far the measured time is from the target, as a share of it; above counts twice."""
        apart = (self.measured or 0.0) / self.share - 1
        return 2 * apart if apart > 0 else -apart

    @property
    def missed(self) -> bool:
        """Whether the measured time is above the target by more than that."""
        return self.measured is not None and self.measured > self.share * (1 + CLOSE)


def parse_latency(amount: str | float) -> tuple[float, bool]:
    """A latency target: its number, and whether that is a share of the original's time rather than seconds.

    Raises:
        InputError: It cannot be read, or is no time below the original's.
    """
    match = _TEXT.fullmatch(str(amount))
    if match is None:
        raise InputError(f"--latency {amount}: cannot be read; write 60% or 8ms")
    value, unit = float(match[1]), match[2].lower()
    if unit == "%" and not 0 < value < 100:
        raise InputError(f"--latency {amount}: a percent of the original's time lies between 0 and 100")
    if not math.isfinite(value) or value <= 0:
        raise InputError(f"--latency {amount}: must be above zero")
    return value * _UNITS[unit], unit == "%"


def paced(
    deps: DependencyGraph,
    cost: CostModel,
    amount: str | float,
    timing: Mapping[str, Any],
    note: Callable[[str], None],
    known: Latency | None,
    origin: Pace | None = None,
) -> Pace:
    """A latency target by the options of a run, see :class:`Pace`."""
    setting, table = setting_of(timing), timing.get("latency_table")
    return Pace(deps, cost, amount, setting, table=table, note=note, known=known, origin=origin)


class Pace:
    """A latency target with what predicts and what measures it.

    For a model that bypasses branches ``origin`` is that of the whole one, whose time the target refers to.

    Attributes:
        known: The latency of the model.
        limit: What the predicted time may be now, nanoseconds.
        timing: What the latest candidate came to.
        best: What the best came to.
        leads: Whether the latest is the best.
    """

    def __init__(
        self,
        deps: DependencyGraph,
        cost: CostModel,
        amount: str | float,
        setting: Setting,
        *,
        table: Any = None,
        note: Callable[[str], None] = lambda _: None,
        known: Latency | None = None,
        race: Callable[[Any, Any], Paired] | None = None,
        origin: Pace | None = None,
    ) -> None:
        value, relative = parse_latency(amount)
        self._deps, self._cost, self._setting = deps, cost, setting
        self._table, self._race = table, race
        if known is None:
            known = self._known(note)
        self.known = known
        self._cost.measures[NAME] = known.measure
        self._whole: float = origin._whole if origin else self.predicted(np.zeros(deps.state.store.count, bool))
        seconds = origin.known.seconds if origin else known.seconds
        target = value * seconds if relative else value
        if target >= seconds:
            raise InputError(f"--latency {amount} is met already: the model takes {1e3 * seconds:.3g} ms")
        source = setting.provider if table is None else f"table {getattr(table, '__name__', table)}"
        self.timing = Timing(target, seconds, 1.0, provider=source, threads=setting.threads)
        self.limit = int(self._whole * self.timing.share)
        self.best, self.leads = self.timing, True
        self._tried: list[tuple[float, float]] = []

    def _known(self, note: Callable[[str], None]) -> Latency:
        if self._table is not None:
            return table_latency(self._deps, self._cost.lengths, load_table(self._table))
        run = self._ready(checked(self._deps))
        clock = self._setting.clock
        return latency(self._deps, self._cost.lengths, self._setting, total=lambda: alone(run, clock=clock), note=note)

    def _ready(self, model: Any) -> Callable[[], object]:
        try:
            return ready(model, random_feeds(self._deps.source, 1, 0)[0], self._setting)
        except CannotRun as error:
            raise InputError(f"{self._deps.source.name}: cannot be timed: onnxruntime: {error}") from None

    def restart(self) -> None:
        """Count rounds anew, for a model that is planned again; the limit stays as it was corrected."""
        self.timing = self.best = replace(self.timing, measured=None, rounds=0)
        self._tried.clear()

    def out_of_reach(self) -> str:
        """Why the search ends where the solver can go no further: what the measurements say."""
        found = self.best
        return (
            f"latency {found.share:.1%} of the original is out of reach: it was predicted, but the best candidate takes"
            f" {found.measured:.1%}; loosen --max-ratio, --min-channels, --ignore or --align"
        )

    def predicted(self, removed: Mask) -> float:
        """Predicted nanoseconds after a removal."""
        return float(self._cost.measures[NAME].total(self._cost.kept(removed)))

    @property
    def measurable(self) -> bool:
        """Whether candidates are measured: not where times come from another device."""
        return self._table is None

    def measure(self, original: Any, model: Any, removed: Mask) -> bool:
        """Measure a candidate in turns with the original; False where the limit was corrected and one more is due.

        Args:
            original: The original model.
            model: The candidate.
            removed: What it lacks.
        """
        self.timing = self._timed(original, model, removed)
        share, ratio, rounds = self.timing.predicted, self.timing.measured, self.timing.rounds
        if ratio is None:
            self.best = self.timing
            return True
        self.leads = self.best.measured is None or self.timing.miss < self.best.miss
        self.best = self.timing if self.leads else replace(self.best, rounds=rounds)
        loose = ratio < self.timing.share and share < _LOOSE * self.limit / self._whole
        if self.timing.miss <= _NEAR or rounds >= ROUNDS or loose:
            return True
        self._tried.append((share, ratio))
        limit = int(aimed(self._tried, self.timing.share) * self._whole)
        if limit == self.limit or limit >= self._whole:
            return True
        self.limit = limit
        return False

    @property
    def goal(self) -> float:
        """Predicted nanoseconds at which the target should be measured, by what the best came to."""
        if self.best.measured is None:
            return float(self.limit)
        return self.best.predicted * self._whole * self.best.share / self.best.measured

    @property
    def limits(self) -> dict[str, int]:
        """What the solver has to keep to, by the names of costs."""
        return {NAME: self.limit}

    def admits(self, original: Any, model: Any, removed: Mask) -> bool:
        """Whether a rival of the best candidate keeps to the target, too; it is the best then.

        Most are soon seen not to.

        Args:
            original: The original model.
            model: The rival.
            removed: What it lacks.
        """
        if self.measurable and self._ratio(original, model, _GLANCE) > self.timing.share * (1 + _NEAR):
            return False
        self.timing = found = self._timed(original, model, removed)
        if found.measured is None:
            held = self.predicted(removed) <= self.limit
        else:
            held = found.measured <= found.share * (1 + _NEAR) and (found.met or found.miss < self.best.miss)
        self.best = found if held else replace(self.best, rounds=found.rounds)
        return held

    def _timed(self, original: Any, model: Any, removed: Mask) -> Timing:
        """What a candidate comes to; measured in turns with the original where that can be."""
        share = self.predicted(removed) / self._whole
        if not self.measurable:
            return replace(self.timing, predicted=share)
        ratio = self._ratio(original, model, PAIRED_SECONDS)
        return replace(self.timing, predicted=share, measured=ratio, rounds=self.timing.rounds + 1)

    def _ratio(self, original: Any, model: Any, seconds: float) -> float:
        """Measured time of a model as a share of the original's."""
        if self._race is not None:
            return self._race(original, model).ratio
        both = partial(self._ready, original), partial(self._ready, model)
        return raced(*both, seconds=seconds, clock=self._setting.clock).ratio


def aimed(tried: Sequence[tuple[float, float]], wanted: float) -> float:
    """What should be asked for so that the wanted time is measured.

    Between two tries on both sides of it on the line through them, else in proportion to the last one.

    Args:
        tried: What was asked for, and the time measured then.
        wanted: The time.
    """
    below = [t for t in tried if t[1] <= wanted]
    above = [t for t in tried if t[1] > wanted]
    if below and above:
        (p0, m0), (p1, m1) = max(below, key=lambda t: t[1]), min(above, key=lambda t: t[1])
        if p1 > p0 and m1 > m0:
            return p0 + (p1 - p0) * (wanted - m0) / (m1 - m0)
    asked, measured = tried[-1]
    return asked * wanted / measured
