"""Measures one file: graphprune at some alignments, or a peer. Each job runs in a process of its own."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import graphprune as gp
from benchmarks.check import Feed, defect, interface_change, names_change, short, stale
from benchmarks.common import Row, emit, fingerprint
from benchmarks.obstacles import fixed_macs, free_share, obstacles
from graphprune.cost.model import CostModel
from graphprune.errors import InfeasibleError
from graphprune.graph.run import random_feeds

_FLOOR = re.compile(r"macs [\d,]+ is out of reach: the best reachable is ([\d,]+)")


def dense_macs(deps: Any) -> int:
    """MACs of a model as it is."""
    return CostModel(deps).costs(deps.cut(np.zeros(0, np.int32)).removed).macs


def told(error: Exception, path: Path) -> str:
    """Kind and message of an error, without the folder the file happens to lie in."""
    return f"{type(error).__name__}: {short(str(error).replace(str(path), path.name), 900)}"


class Clock:
    """Seconds per step, from the names that a long call reports."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.step, self.since = "", time.perf_counter()

    def __call__(self, step: str) -> None:
        """Begin a step."""
        now = time.perf_counter()
        if self.step:
            self.seconds[self.step] = self.seconds.get(self.step, 0.0) + now - self.since
        self.step, self.since = step, now

    def done(self) -> dict[str, float]:
        """All steps so far."""
        self("")
        return {step: round(value, 3) for step, value in self.seconds.items()}


@contextlib.contextmanager
def timed(row: Row, name: str) -> Iterator[None]:
    """Note the seconds of a block."""
    started = time.perf_counter()
    yield
    row.setdefault("seconds", {})[name] = round(time.perf_counter() - started, 3)


def prune_once(path: Path, graph: Any, macs: str | int, align: int | str, feeds: list[Feed]) -> Row:
    """Prune, write, and check the written file."""
    clock = Clock()
    with tempfile.TemporaryDirectory(prefix="graphprune-bench-") as folder:
        small = Path(folder) / "small.onnx"
        try:
            result = gp.prune(graph, small, macs=macs, align=align, progress=clock)
        except Exception as error:
            return {"error": told(error, path), "seconds": clock.done()}
        seconds = clock.done()
        verdict = result.verdict
        return {
            "seconds": seconds,
            "reached": result.after.macs / result.before.macs,
            "align": result.plan.recipe["align"],
            "params": result.after.params / result.before.params,
            "passed": verdict is not None and verdict.passed,
            "rel_error": verdict.error if verdict else None,
            "tolerance": verdict.tolerance if verdict else None,
            "frozen": list(result.frozen),
            "defect": defect(path, small, feeds),
            "stale": stale(path, small),
            "interface": interface_change(path, small),
            "names": names_change(path, small),
            "bytes": sum(f.stat().st_size for f in Path(folder).iterdir()) / path.stat().st_size,
        }


def ours(job: Row, row: Row) -> Iterator[None]:
    """Everything about graphprune on one file; yields whenever the row has grown."""
    path = Path(job["path"])
    row["sources"] = fingerprint()
    row["phase"] = "load"
    yield
    with timed(row, "load"):
        graph = gp.load(path)
    row["nodes"], row["phase"] = len(graph.nodes), "analysis"
    yield
    with timed(row, "analysis"):
        deps = gp.analyze(graph)
    row["groups"], row["units"] = len(deps.groups), deps.units
    row["granularity"] = round(deps.granularity(), 4)
    free = free_share(deps)
    row["free"] = None if free is None else round(free, 4)
    row["prunable"] = round(CostModel(deps).prunable_share(), 4)
    row["macs"], row["parameters"] = dense_macs(deps), graph.parameters()
    row.update(obstacles(deps))
    row["fixed"] = fixed_macs(deps)
    feeds = random_feeds(graph, 1, 0)
    row["runs"] = {}
    for align in job["aligns"]:
        row["phase"] = f"prune with align {align}"
        yield
        result = prune_once(path, graph, job["macs"], align, feeds)
        floor = _FLOOR.search(result.get("error", ""))
        if floor and result["error"].startswith(InfeasibleError.__name__):
            lowest = int(floor[1].replace(",", ""))
            again = prune_once(path, graph, lowest, align, feeds) if 0 < lowest < row["macs"] else {}
            proven = "bisect" not in result["seconds"]  # else groups were given up first
            result = {**again, "floor": lowest / row["macs"], "proven": proven, "infeasible": result["error"]}
        row["runs"][str(align)] = result
    row["rss_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    row["phase"] = "end"
    yield


def peer(job: Row, row: Row) -> Iterator[None]:
    """The peer onnxsim on one file."""
    import onnxsim

    path = Path(job["path"])
    row["phase"] = "prune"
    yield
    with tempfile.TemporaryDirectory(prefix="graphprune-bench-") as folder:
        small = Path(folder) / "small.onnx"
        model = onnx.load(path)
        with timed(row, "prune"):
            pruned = onnxsim.apply_structured_pruning(model, job["sparsity"])
        onnx.save(pruned, small)
        row["bytes"] = small.stat().st_size / path.stat().st_size
        row["phase"] = "check"
        yield
        graph = gp.load(path)
        row["defect"] = defect(path, small, random_feeds(graph, 1, 0))
        row["stale"] = stale(path, small)
        row["interface"] = interface_change(path, small)
        row["phase"] = "count"
        yield
        try:
            row["reached"] = dense_macs(gp.analyze(small)) / dense_macs(gp.analyze(graph))
        except Exception as error:
            row["uncounted"] = told(error, path)
    row["phase"] = "end"
    yield


def worker(job: Row) -> None:
    """The whole life of a process that measures one file."""
    row: Row = {}
    steps = {"ours": ours, "onnxsim": peer}[job["kind"]](job, row)
    while True:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                more = next(steps, "end") is None
        except Exception as error:  # the parent must hear of every failure
            row["error"] = f"{told(error, Path(job['path']))} (during {row.get('phase', 'start')})"
            more = False
        emit(row)
        if not more:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure one ONNX file and print the row as JSON.")
    parser.add_argument("--worker", required=True, help='{"kind": "ours", "path": ..., "macs": "50%%", "aligns": [1]}')
    worker(json.loads(parser.parse_args().worker))


if __name__ == "__main__":
    main()
