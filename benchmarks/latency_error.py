"""At equal measured latency: what a latency target loses, and what targets of MACs alone lose.

    python -m benchmarks.latency_error [--only resnet20] [--write]

Neighbouring plans of a small network differ by a tenth in error and by some percent in time, so the latency target is
compared with five MACs targets around the same time: with the line through their errors (logarithm) over their measured
times. All are calibrated and re-fitted on the same unlabelled samples; the error is measured on twice as many others.
Every row is remembered, so a run that was cut off goes on where it stopped; let the machine rest beside it. With
--only the table that is written keeps the rows of other networks.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Collection
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

import graphprune as gp
from benchmarks.accuracy.task import Feed, Task, stacked
from benchmarks.common import (
    RESULTS,
    Row,
    cached_job,
    emit,
    fingerprint,
    header,
    other_sources,
    table,
    write_results,
)
from benchmarks.latency import NETWORKS
from graphprune.graph.pairing import raced, ready
from graphprune.graph.run import random_feeds
from graphprune.graph.timing import Setting

AT = {"resnet20": ("80%", "70%", "60%"), "mobilenet_v2": ("60%",), "resnet50": ("60%",)}
SAMPLES = {"resnet20": 256, "mobilenet_v2": 256, "resnet50": 64}
AROUND = (0.92, 0.96, 1.0, 1.04, 1.08)  # MACs of the plans beside, as shares of what takes about the same time
TABLE = "latency-error"
HELD = 9  # seed of the samples that judge
SETTING = Setting(threads=1)
TIMEOUT = 3600.0  # seconds for one row
SESSIONS = (8, 24)  # of both models: what two plans differ by is less than what two sessions may differ by


def lost(task: Task, model: Any, held: Feed) -> float:
    """Squared error of the first output relative to its variance."""
    name = next(iter(held))
    wanted = stacked(task.path(), {name: held[name]})
    found = stacked(model, {name: held[name]})
    return float(np.mean((found - wanted) ** 2) / np.var(wanted))


def measured(job: Row) -> Row:
    """A model pruned for a target: its MACs, measured time and what it loses."""
    task, target = NETWORKS[job["task"]], job["target"]
    data, held = task.calibration(job["samples"], 0), task.calibration(2 * job["samples"], HELD)
    graph = gp.load(task.path())
    begun = time.perf_counter()
    result = gp.prune(graph, data=data, recover="refit", threads=1 if "latency" in target else None, **target)
    spent = time.perf_counter() - begun
    feed = random_feeds(graph, 1, 0)[0]
    opened = [partial(ready, source, feed, SETTING) for source in (graph.source, result.model)]
    ratio = raced(*opened, sessions=SESSIONS, clock=SETTING.clock).ratio
    model = ir.to_proto(result.model)
    return {
        "model": task.name,
        "target": " ".join(f"{name} {value}" for name, value in target.items()),
        "macs": result.after.macs / result.before.macs,
        "latency": ratio,
        "error": lost(task, model, held),
        "metric": task.measures(model).get(task.metric),
        "seconds": spent,
    }


def row(task: Task, **target: str) -> Row:
    """Measured in a process of its own, or remembered from these sources of graphprune."""
    sources = fingerprint()
    job = {"kind": "latency-error", "path": str(task.path()), "task": task.name, "target": target}
    job |= {"samples": SAMPLES[task.name], "sources": sources}
    found = cached_job("benchmarks.latency_error", job, TIMEOUT, redo=lambda row: "broken" in row)
    if "broken" in found:
        raise RuntimeError(f"{task.name} at {target}: {found['broken']}")
    print(found, flush=True)
    return found | {"sources": sources}


def compare(task: Task, share: str) -> list[Row]:
    """The model for a latency, those for MACs alone, and what the line through these says at the same time."""
    wanted = row(task, latency=share)

    def by_macs(macs: float) -> Row:
        return row(task, macs=f"{100 * min(macs, 0.98):.3f}%")

    first = by_macs(float(wanted["macs"]))
    centre = float(first["macs"]) * float(wanted["latency"]) / float(first["latency"])
    found = [by_macs(a * centre) for a in AROUND]
    times = [r["latency"] for r in found]

    def on_line(values: list[float]) -> float:
        return float(np.polyval(np.polyfit(times, values, 1), wanted["latency"]))

    at = {"macs": on_line([r["macs"] for r in found]), "latency": wanted["latency"]}
    at["error"] = float(np.exp(on_line([float(np.log(r["error"])) for r in found])))
    at["metric"] = None if wanted["metric"] is None else on_line([r["metric"] for r in found])
    return [wanted, *found, {"model": task.name, "target": "MACs, by the line", **at}]


def earlier(names: Collection[str]) -> list[Row]:
    """Rows of networks in the table that was written before, each with its sources."""
    path = RESULTS / f"{TABLE}.json"
    data = json.loads(path.read_text()) if path.exists() else {"data": []}
    return [{"sources": data["sources"], **r} for r in data["data"] if r["model"] in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(AT), default=list(AT))
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        emit(measured(json.loads(given.worker)))
        return
    rows = [r for name in given.only for share in AT[name] for r in compare(NETWORKS[name], share)]
    if given.write:
        rows = sorted([*rows, *earlier(AT.keys() - set(given.only))], key=lambda r: list(AT).index(r["model"]))
    lines = [
        [
            r["model"],
            r["target"],
            f"{r['macs']:.1%}",
            f"{r['latency']:.1%}",
            f"{r['error']:.3g}",
            "-" if r["metric"] is None else f"{r['metric']:.1f}",
            f"{r['seconds']:.0f}" if "seconds" in r else "",
        ]
        for r in rows
    ]
    names = ["model", "target", "MACs left", "measured latency", "error of the outputs", "metric", "s"]
    text = header("Latency targets and MACs targets at equal latency")
    text += "\nOne thread of the CPU, the default alignment. The line: through the logarithms of five plans' errors.\n"
    text += "Re-fitted; squared error over variance, on twice as many samples as calibrate: "
    text += ", ".join(f"{SAMPLES[name]} for {name}" for name in SAMPLES) + ".\nThe weights of resnet50 are random.\n\n"
    text += f"{table(lines, names)}\n\n{other_sources(rows)}"
    print(text)
    if given.write:
        write_results(TABLE, text, rows)


if __name__ == "__main__":
    main()
