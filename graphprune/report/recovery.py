"""What recovery did, as data and as a table."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from graphprune.recover.steps import Recovery


class LayerChange(BaseModel):
    """What a step did for one layer.

    Attributes:
        layer: Name of the node.
        before: Squared error of its output relative to its energy, on held-back data, before the step.
        after: The same after it.
    """

    model_config = ConfigDict(frozen=True)

    layer: str
    before: float
    after: float


class StepChange(BaseModel):
    """One step of recovery.

    Attributes:
        name: Its name.
        error: Squared error of the outputs relative to their variance, on held-back feeds, after it.
        kept: Whether it was kept, because the error fell.
        layers: What it did per layer.
        failed: Why it could not be done, if so.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    error: float
    kept: bool
    layers: tuple[LayerChange, ...] = ()
    failed: str = ""


class RecoveryReport(BaseModel):
    """What recovery did.

    Attributes:
        cut: Squared error of the outputs relative to their variance, on held-back feeds, right after the cut.
        error: The same at the end.
        steps: The steps in their order.
        feeds: Feeds that were learned from.
        held: Feeds that judged; 0 when there was only one, which did both.
    """

    model_config = ConfigDict(frozen=True)

    cut: float
    error: float
    steps: tuple[StepChange, ...]
    feeds: int
    held: int


def regained(recovery: Recovery | None) -> RecoveryReport | None:
    """The report of a recovery."""
    if recovery is None:
        return None
    steps = tuple(
        StepChange(
            name=s.name,
            error=s.error,
            kept=s.kept,
            failed=s.failed,
            layers=tuple(LayerChange(layer=x.layer, before=x.before, after=x.after) for x in s.layers),
        )
        for s in recovery.steps
    )
    return RecoveryReport(cut=recovery.cut, error=recovery.error, steps=steps, feeds=recovery.feeds, held=recovery.held)


def recovery_table(report: RecoveryReport | None, rows: int | None) -> Iterator[RenderableType]:
    """The error of the outputs after each step, and with all rows the error of every layer."""
    if report is None:
        return
    table = Table(title="error of the outputs against the original, on held-back data", title_justify="left")
    table.add_column("after")
    table.add_column("squared error / variance", justify="right")
    table.add_row("the cut", f"{report.cut:.3g}")
    for step in report.steps:
        if not step.failed:
            table.add_row(step.name, f"{step.error:.3g}" if step.kept else f"{step.error:.3g}, so left out")
    yield table
    yield from (Text(f"{step.name} was not done: {step.failed}", "yellow") for step in report.steps if step.failed)
    if not report.held:
        yield Text("one feed learned and judged: more samples would tell more", "yellow")
    if rows is None:
        for step in report.steps:
            yield _layers(step)


def _layers(step: StepChange) -> RenderableType:
    table = Table(title=f"{step.name}, layer by layer", title_justify="left")
    for name in ("layer", "error before", "after"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for x in step.layers:
        table.add_row(x.layer, f"{x.before:.3g}", f"{x.after:.3g}")
    return table
