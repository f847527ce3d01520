"""At equal measured latency: what a latency target loses, and what targets of MACs alone lose.

    python -m benchmarks.latency_error [--only resnet20] [--write]

Neighbouring plans of a small network differ by a tenth in error and by some percent in time, so the latency target is
compared with five MACs targets around the same time: with the line through their errors (logarithm) over their measured
times. All are calibrated and re-fitted on the same unlabelled samples; the error is measured on twice as many others.
"""

from __future__ import annotations

import argparse
import math
import time
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

import graphprune as gp
from benchmarks.accuracy.task import Feed, Task, stacked
from benchmarks.common import Row, header, table, write_results
from benchmarks.latency import NETWORKS
from graphprune.graph.pairing import raced, ready
from graphprune.graph.run import random_feeds
from graphprune.graph.timing import Setting

AT = {"resnet20": ("80%", "70%", "60%"), "mobilenet_v2": ("60%",), "resnet50": ("60%",)}
SAMPLES = {"resnet20": 256, "mobilenet_v2": 256, "resnet50": 64}
AROUND = (0.92, 0.96, 1.0, 1.04, 1.08)  # MACs of the plans beside, as shares of what takes about the same time
HELD = 9  # seed of the samples that judge
SETTING = Setting(threads=1)
SESSIONS = (8, 24)  # of both models: what two plans differ by is less than what two sessions may differ by


def lost(task: Task, model: Any, held: Feed) -> float:
    """Squared error of the first output relative to its variance."""
    name = next(iter(held))
    wanted = stacked(task.path(), {name: held[name]})
    found = stacked(model, {name: held[name]})
    return float(np.mean((found - wanted) ** 2) / np.var(wanted))


def measured(task: Task, data: Feed, held: Feed, told: str, **target: str) -> Row:
    """A model pruned for a target: its MACs, measured time and what it loses."""
    graph = gp.load(task.path())
    begun = time.perf_counter()
    result = gp.prune(graph, data=data, recover="refit", threads=1 if "latency" in target else None, **target)
    spent = time.perf_counter() - begun
    feed = random_feeds(graph, 1, 0)[0]
    opened = [partial(ready, source, feed, SETTING) for source in (graph.source, result.model)]
    ratio = raced(*opened, sessions=SESSIONS, clock=SETTING.clock).ratio
    model = ir.to_proto(result.model)
    row = {"model": task.name, "target": told, "macs": result.after.macs / result.before.macs, "latency": ratio}
    row |= {
        "error": lost(task, model, held),
        "metric": task.measures(model).get(task.metric, math.nan),
        "seconds": spent,
    }
    print(row, flush=True)
    return row


def compare(task: Task, share: str) -> list[Row]:
    """The model for a latency, those for MACs alone, and what the line through these says at the same time."""
    samples = SAMPLES[task.name]
    data, held = task.calibration(samples, 0), task.calibration(2 * samples, HELD)
    wanted = measured(task, data, held, f"latency {share}", latency=share)

    def by_macs(macs: float) -> Row:
        return measured(task, data, held, f"MACs {macs:.1%}", macs=f"{100 * min(macs, 0.98):.3f}%")

    first = by_macs(float(wanted["macs"]))
    centre = float(first["macs"]) * float(wanted["latency"]) / float(first["latency"])
    found = [by_macs(a * centre) for a in AROUND]
    times = [row["latency"] for row in found]

    def on_line(values: list[float]) -> float:
        return float(np.polyval(np.polyfit(times, values, 1), wanted["latency"]))

    at = {name: on_line([row[name] for row in found]) for name in ("macs", "metric")}
    at |= {
        "latency": wanted["latency"],
        "error": float(np.exp(on_line([float(np.log(row["error"])) for row in found]))),
    }
    return [wanted, *found, {"model": task.name, "target": "MACs, by the line", **at}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(AT), default=list(AT))
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    rows = [row for name in given.only for share in AT[name] for row in compare(NETWORKS[name], share)]
    lines = [
        [
            r["model"],
            r["target"],
            f"{r['macs']:.1%}",
            f"{r['latency']:.1%}",
            f"{r['error']:.4f}",
            "-" if math.isnan(r["metric"]) else f"{r['metric']:.1f}",
            f"{r['seconds']:.0f}" if "seconds" in r else "",
        ]
        for r in rows
    ]
    names = ["model", "target", "MACs left", "measured latency", "error of the outputs", "metric", "s"]
    text = header("Latency targets and MACs targets at equal latency")
    text += "\nOne thread of the CPU, the default alignment. The line: through the logarithms of five plans' errors.\n"
    text += "Re-fitted; squared error over variance, on twice as many samples as calibrate: "
    text += (
        ", ".join(f"{SAMPLES[name]} for {name}" for name in given.only) + ".\nThe weights of resnet50 are random.\n\n"
    )
    text += table(lines, names) + "\n"
    print(text)
    if given.write:
        write_results("latency-error", text, rows)


if __name__ == "__main__":
    main()
