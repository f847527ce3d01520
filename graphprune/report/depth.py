"""Branches that can be left out or were, as data and as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from graphprune.cost.branches import Branches
from graphprune.coupling.groups import DependencyGraph, analyze
from graphprune.graph.model import Graph


class BranchInfo(BaseModel):
    """A summand of a sum that can be left out, or was.

    Attributes:
        name: Name of the sum and number of the operand.
        value: The operand.
        nodes: Nodes that go with it.
        macs: MACs saved when it alone goes.
        params: Parameters saved when it alone goes.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    value: str
    nodes: int
    macs: int
    params: int


def branch_infos(deps: DependencyGraph) -> tuple[BranchInfo, ...]:
    """The branches of a model, in the order of their sums."""
    branches = Branches(deps)
    out = []
    for branch in branches.found:
        saved = branches.saving([branch])
        made = branch.bypass.branch
        info = BranchInfo(name=branch.name, value=made, nodes=len(branch.nodes), macs=saved.macs, params=saved.params)
        out.append(info)
    return tuple(out)


def bypassed_infos(graph: Graph) -> tuple[BranchInfo, ...]:
    """Branches that a graph lacks, each with what it costs in the original."""
    if graph.whole_graph is None:
        return ()
    known = {(b.name, b.value): b for b in branch_infos(analyze(graph.whole_graph))}
    names = [(f"{b.node}:{b.slot}", b.branch) for b in graph.bypassed]
    return tuple(known.get(n, BranchInfo(name=n[0], value=n[1], nodes=0, macs=0, params=0)) for n in names)


def branch_table(found: Sequence[BranchInfo], title: str, macs: int, params: int, rows: int | None) -> Iterator[Table]:
    """What each branch saves, of a model with so many MACs and parameters."""
    if not found:
        return
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None)
    for k, column in enumerate(("sum", "nodes", "MACs saved alone", "parameters saved alone")):
        table.add_column(column, justify="right" if k else "left", overflow="fold", no_wrap=bool(k))
    for b in found if rows is None else found[:rows]:
        shares = (f"{part / whole:.1%}" if whole else "" for part, whole in ((b.macs, macs), (b.params, params)))
        table.add_row(b.name, str(b.nodes), *shares)
    yield table
