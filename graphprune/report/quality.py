"""What is left of a model's quality, as data and as tables."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from graphprune.verify.metric import Quality


class MetricChange(BaseModel):
    """The user's own metric.

    Attributes:
        name: Name of the function.
        before: What it says of the original.
        after: What it says of the pruned model.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    before: float
    after: float


class OutputAgreement(BaseModel):
    """One output of the pruned model against that of the original.

    Attributes:
        output: Its name.
        cosine: Mean cosine over the samples, None for an output that is no float.
        relative_l2: Error relative to the norm of the original's, None for an output that is no float.
        top1: Share with the same largest score (of class scores) or equal (of integers), else None.
    """

    model_config = ConfigDict(frozen=True)

    output: str
    cosine: float | None = None
    relative_l2: float | None = None
    top1: float | None = None


class QualityReport(BaseModel):
    """What is left of a model's quality.

    Attributes:
        metric: The user's own, None where none was given.
        agreement: Per output, empty without data.
        samples: Number of samples that agreement was measured on.
    """

    model_config = ConfigDict(frozen=True)

    metric: MetricChange | None = None
    agreement: tuple[OutputAgreement, ...] = ()
    samples: int = 0


def measured(quality: Quality | None) -> QualityReport | None:
    """Measurements as data."""
    if quality is None:
        return None
    change = quality.metric
    return QualityReport(
        metric=MetricChange(name=change.name, before=change.before, after=change.after) if change else None,
        agreement=tuple(
            OutputAgreement(output=a.output, cosine=a.cosine, relative_l2=a.relative_l2, top1=a.top1)
            for a in quality.agreement
        ),
        samples=quality.samples,
    )


def quality_tables(report: QualityReport | None, rows: int | None) -> Iterator[RenderableType]:
    """The metric before and after, and agreement per output."""
    if report is None:
        return
    if report.metric is not None:
        change = report.metric
        table = _table("metric", "before", "after", "change")
        table.add_row(
            change.name, f"{change.before:.5g}", f"{change.after:.5g}", f"{change.after - change.before:+.4g}"
        )
        yield table
    if report.agreement:
        samples = "one sample" if report.samples == 1 else f"{report.samples} samples"
        yield Text(f"agreement with the original on {samples}", "bold")
        table = _table("output", "cosine", "relative L2", "same top-1")
        for entry in report.agreement[:rows]:
            top1 = "-" if entry.top1 is None else f"{entry.top1:.1%}"
            table.add_row(entry.output, _figure(entry.cosine), _figure(entry.relative_l2), top1)
        yield table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _table(*columns: str) -> Table:
    table = Table(header_style="dim", box=None)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", overflow="fold", no_wrap=bool(i))
    return table
