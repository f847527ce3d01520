"""What became of a latency target, as data and as a table."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from graphprune.budget.pace import Timing


class LatencyReport(BaseModel):
    """What became of a latency target.

    Attributes:
        target: Time asked for, ms.
        before: Time of the original, ms.
        predicted: Predicted time of the result, ms.
        measured: Measured time, ms; None where it was not measured.
        ratio: Measured time of the result by that of the original, in paired runs; None where it was not measured.
        rounds: Candidates measured.
        provider: Execution provider, or the table that times come from.
        threads: Threads.
    """

    model_config = ConfigDict(frozen=True)

    target: float
    before: float
    predicted: float
    measured: float | None
    ratio: float | None
    rounds: int
    provider: str
    threads: int


def timed(timing: Timing | None) -> LatencyReport | None:
    """What became of a latency target as data."""
    if timing is None:
        return None
    ms, share = 1e3 * timing.before, timing.measured
    return LatencyReport(
        target=1e3 * timing.target,
        before=ms,
        predicted=ms * timing.predicted,
        measured=None if share is None else ms * share,
        ratio=share,
        rounds=timing.rounds,
        provider=timing.provider,
        threads=timing.threads,
    )


def latency_table(found: LatencyReport) -> Table:
    """The times of a latency target."""
    threads = f"{found.threads} thread{'s' * (found.threads != 1)}" if found.threads else "all threads"
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for name in (f"latency, {threads}", "ms", "of the original"):
        table.add_column(name, justify="left" if name.startswith("latency") else "right")
    for title, ms in (
        ("original", found.before),
        ("target", found.target),
        ("predicted", found.predicted),
        ("measured", found.measured),
    ):
        if ms is not None:
            table.add_row(title, f"{ms:.3f}", f"{ms / found.before:.1%}")
    return table
