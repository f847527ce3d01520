"""What the branches of a model cost, and what is saved without some of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from graphprune.cost.model import CostModel, itemsize
from graphprune.coupling.branches import Branch, find_branches
from graphprune.coupling.groups import DependencyGraph

_LEAST = 1e-3  # share of the MACs or parameters that a branch saves at least to be worth a look


@dataclass(frozen=True, slots=True)
class Saving:
    """What is saved, of the whole model's costs.

    Attributes:
        macs: Multiply-accumulates.
        params: Stored elements.
        bytes: Their bytes.
    """

    macs: int
    params: int
    bytes: int


class Branches:
    """The branches of a model that are worth their while, with what they cost.

    Attributes:
        found: The branches, in the order of their sums.
    """

    def __init__(self, deps: DependencyGraph) -> None:
        model = CostModel(deps)
        none = np.zeros(deps.state.store.count, bool)
        self._macs: Mapping[str, int] = model.node_macs(none)
        self._weights = {w.source: w for w in deps.source.weights.values() if w.origin != "fill"}
        self._users: dict[str, set[str]] = {}
        for node in deps.source.nodes:
            for name in (*node.inputs, *node.captures):
                if name in deps.source.weights:
                    self._users.setdefault(deps.source.weights[name].source, set()).add(node.name)
        dense = model.costs(none)
        self.found: list[Branch] = []
        for branch in find_branches(deps.source):
            saving = self.saving([branch])
            if saving.macs > _LEAST * dense.macs or saving.params > _LEAST * dense.params:
                self.found.append(branch)

    def saving(self, branches: Iterable[Branch]) -> Saving:
        """What goes with some branches; what several of them hold counts once."""
        branches = list(branches)
        nodes = {n for b in branches for n in b.nodes}
        weights = [self._weights[n] for n in self.weights(*branches)]
        sizes = [int(np.prod(w.shape, dtype=np.int64)) for w in weights]
        return Saving(
            macs=sum(self._macs.get(n, 0) for n in nodes),
            params=sum(sizes),
            bytes=int(sum(n * itemsize(w) for n, w in zip(sizes, weights, strict=True))),
        )

    def weights(self, *branches: Branch) -> list[str]:
        """Stored tensors that only some branches read, by their names in the file."""
        nodes = {n for b in branches for n in b.nodes}
        return [n for n, users in self._users.items() if n in self._weights and users <= nodes]
