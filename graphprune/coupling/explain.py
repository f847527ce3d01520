"""The dependency graph as a networkx graph, and in words."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphprune import rules
from graphprune.algebra import Axis, Reason
from graphprune.coupling.branches import find_branches, own_weights
from graphprune.coupling.groups import DependencyGraph, Group
from graphprune.errors import InputError
from graphprune.graph.model import Node

if TYPE_CHECKING:
    import networkx

_LISTED = 12
_UNUSED = "no operator reads it as channels"


def build(deps: DependencyGraph) -> networkx.Graph[Any]:
    """Groups and tensor axes as a bipartite graph.

    Nodes are group names (``kind="group"``, ``size``, ``role``, such as "heads") and ``(tensor, axis)`` pairs
    (``kind="axis"``, ``size``, ``weight``; ``reason`` and ``blocked``, a count, where positions are frozen). Edges
    carry ``positions``: for each unit of the group, the positions it occupies on that axis.
    """
    import networkx as nx

    graph = nx.Graph()
    for group in deps.groups:
        graph.add_node(group.name, kind="group", size=group.size, role=group.kind)
    owner = _owners(deps)
    links: dict[int, dict[str, list[list[int]]]] = {}
    for name, axes in deps.types.items():
        for a, axis in enumerate(axes):
            if axis is None or (axis.units is None and name not in deps.source.weights):
                continue
            graph.add_node((name, a), kind="axis", size=axis.n, weight=name in deps.source.weights)
            if id(axis) not in links:
                links[id(axis)] = _links(deps, axis, owner)
            for group_name, positions in links[id(axis)].items():
                graph.add_edge(group_name, (name, a), positions=positions)
    for b in deps.blocked:
        graph.nodes[b.tensor, b.axis].update(reason=str(b.reason), blocked=b.positions)
    return graph


def explain(deps: DependencyGraph, name: str) -> str:
    """In words: what a group spans and through which operators, or why a tensor is frozen.

    Args:
        deps: The dependency graph.
        name: A group, a tensor (or one axis of it, "tensor[axis]"), or a node.

    Raises:
        InputError: Nothing has this name.
    """
    group = next((g for g in deps.groups if g.name == name), None)
    if group is not None:
        return _group_text(deps, group)
    tensors = _tensors(deps, name)
    if tensors:
        return "\n".join(_tensor_text(deps, tensor) for tensor in tensors)
    node = next((n for n in deps.source.nodes if n.name == name or name in n.fused), None)
    if node is not None:
        return "\n".join([_node_text(deps, node), *_branch_lines(deps, node.name)])
    stem, _, axis = name.removesuffix("]").rpartition("[")
    if stem in deps.types and axis.isdigit() and int(axis) < len(deps.types[stem]):
        return f"{name}: {_axis_text(deps, stem, int(axis))}"
    raise InputError(f"{deps.source.name}: nothing is called {name!r}{_near(deps, name)}")


def _near(deps: DependencyGraph, name: str) -> str:
    known = [*(g.name for g in deps.groups), *deps.source.weights, *(n.name for n in deps.source.nodes)]
    close = difflib.get_close_matches(name, known, 3, 0.5) or [k for k in known if name and name in k][:3]
    return f"; did you mean {' or '.join(dict.fromkeys(close))}?" if close else "; see analyze for the names"


def _tensors(deps: DependencyGraph, name: str) -> list[str]:
    """The tensor of that name, or the uses of the shared constant of that name."""
    if name in deps.types:
        return [name]
    uses = [w.name for w in deps.source.weights.values() if w.source == name]
    return uses or ([name] if name in deps.source.values else [])


# -- groups ----------------------------------------------------------------------------------------------


def _group_text(deps: DependencyGraph, group: Group) -> str:
    lines = [f"group {group.name}: {group.size} units ({group.kind}); a unit is removed from all of these at once"]
    for m in group.members:
        size = deps.source.weights[m.tensor].shape[m.axis]
        lines.append(f"  {m.tensor} axis {m.axis}: {_rows(m.rows)} per unit, {m.rows * group.size} of {size}")
    lines += [f"  {line}" for line in _fibre_lines(deps, group)]
    nodes = list(_through(deps, group))
    kinds = ", ".join(f"{count} {op}" for op, count in Counter(n.key for n in nodes).most_common())
    lines.append(f"  through {len(nodes)} operators: {kinds}")
    lines.append(f"  {_some([n.name for n in nodes])}")
    return "\n".join(lines)


def _fibre_lines(deps: DependencyGraph, group: Group) -> Iterator[str]:
    """Whether blocks choose for themselves which units leave, and what keeps them from it."""
    for factor in deps.fibres.factors:
        if factor.group == group.name:
            yield f"each of {factor.number} blocks chooses for itself which of its {factor.size} leave, equally many"
    if group.name in deps.fibres.pinned:
        yield f"the same units leave every block: {deps.fibres.pinned[group.name]}"


def _rows(count: int) -> str:
    return "1 position" if count == 1 else f"{count} positions"


def _through(deps: DependencyGraph, group: Group) -> Iterator[Node]:
    """Nodes that read or make a tensor the group cuts."""
    memo: dict[int, bool] = {}

    def cuts(name: str) -> bool:
        for axis in deps.types.get(name) or ():
            if axis is not None and axis.units is not None:
                if id(axis) not in memo:
                    memo[id(axis)] = bool(np.isin(axis.units, group.units).any())
                if memo[id(axis)]:
                    return True
        return False

    return (n for n in deps.source.nodes if any(cuts(name) for name in (*n.inputs, *n.outputs) if name))


# -- tensors and nodes -----------------------------------------------------------------------------------


def _tensor_text(deps: DependencyGraph, name: str) -> str:
    kind = "weight" if name in deps.source.weights else "tensor"
    axes = deps.types.get(name)
    if axes is None:
        return f"{kind} {name}: not cut; {_UNUSED}"
    shape = "x".join(str(n) for n in deps.source.values[name].shape or ())
    return "\n".join([f"{kind} {name} ({shape or 'scalar'})", *_axis_lines(deps, name, len(axes))])


def _axis_lines(deps: DependencyGraph, name: str, rank: int) -> list[str]:
    return [f"  axis {a}: {_axis_text(deps, name, a)}" for a in range(rank)]


def _axis_text(deps: DependencyGraph, name: str, a: int) -> str:
    """Which groups cut an axis, and what freezes the rest of it."""
    axis = deps.types[name][a]
    if axis is None:
        return f"whole; {_UNUSED}"
    if axis.parts:
        return "its length follows the input size; the fixed factors of it are cut with their groups"
    parts = []
    for group_name, positions in _links(deps, axis, _owners(deps)).items():
        count = len({p for unit in positions for p in unit})
        units = sum(bool(unit) for unit in positions)
        parts.append(f"{count} of {axis.n} positions cut with group {group_name} ({units} units)")
    parts += [f"{count} of {axis.n} frozen by {_reason_text(r)}" for r, count in _frozen(deps, name, a)]
    return "; ".join(parts)


def _frozen(deps: DependencyGraph, name: str, a: int) -> list[tuple[Reason, int]]:
    """Reasons of an axis with the number of positions each freezes, most first."""
    raw = deps.state.types[name][a]
    if raw is None:
        return []
    store = deps.state.store
    why = store.why(raw)
    final = deps.types[name][a]
    stuck = why[why > 0] if final is None or final.units is not None else why
    return [(store.reasons[i], count) for i, count in Counter(stuck.tolist()).most_common()]


def _reason_text(reason: Reason) -> str:
    text = str(reason) or "being of one position, or no operator that cuts it"
    return f"{text} (to unblock: {reason.mend})" if reason.mend else text


def _node_text(deps: DependencyGraph, node: Node) -> str:
    rule = rules.find(node)
    head = f"node {node.name}: {node.key}"
    opaque = deps.state.opaque.get(node.name)
    if opaque is not None:
        head += f"; everything it touches is frozen: {opaque}"
    elif rule is not None:
        head += f" (rule {rule.kind})"
    lines = [head]
    for role, names in (("reads", node.inputs), ("makes", node.outputs)):
        for name in names:
            if name in deps.types:
                shape = "x".join(str(n) for n in deps.source.values[name].shape or ())
                lines.append(f" {role} {name} ({shape or 'scalar'})")
                lines += [f" {line}" for line in _axis_lines(deps, name, len(deps.types[name]))]
    return "\n".join(lines)


def _branch_lines(deps: DependencyGraph, name: str) -> Iterator[str]:
    """What would go with each operand of a sum that can be left out."""
    for branch in find_branches(deps.source):
        if branch.bypass.node != name:
            continue
        weights = own_weights(deps.source, branch.nodes)
        elements = sum(int(np.prod(shape, dtype=np.int64)) for shape in weights.values())
        yield f" operand {branch.bypass.slot}, {branch.bypass.branch}, can be left out (--depth); with it go"
        yield f"  {len(branch.nodes)} operators: {_some(branch.nodes)}"
        yield f"  {len(weights)} weights with {elements:,} elements: {_some(list(weights))}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{', '.join(names[:_LISTED])}{more}"


# -- positions -------------------------------------------------------------------------------------------


def _owners(deps: DependencyGraph) -> np.ndarray[Any, Any]:
    """Number of the group of every unit id, -1 for units that no group holds."""
    out = np.full(deps.state.store.count, -1, np.int32)
    for number, group in enumerate(deps.groups):
        out[group.units] = number
    return out


def _links(deps: DependencyGraph, axis: Axis, owner: np.ndarray[Any, Any]) -> dict[str, list[list[int]]]:
    """For each group that cuts an axis: the positions of each of its units, in the group's order of units."""
    if axis.units is None:
        return {}
    where: dict[int, list[int]] = {}
    for position, row in enumerate(axis.units.tolist()):
        for unit in dict.fromkeys(row):
            if unit:
                where.setdefault(unit, []).append(position)
    numbers = sorted({int(owner[unit]) for unit in where} - {-1})
    return {deps.groups[n].name: _positions(deps.groups[n].units.tolist(), where) for n in numbers}


def _positions(units: Sequence[int], where: dict[int, list[int]]) -> list[list[int]]:
    return [where.get(unit, []) for unit in units]


def why_nothing(deps: DependencyGraph) -> str:
    """One line with the most frequent reasons that block the model."""
    weight: dict[str, float] = {}
    for b in deps.blocked:
        size = float(np.prod(deps.source.weights[b.tensor].shape))
        weight[str(b.reason)] = weight.get(str(b.reason), 0.0) + size
    opaque = dict.fromkeys(deps.state.opaque.values())
    reasons = [*opaque, *sorted(weight, key=lambda r: -weight[r])][:4]
    detail = "; ".join(reasons) or "it has no float weights that a rule can label"
    return f"{deps.source.name}: nothing can be pruned: {detail}"
