"""Reports as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import singledispatch
from typing import TypeVar

from pydantic import BaseModel
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphprune.report.checkpoints import CheckpointReport, FieldChange
from graphprune.report.depth import branch_table
from graphprune.report.latency import latency_table
from graphprune.report.models import (
    AnalysisReport,
    BlockedAxis,
    Check,
    Cost,
    FamilyReport,
    GroupCut,
    GroupInfo,
    IoCut,
    PruneReport,
    VerifyReport,
)
from graphprune.report.profile import NodeCost, NodeTime, ProfileReport
from graphprune.report.quality import quality_tables
from graphprune.report.recovery import recovery_table
from graphprune.report.sensitivity import sensitivity_table

_ROWS = 8
_T = TypeVar("_T")
_COLORS = {"verified": "green", "FAILED": "bold red", "UNVERIFIED": "bold yellow"}


@singledispatch
def render(report: BaseModel, rows: int | None = _ROWS) -> RenderableType:
    """What a terminal shows of a report.

    Args:
        report: One of the reports of this package.
        rows: Rows per list, None for all.
    """
    raise TypeError(f"no table for {type(report).__name__} ({rows} rows)")


@render.register
def _prune(report: PruneReport, rows: int | None = _ROWS) -> RenderableType:
    parts: list[RenderableType] = [_heading(f"{report.model} -> {report.output}"), _costs(report.before, report.after)]
    if report.latency is not None:
        parts.append(latency_table(report.latency))
    if report.check is not None:
        parts.append(_verdict(report.check))
    if report.folded:
        parts.append(Text(f"{report.folded:,} constants of removed channels folded into the layers that read them"))
    if report.given_up:
        parts.append(Text(f"left whole because their removal did not verify: {', '.join(report.given_up)}", "yellow"))
    parts += recovery_table(report.recovery, rows)
    parts += quality_tables(report.quality, rows)
    parts += [Text(note, "yellow") for note in report.notes]
    parts += _interface(report.io, rows)
    before = report.before
    parts += branch_table(report.bypassed, "branches left out", before.macs, before.params, rows)
    parts += _more(len(report.bypassed), rows)
    lossless = bool(report.recipe.get("lossless"))
    parts += _cuts(report.groups, before, rows, "dead channels by group" if lossless else "groups that gave most")
    parts += _blocked(report.blocked, rows)
    return Group(*parts)


@render.register
def _family(report: FamilyReport, rows: int | None = _ROWS) -> RenderableType:
    return Group(*(render(member, min(rows, 2) if rows is not None else None) for member in report.members))


@render.register
def _analysis(report: AnalysisReport, rows: int | None = _ROWS) -> RenderableType:
    if report.explanations:
        return Text("\n\n".join(report.explanations.values()))
    parts: list[RenderableType] = [_heading(report.model), _facts(report)]
    if report.sensitivity is not None:
        return Group(*parts, *sensitivity_table(report.sensitivity, rows, report.plot))
    parts += _groups(report.groups, rows)
    cost = report.cost
    parts += branch_table(report.branches, "branches that can be left out (--depth)", cost.macs, cost.params, rows)
    parts += _more(len(report.branches), rows)
    if report.opaque:
        table = _table("operators that freeze what they touch", "node", "reason", "to unblock")
        for o in _some(report.opaque, rows):
            table.add_row(o.node, o.reason, o.mend or "-")
        parts += [table, *_more(len(report.opaque), rows)]
    return Group(*parts, *_blocked(report.blocked, rows))


@render.register
def _profile(report: ProfileReport, rows: int | None = _ROWS) -> RenderableType:
    sizes = ", ".join(f"{name} {_shape(shape)}" for name, shape in report.input_shapes.items())
    parts: list[RenderableType] = [
        _heading(report.model),
        Text(_line(report.cost)),
        Text(f"at input sizes {sizes}"),
        *_nodes(report.nodes, rows),
    ]
    if report.milliseconds is not None:
        parts.append(Text(f"{report.milliseconds:.3f} ms per run (median)", "bold"))
        parts += _times(report.times, rows)
    return Group(*parts)


@render.register
def _checkpoint(report: CheckpointReport, rows: int | None = _ROWS) -> RenderableType:
    table = _table("", "", "before", "after", "remains")
    for title, form, (old, new) in (("parameters", _amount, report.params), ("size", _bytes, report.bytes)):
        table.add_row(title, form(old), form(new), f"{new / old:.1%}" if old else "")
    parts: list[RenderableType] = [_heading(f"{report.model} -> {report.output}"), table]
    parts.append(Text(f"{report.cut} of {report.tensors} tensors cut; a checkpoint cannot be run, so none is verified"))
    parts += _config(report.config, rows)
    return Group(*parts, *(Text(note, "yellow") for note in report.notes))


@render.register
def _verify(report: VerifyReport, rows: int | None = _ROWS) -> RenderableType:  # noqa: ARG001 - one signature
    return Group(_heading(f"{report.model} -> {report.pruned}"), _verdict(report.check))


# -- parts -----------------------------------------------------------------------------------------------


def _heading(text: str) -> Text:
    return Text(text, "bold")


def _costs(before: Cost, after: Cost) -> Table:
    table = _table("", "", "before", "after", "remains")
    for name, form in (("params", _amount), ("macs", _amount), ("bytes", _bytes), ("memory", _bytes)):
        old, new = getattr(before, name), getattr(after, name)
        if old is None or new is None:
            continue
        title = {"macs": "MACs", "params": "parameters", "bytes": "size", "memory": "peak activations"}[name]
        table.add_row(title, form(old), form(new), f"{new / old:.1%}" if old else "")
    return table


def _verdict(check: Check) -> Text:
    return Text.assemble((check.status, _COLORS[check.status]), f": {check.text}")


def _interface(cuts: Sequence[IoCut], rows: int | None) -> Iterator[RenderableType]:
    if not cuts:
        return
    table = _table("inputs and outputs that changed", "name", "", "axis", "size", "kept positions")
    for cut in _some(cuts, rows):
        table.add_row(cut.name, cut.role, str(cut.axis), f"{cut.size} -> {len(cut.kept)}", _ranges(cut.kept))
    yield table
    yield from _more(len(cuts), rows)


def _cuts(cuts: Sequence[GroupCut], before: Cost, rows: int | None, title: str) -> Iterator[RenderableType]:
    if not cuts:
        return
    table = _table(title, "group", "kind", "units", "MACs saved alone", "parameters saved alone")
    for cut in _some(cuts, rows):
        macs = f"{cut.macs / before.macs:.1%}" if before.macs else ""
        params = f"{cut.params / before.params:.1%}" if before.params else ""
        table.add_row(cut.name, cut.kind, f"{cut.size} -> {cut.kept}", macs, params)
    yield table
    yield from _more(len(cuts), rows)


def _config(fields: Sequence[FieldChange], rows: int | None) -> Iterator[RenderableType]:
    if not fields:
        return
    table = _table("config.json", "field", "before", "after", "reason")
    for f in _some(fields, rows):
        new = "left" if f.reason else str(f.new)
        table.add_row(f.name, "-" if f.old is None else str(f.old), new, f.reason)
    yield table
    yield from _more(len(fields), rows)


def _facts(report: AnalysisReport) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for sizes in report.input_shapes:
        table.add_row("input sizes", ", ".join(f"{name} {_shape(shape)}" for name, shape in sizes.items()))
    table.add_row("parameters", _amount(report.cost.params))
    table.add_row("MACs", f"{_amount(report.cost.macs)}, {report.prunable_macs:.1%} in operators that can be cut")
    table.add_row("size", _bytes(report.cost.bytes))
    if report.cost.memory is not None:
        table.add_row("peak activations", _bytes(report.cost.memory))
    table.add_row("groups", f"{len(report.groups)} with {report.units:,} units")
    if report.fibres:
        units, choices = sum(f.units for f in report.fibres), sum(f.units * f.blocks for f in report.fibres)
        table.add_row(
            "choices", f"{units:,} of the units lie in blocks that choose for themselves: {choices:,} choices"
        )
    table.add_row("granularity", f"{report.granularity:.1%} of the channels can leave one by one")
    return table


def _groups(groups: Sequence[GroupInfo], rows: int | None) -> Iterator[RenderableType]:
    if not groups:
        yield Text("no group can be cut", "bold yellow")
        return
    table = _table("groups", "group", "kind", "units", "weight axes", "widest rows per unit")
    for group in _some(groups, rows):
        table.add_row(
            group.name, group.kind, f"{group.size:,}", str(len(group.axes)), str(max(r for _, _, r in group.axes))
        )
    yield table
    yield from _more(len(groups), rows)


def _blocked(blocked: Sequence[BlockedAxis], rows: int | None) -> Iterator[RenderableType]:
    if not blocked:
        return
    table = _table("blocked", "weight", "frozen", "by", "reason", "to unblock")
    for b in _some(blocked, rows):
        by = f"{b.op} {b.node}".strip()
        table.add_row(f"{b.tensor}[{b.axis}]", f"{b.positions} of {b.size}", by, b.reason, b.mend or "-")
    yield table
    yield from _more(len(blocked), rows)


def _nodes(nodes: Sequence[NodeCost], rows: int | None) -> Iterator[RenderableType]:
    macs, size = sum(n.macs for n in nodes), sum(n.bytes for n in nodes)
    table = _table("operators", "node", "op", "MACs", "", "parameters", "weights", "")
    for n in _some(nodes, rows):
        shares = _share(n.macs, macs), _share(n.bytes, size)
        table.add_row(n.name, n.op, _amount(n.macs), shares[0], _amount(n.params), _bytes(n.bytes), shares[1])
    yield table
    yield from _more(len(nodes), rows)


def _times(times: Sequence[NodeTime], rows: int | None) -> Iterator[RenderableType]:
    total = sum(t.milliseconds for t in times)
    table = _table("time by fused operator", "node", "op", "ms", "")
    for t in _some(times, rows):
        table.add_row(t.name, t.op, f"{t.milliseconds:.3f}", _share(t.milliseconds, total))
    yield table
    yield from _more(len(times), rows)


# -- bits ------------------------------------------------------------------------------------------------


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title or None, title_justify="left", title_style="bold", header_style="dim", box=None)
    for i, column in enumerate(columns):
        text = i == 0 or column in ("by", "kind", "reason", "to unblock", "op")
        table.add_column(column, justify="left" if text else "right", overflow="fold", no_wrap=not text)
    return table


def _some(entries: Sequence[_T], rows: int | None) -> Sequence[_T]:
    return entries if rows is None else entries[:rows]


def _more(count: int, rows: int | None) -> Iterator[Text]:
    if rows is not None and count > rows:
        yield Text(f"... and {count - rows} more (-v shows all)", "dim")


def _ranges(positions: Sequence[int]) -> str:
    """Runs of positions: "0-3, 7"."""
    runs: list[list[int]] = []
    for p in positions:
        if runs and runs[-1][1] == p - 1:
            runs[-1][1] = p
        else:
            runs.append([p, p])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _line(cost: Cost) -> str:
    peak = "" if cost.memory is None else f", {_bytes(cost.memory)} of activations at the peak"
    return f"{_amount(cost.macs)} MACs, {_amount(cost.params)} parameters, {_bytes(cost.bytes)}{peak}"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else ""


def _shape(shape: Sequence[int]) -> str:
    return "x".join(str(n) for n in shape) or "scalar"


def _amount(number: float) -> str:
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.2f} {letter}"
    return f"{number:,.0f}"


def _bytes(number: float) -> str:
    text = _amount(number)
    return f"{text}B" if text[-1].isalpha() else f"{text} B"
