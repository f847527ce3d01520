"""Time, peak memory and loss of the solver, on made-up networks of any size and on real graphs.

`python -m benchmarks.solver` writes results/solver.json and results/solver.md. A made-up network is a chain of
convolutions with residual streams: each layer reads one group of channels and writes another, every eighth group is
a wide residual stream that the layers around it share. Three budgets hold at once: MACs, parameters and peak
activation memory at half of the original.
"""

from __future__ import annotations

import resource
import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from graphprune.algebra import Axis
from graphprune.budget.solver import solve
from graphprune.budget.targets import Constraints
from graphprune.cost.lengths import Lengths
from graphprune.cost.measure import Measure, product, products
from graphprune.coupling.groups import Group, Member

SIZES = (100, 300, 500, 1000, 3000, 10_000)
SHARE = 0.5


class MadeUp:
    """A network of ``groups`` groups of ``width`` units: what the solver needs of a dependency graph and of costs."""

    def __init__(self, groups: int, width: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.lengths = Lengths(None)  # type: ignore[arg-type]
        units = np.arange(1, groups * width + 1, dtype=np.int32).reshape(groups, width)
        axes = [Axis(width, row[:, None]) for row in units]
        for axis in axes:
            self.lengths.number(axis)
        self.groups = tuple(
            Group(f"layer{i}.weight[0]", row, (Member(f"layer{i}.weight", 0, 1, weight=True),))
            for i, row in enumerate(units)
        )
        self.state = SimpleNamespace(store=SimpleNamespace(count=groups * width + 1))
        self.scores = np.append(0.0, rng.gamma(2.0, 0.5, (groups, width)).ravel())
        area = 4.0 ** rng.integers(2, 7, groups)
        stream = np.arange(groups) // 8 * 8
        layers = [(i, int(stream[i - 1]) if i % 2 else i - 1) for i in range(1, groups)]
        one = groups
        terms = {
            "macs": [(9 * area[i], [i, j]) for i, j in layers],
            "params": [(9.0, [i, j]) for i, j in layers] + [(2.0, [i]) for i in range(groups)],
        }
        self.measures = {}
        for name, rows in terms.items():
            index, factor = products(rows, one)
            self.measures[name] = Measure(name, index, product(factor))
        from scipy.sparse import csr_array

        alive = [sorted({i, j, int(stream[i])}) for i, j in layers]
        rows = np.repeat(np.arange(len(alive)), [len(a) for a in alive])
        table = csr_array((np.ones(len(rows)), (rows, np.concatenate(alive))), shape=(len(alive), groups))
        self.measures["memory"] = Measure("memory", np.arange(groups)[:, None], product(4 * area), table)

    def kept(self, removed: np.ndarray) -> np.ndarray:
        """Kept lengths."""
        return self.lengths.kept(removed)

    def emptied(self, removed: np.ndarray) -> list[Axis]:
        """Axes without positions."""
        return [self.lengths.axes[i] for i in np.flatnonzero(self.kept(removed) == 0)]


def run(groups: int, width: int, align: int, allocation: str) -> dict[str, Any]:
    """One problem, solved once."""
    made = MadeUp(groups, width)
    dense = made.kept(np.zeros(made.state.store.count, bool))
    limits = {name: int(m.total(dense) * SHARE) for name, m in made.measures.items()}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    units = solve(
        made,  # type: ignore[arg-type]
        made.scores,
        made,  # type: ignore[arg-type]
        limits,
        constraints=Constraints(align=align),
        allowed=np.ones(made.state.store.count, bool),
        allocation=allocation,
    )
    seconds = time.perf_counter() - start
    removed = np.zeros(made.state.store.count, bool)
    removed[units] = True
    after = made.kept(removed)
    return {
        "groups": groups,
        "width": width,
        "align": align,
        "allocation": allocation,
        "seconds": round(seconds, 2),
        "megabytes": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024),
        "loss": round(float(made.scores[units].sum() / made.scores.sum()), 5),
        "use": {name: round(m.total(after) / limits[name], 4) for name, m in made.measures.items()},
    }
