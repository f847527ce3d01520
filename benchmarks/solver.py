"""Time, peak memory and loss of the solver, on made-up networks of any size and on real graphs.

`python -m benchmarks.solver` writes results/solver.json and results/solver.md. A made-up network is a chain of
convolutions with residual streams: each layer reads one group of channels and writes another, every eighth group is
a wide residual stream that the layers around it share. Three budgets hold at once: MACs, parameters and peak
activation memory at half of the original. Real graphs, or the ONNX files named, are under four budgets half-way between
the original and the smallest model allowed. Every row is measured in a process of its own on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from benchmarks.common import MARK, header, peak_kib, table, write_results
from graphprune import api
from graphprune.algebra import Axis
from graphprune.budget.planner import Planner
from graphprune.budget.solver import ALLOCATIONS, solve
from graphprune.budget.targets import Constraints
from graphprune.cost.lengths import Lengths
from graphprune.cost.measure import Measure, product, products
from graphprune.coupling.groups import Group, Member
from graphprune.errors import InfeasibleError

SIZES = (100, 300, 500, 1000, 3000, 10_000)
WIDTH = 64
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
        alive = [sorted({i, j, int(stream[i])}) for i, j in layers]
        rows = np.repeat(np.arange(len(alive)), [len(a) for a in alive])
        table = csr_array((np.ones(len(rows)), (rows, np.concatenate(alive))), shape=(len(alive), groups))
        self.measures["memory"] = Measure("memory", np.arange(groups)[:, None], product(4 * area), table)

    def kept(self, removed: np.ndarray) -> np.ndarray:
        """Kept length of every axis."""
        return self.lengths.kept(removed)

    def emptied(self, removed: np.ndarray) -> list[Axis]:
        """Axes that would lose all their positions."""
        return [self.lengths.axes[i] for i in np.flatnonzero(self.kept(removed) == 0)]


def made_up(groups: int, align: int, allocation: str) -> dict[str, Any]:
    """One made-up problem, solved once."""
    made = MadeUp(groups, WIDTH)
    none = np.zeros(made.state.store.count, bool)
    limits = {name: int(m.total(made.kept(none)) * SHARE) for name, m in made.measures.items()}

    def solved() -> np.ndarray:
        return solve(
            made,  # type: ignore[arg-type]
            made.scores,
            made,  # type: ignore[arg-type]
            limits,
            constraints=Constraints(align=align),
            allowed=~none,
            allocation=allocation,
        )

    row, units = _timed(solved)
    none[units] = True
    use = {name: round(m.total(made.kept(none)) / limits[name], 4) for name, m in made.measures.items()}
    lost = float(made.scores[units].sum() / made.scores.sum())
    return {"name": f"{groups} x {WIDTH}", "align": align, "allocation": allocation, **row, "lost": lost, "use": use}


def real(path: str, align: int, allocation: str) -> dict[str, Any]:
    """One ONNX file under four budgets, between the original and the smallest model that is allowed."""
    deps = api.analyze(path)
    planner = Planner.from_options(deps, {"ratio": 0.5, "align": align, "allocation": allocation})
    least = api.plan(deps, ratio=0.9, align=align).after
    planner.ratio = None
    dense = {n: getattr(planner.dense, n) for n in ("macs", "params", "bytes", "memory")}
    planner.limits = {n: int((d + least[n]) / 2) for n, d in dense.items() if least[n] < d}
    row, units = _timed(planner.units)
    after = planner.cost.costs(planner.deps.cut(units).removed)
    use = {name: round(getattr(after, name) / limit, 4) for name, limit in planner.limits.items()}
    lost = float(planner.scores[units].sum() / sum(planner.scores[g.units].sum() for g in planner.deps.groups))
    name = f"{Path(path).stem} ({len(planner.deps.groups)} groups)"
    return {"name": name, "align": align, "allocation": allocation, **row, "lost": lost, "use": use}


def _timed(work: Any) -> tuple[dict[str, Any], np.ndarray]:
    before = peak_kib()
    start = time.perf_counter()
    units = work()
    seconds = time.perf_counter() - start
    grown = (peak_kib() - before) / 1024
    return {"seconds": round(seconds, 2), "megabytes": round(grown)}, units


def _apart(problem: str, align: int, allocation: str) -> dict[str, Any]:
    """One row in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.solver", "--one", problem, str(align), allocation]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            row: dict[str, Any] = json.loads(line.removeprefix(MARK))
            return row
    return {"name": problem, "align": align, "allocation": allocation, "error": done.stderr.strip()[-300:]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time, memory and loss of the solver.")
    parser.add_argument("files", nargs="*", help="ONNX files to solve beside the made-up networks")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="groups of the made-up networks")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        problem, align, allocation = args.one
        try:
            row = (
                made_up(int(problem), int(align), allocation)
                if problem.isdigit()
                else real(problem, int(align), allocation)
            )
        except InfeasibleError as error:
            row = {"name": Path(problem).stem, "align": int(align), "allocation": allocation, "error": str(error)}
        print(MARK + json.dumps(row))
        return
    rows = []
    for problem in [s for s in args.sizes.split(",") if s] + (args.files or graphs()):
        for align in (8, 1):
            for allocation in ALLOCATIONS[1:]:
                rows.append(_apart(problem, align, allocation))
                print(rows[-1], flush=True)
    lines = [
        (r["name"], r["align"], r["allocation"], r["seconds"], r["megabytes"], f"{r['lost']:.2%}", _use(r["use"]))
        if "error" not in r
        else (r["name"], r["align"], r["allocation"], "-", "-", "-", r["error"])
        for r in rows
    ]
    columns = ("problem", "align", "allocation", "seconds", "MB more", "importance lost", "share of each limit used")
    text = [header("The solver"), __doc__ or "", table(lines, columns)]
    write_results("solver", "\n".join(text), rows)


def graphs() -> list[str]:
    """Real graphs, fetched or exported on first use: the models of the accuracy benchmarks and two larger ones."""
    from benchmarks.accuracy.tasks import TASKS
    from benchmarks.accuracy.vision import ResNet50
    from tests.assets import fetch

    return [str(path) for path in (*(t.path() for t in (*TASKS.values(), ResNet50())), fetch("picodet_layout"))]


def _use(use: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in use.items())


if __name__ == "__main__":
    main()
