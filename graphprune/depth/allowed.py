"""Which branches the user's patterns allow to leave out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphprune.budget.selection import KIND, matching
from graphprune.budget.targets import Constraints
from graphprune.coupling.branches import Branch, own_weights
from graphprune.coupling.groups import DependencyGraph


def allowed_branches(deps: DependencyGraph, found: Iterable[Branch], constraints: Constraints) -> list[Branch]:
    """Branches none of whose nodes and weights an ``ignore`` names, and all of whose weights an ``only`` names.

    A kind of group names the weights of those of its groups that lie in the branch with all they have.
    """
    kept = {b.name: b for b in found}
    for pattern in constraints.ignore:
        named = _named(deps, pattern)
        kept = {n: b for n, b in kept.items() if not _inside(deps, b, pattern, named)}
    if constraints.only:
        wanted = set().union(*(_named(deps, p) for p in constraints.only))
        kept = {n: b for n, b in kept.items() if own_weights(deps.source, b.nodes).keys() <= wanted}
    return list(kept.values())


def _named(deps: DependencyGraph, pattern: str) -> set[str]:
    """Stored tensors, by their names in the file, and values that a pattern names."""
    weights = deps.source.weights
    return {weights[n].source if n in weights else n for n in _tensors(deps, pattern)}


def _tensors(deps: DependencyGraph, pattern: str) -> Sequence[str]:
    if pattern.startswith(KIND):
        kind = pattern.removeprefix(KIND).strip()
        return [m.tensor for g in deps.groups if g.kind == kind for m in g.members]
    return list(matching(deps, pattern))


def _inside(deps: DependencyGraph, branch: Branch, pattern: str, named: set[str]) -> bool:
    own = own_weights(deps.source, branch.nodes).keys()
    if not pattern.startswith(KIND):
        nodes = set(branch.nodes)
        made = {v for n in deps.source.nodes if n.name in nodes for v in n.outputs}
        return bool(named & (own | made))
    kind, weights = pattern.removeprefix(KIND).strip(), deps.source.weights
    return any({weights[m.tensor].source for m in g.members} <= own for g in deps.groups if g.kind == kind)
