"""The curves of a sweep as a table."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from graphprune.recover.evidence import count
from graphprune.sweep.curves import GroupCurve, Sensitivity


def sensitivity_table(found: Sensitivity, rows: int | None, plot: str | None) -> Iterator[RenderableType]:
    """The error of the outputs by group and ratio, the most sensitive group first.

    Args:
        found: What was measured.
        rows: Groups to show, None for all.
        plot: File with the curves, None without.
    """
    how = "the layers that read it make up for it" if found.compensated else "nothing makes up for it"
    title = "error of the outputs (squared, by their variance) when a group alone loses units"
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None)
    for name in ("group", "kind"):
        table.add_column(name, overflow="fold")
    for name in ("units", *(f"{r:.0%} leave" for r in found.ratios)):
        table.add_column(name, justify="right", no_wrap=True)
    ranked = sorted(found.groups, key=lambda g: -g.worst)
    for group in ranked if rows is None else ranked[:rows]:
        table.add_row(group.name, group.kind, f"{group.size:,}", *(_cell(group, r) for r in found.ratios))
    yield table
    if rows is not None and len(ranked) > rows:
        yield Text(f"... and {len(ranked) - rows} more (-v shows all)", "dim")
    yield Text(f"units leave in the order of {found.criterion}; {how}; on {found.samples:,} samples of {found.data}")
    if plot is not None:
        yield Text(f"curves in {plot}")
    for note in found.notes:
        yield Text(note, "yellow")


def _cell(group: GroupCurve, ratio: float) -> str:
    wanted = count(group.size, ratio)
    error = next((p.error for p in group.points if p.removed == wanted), None)
    return "-" if error is None else f"{error:.3g}"
