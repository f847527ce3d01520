"""In which order branches are worth leaving out: by what the outputs lose for what is saved.

Every branch is left out alone and the outputs are compared with the original's. The best is taken, and what the others
would cost on top of it is measured anew when they come to the front, as the gain of a branch mostly falls with each
one that went before.

Source: Minoux, "Accelerated greedy algorithms for maximizing submodular set functions", 1978.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphprune.cost.branches import Branches, Saving
from graphprune.coupling.branches import Branch
from graphprune.graph.bypass import bypassed_model
from graphprune.graph.model import Array, Bypass, Graph
from graphprune.graph.run import CannotRun
from graphprune.recover.error import float_outputs, relative_error
from graphprune.verify.answers import answers

_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Step:
    """A branch that is left out next.

    Attributes:
        branch: The branch.
        error: Squared error of the outputs relative to their variance, without this branch and all before it.
        saving: What is saved without them.
    """

    branch: Branch
    error: float
    saving: Saving


class Trials:
    """Compares models with the original on some inputs.

    Args:
        graph: The original, or a graph that bypasses branches of it already.
        feeds: The inputs.
    """

    def __init__(self, graph: Graph, feeds: Sequence[Mapping[str, Array]]) -> None:
        self.graph, self.feeds = graph.origin, feeds
        self._less = graph.bypassed
        self._places = float_outputs(self.graph)
        self._wanted = self._outputs(None)
        self._known: dict[frozenset[Bypass], float] = {}

    def error(self, model: object) -> float:
        """Squared error of a model's outputs relative to their variance; infinite where it does not run."""
        try:
            return relative_error(self._wanted, self._outputs(model))
        except CannotRun:
            return float("inf")

    def without(self, bypasses: Sequence[Bypass]) -> float:
        """The same for the graph without some branches."""
        key = frozenset(bypasses)
        if key not in self._known:
            self._known[key] = self.error(bypassed_model(self.graph, [*self._less, *bypasses]))
        return self._known[key]

    def _outputs(self, model: object | None) -> list[list[Array]]:
        run = answers(self.graph, model)
        return [[made[i] for i in self._places] for made in map(run, self.feeds)]


def ordered(
    branches: Branches,
    trials: Trials,
    needed: Mapping[str, float],
    *,
    most: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Step]:
    """Branches in the order in which they are left out, until enough is saved or none is left.

    Args:
        branches: The branches.
        trials: Measures models.
        needed: What has to be saved of "macs", "params" and "bytes".
        most: Branches at most.
        progress: Called with the branch that is tried.
    """
    waiting: list[tuple[float, int, Branch]] = []
    start = trials.without([])
    for branch in branches.found if most is None or most > 0 else ():
        progress(f"without {branch.name}")
        price = max(trials.without([branch.bypass]) - start, 0.0) / max(
            _share(branches.saving([branch]), needed), _TINY
        )
        waiting.append((price, 0, branch))
    out: list[Step] = []
    while waiting and len(out) < (most or len(branches.found)):
        waiting.sort(key=lambda w: w[0])
        price, after, branch = waiting.pop(0)
        chosen = [s.branch for s in out]
        error, before = trials.without([b.bypass for b in (*chosen, branch)]), out[-1].error if out else start
        saving = branches.saving([*chosen, branch])
        more = _share(saving, needed) - (_share(out[-1].saving, needed) if out else 0.0)
        if more <= _TINY:
            continue
        if after < len(out):
            progress(f"without {branch.name} after {len(out)} others")
            waiting.append((max(error - before, 0.0) / more, len(out), branch))
            continue
        out.append(Step(branch, error, saving))
        gone = {n for s in out for n in s.branch.nodes}
        waiting = [w for w in waiting if _open(w[2], gone, [s.branch for s in out])]
        if _share(saving, needed, least=True) >= 1:
            break
    return out


def _share(saving: Saving, needed: Mapping[str, float], *, least: bool = False) -> float:
    """How much of what is needed is saved: on average over the costs, or of that which lacks most."""
    shares = [min(getattr(saving, name) / max(amount, 1), 1.0) for name, amount in needed.items()]
    return float(min(shares) if least else np.mean(shares))


def _open(branch: Branch, gone: set[str], chosen: Sequence[Branch]) -> bool:
    """Whether a branch is still there, and its sum still has something to leave out."""
    sums = [b.bypass for b in chosen if b.bypass.node == branch.bypass.node]
    return branch.bypass.node not in gone and len(sums) < len(branch.skip) and branch.bypass not in sums
