"""One measurement in a process of its own: the original, graphprune with some options, or a peer."""

from __future__ import annotations

import argparse
import inspect
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx_ir as ir

import graphprune as gp
from benchmarks.accuracy.peers import onnxsim_rows, torch_pruning_rows
from benchmarks.accuracy.task import Task
from benchmarks.accuracy.tasks import TASKS
from benchmarks.common import Row, emit, fingerprint, peak_kib
from benchmarks.measure import told
from graphprune.errors import InfeasibleError
from graphprune.report.recovery import regained


def unknown(options: dict[str, Any]) -> list[str]:
    """Options that neither `prune` nor `plan` names."""
    names = {*inspect.signature(gp.prune).parameters, *inspect.signature(gp.plan).parameters}
    return sorted(set(options) - names)


def summary(result: Any) -> Row:
    """What the result says of itself, as far as it is plain data."""
    recovery = regained(result.recovery)
    return {"recovery": recovery.model_dump(mode="json")} if recovery is not None else {}


def ours(task: Task, job: Row) -> Row:
    """Prune with the public verb, then measure the written file, and the same plan without recovery.

    A job holds "macs", "options" (passed on as they are), "data" (give the calibration samples) and "seed" (of them).
    """
    options = dict(job["options"])
    if job["data"]:
        options["data"] = task.calibration(job["samples"], job["seed"])
    row: Row = {"phase": "prune", "sources": fingerprint()}
    missing = unknown(options)
    if missing:
        return row | {"failed": f"no option {', '.join(missing)}"}
    emit(row)
    with tempfile.TemporaryDirectory(prefix="graphprune-bench-") as folder:
        small = Path(folder) / "small.onnx"
        started = time.perf_counter()
        try:
            result = gp.prune(task.path(), small, macs=job["macs"], **options)
        except InfeasibleError as error:
            return row | {"failed": f"out of reach: {told(error, task.path())}"}
        row["seconds"] = round(time.perf_counter() - started, 2)
        row["peak_mib"] = peak_kib() // 1024
        row |= {"macs": result.after.macs / result.before.macs, "phase": "evaluate", **summary(result)}
        emit(row)
        row["measures"] = task.measures(small)
        if job["data"] and options.get("recover") != "none":
            row["after_cut"] = task.measures(ir.to_proto(gp.apply(task.path(), result.plan)))
    return row | {"phase": "end"}


def work(job: Row) -> Row:
    """Do one job; see `ours` for graphprune's."""
    task = TASKS[job["task"]]
    if job["kind"] == "dense":
        return {"measures": task.measures(task.path())}
    if job["kind"] == "ours":
        return ours(task, job)
    rows = {"torch-pruning": torch_pruning_rows, "onnxsim": onnxsim_rows}[job["kind"]]
    return rows(task, float(job["macs"].rstrip("%")) / 100, emit)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", required=True, help="the job as JSON")
    emit(work(json.loads(parser.parse_args().worker)))


if __name__ == "__main__":
    main()
