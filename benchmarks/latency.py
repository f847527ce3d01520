"""Time in onnxruntime after pruning, in paired runs: at half of the MACs, and for a latency target.

    python -m benchmarks.latency [--threads 1] [--only resnet20] [--write]

Every ratio is the median over rounds in which both models run one after the other. On one thread times are the
processor's own, so other programs on the machine do not add to them; the ratio of wall times stands beside.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from typing import Any

import numpy as np

import graphprune as gp
from benchmarks.accuracy.task import Task
from benchmarks.accuracy.vision import MobileNetV2, ResNet20, ResNet50
from benchmarks.common import header, table, write_results
from graphprune.budget.pace import Pace
from graphprune.cost import CostModel
from graphprune.cost.alignment import favoured_alignment
from graphprune.graph.pairing import raced, ready
from graphprune.graph.run import random_feeds
from graphprune.graph.timing import Setting
from graphprune.plan import planned_cut

TARGETS = {"mobilenet_v2": 0.57, "resnet50": 0.57, "resnet20": 0.68}  # share of the time to stay at half of the MACs
NETWORKS: dict[str, Task] = {task.name: task for task in (ResNet20(), MobileNetV2(), ResNet50())}
Row = dict[str, Any]


def half(name: str, align: int | str, setting: Setting) -> Row:
    """A model at half of its MACs: predicted and measured time as shares of the original's."""
    deps = gp.analyze(NETWORKS[name].path())
    result = gp.prune(deps.source, macs="50%", align=align)
    cost = CostModel(deps)
    pace = Pace(deps, cost, "99%", setting)
    removed = planned_cut(deps, result.plan).removed
    feed = random_feeds(deps.source, 1, 0)[0]
    both = [partial(ready, source, feed, setting) for source in (deps.source.source, result.model)]
    found = raced(*both, clock=setting.clock)
    predicted = pace.predicted(removed) / pace.predicted(np.zeros_like(removed))
    return {
        "model": name,
        "target": "macs 50%",
        "align": result.plan.recipe["align"],
        "wanted": TARGETS[name],
        "predicted": predicted,
        "measured": found.ratio,
        "wall": raced(*both, clock=time.perf_counter).ratio,
        "milliseconds": [1e3 * s for s in found.seconds],
    }


def timed(name: str, share: str, setting: Setting, **more: str) -> Row:
    """A model pruned for a latency, with other targets besides."""
    begun = time.perf_counter()
    graph = gp.load(NETWORKS[name].path())
    result = gp.prune(graph, latency=share, threads=setting.threads, **more)
    spent = time.perf_counter() - begun
    feed = random_feeds(graph, 1, 0)[0]
    both = [partial(ready, source, feed, setting) for source in (graph.source, result.model)]
    found = raced(*both, clock=setting.clock)  # once more, apart from the runs that steered the search
    return {
        "model": name,
        "target": " ".join([*(f"{k} {v}" for k, v in more.items()), f"latency {share}"]),
        "align": result.plan.recipe["align"],
        "wanted": float(share.rstrip("%")) / 100,
        "predicted": result.timing.predicted if result.timing else None,
        "measured": found.ratio,
        "wall": raced(*both, clock=time.perf_counter).ratio,
        "milliseconds": [1e3 * s for s in found.seconds],
        "rounds": result.timing.rounds if result.timing else 0,
        "seconds": spent,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/latency.md")
    given = parser.parse_args()
    setting = Setting(threads=given.threads)
    favoured, rows = favoured_alignment(setting), []
    for name in given.only:
        runs = (
            lambda name=name: half(name, 8, setting),
            lambda name=name: half(name, "auto", setting),
            lambda name=name: timed(name, f"{TARGETS[name]:.0%}", setting, macs="50%"),
            lambda name=name: timed(name, "60%", setting),
        )
        for run in runs:
            row = run()
            rows.append(row)
            print(json.dumps(row), flush=True)
    lines = [
        [
            r["model"],
            r["target"],
            str(r["align"]),
            f"{'<= ' if 'macs' in r['target'] else ''}{r['wanted']:.0%}",
            f"{r['predicted']:.1%}",
            f"{r['measured']:.1%}",
            f"{r['wall']:.1%}",
            f"{r['milliseconds'][0]:.2f} -> {r['milliseconds'][1]:.2f}",
        ]
        for r in rows
    ]
    text = header("Time in onnxruntime after pruning")
    text += f"\nCPU, {given.threads} thread(s), batch 1; no data. The default alignment and 8 for half of the MACs, the"
    text += f" measured one for latency targets; here {favoured} is favoured.\n\n"
    text += table(lines, ["model", "target", "align", "wanted", "predicted", "measured", "wall", "ms"]) + "\n"
    print(text)
    if given.write:
        write_results("latency", text, rows)


if __name__ == "__main__":
    main()
