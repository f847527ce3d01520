"""What the branches of a model cost, and what is saved without some of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from graphprune.cost.model import CostModel, itemsize
from graphprune.coupling.branches import Branch, find_branches, own_weights
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
        self._graph = deps.source
        self._sizes = {w.source: itemsize(w) for w in deps.source.weights.values()}
        dense = model.costs(none)
        self.found: list[Branch] = []
        for branch in find_branches(deps.source):
            saving = self.saving([branch])
            if saving.macs > _LEAST * dense.macs or saving.params > _LEAST * dense.params:
                self.found.append(branch)

    def saving(self, branches: Iterable[Branch]) -> Saving:
        """What goes with some branches; what several of them hold counts once."""
        nodes = {n for b in branches for n in b.nodes}
        elements = {n: int(np.prod(s, dtype=np.int64)) for n, s in own_weights(self._graph, nodes).items()}
        return Saving(
            macs=sum(self._macs.get(n, 0) for n in nodes),
            params=sum(elements.values()),
            bytes=int(sum(n * self._sizes[name] for name, n in elements.items())),
        )
