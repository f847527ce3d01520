"""Seconds and peak memory of pruning resnet50 with calibration and recovery, 256 images, in a process of its own.

python -m benchmarks.accuracy.resources [--samples 256] [--macs 50%] [--only "default, data"] [--write]

The peak counts what is resident, with files that are mapped: libraries, and the samples themselves, whose pages the
system takes back when it needs them. The peak without files is that of memory that only this process can give back.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import graphprune as gp
from benchmarks.accuracy.measure import summary, unknown
from benchmarks.accuracy.task import made
from benchmarks.common import MARK, Row, emit, header, table, watched, write_results
from benchmarks.measure import Clock

MODES: dict[str, dict[str, Any]] = {
    "cut, no data": {"recover": "none"},
    "cut by data": {"recover": "none", "data": True},
    "default, data": {"data": True},
}


def images(samples: int) -> Path:
    """Calibration images as a stacked .npy file."""
    from benchmarks.accuracy.vision import unlabelled_photos

    return made(f"photos-{samples}.npy", lambda path: np.save(path, unlabelled_photos(samples, 0)))


def work(job: Row) -> Row:
    """Prune once; the process's own peak is what counts."""
    options = dict(job["options"])
    if missing := unknown(options):
        return {"failed": f"no option {', '.join(missing)}"}
    if options.get("data"):
        options["data"] = job["data"]
    clock = Clock()
    with tempfile.TemporaryDirectory(prefix="graphprune-bench-") as folder:
        started = time.perf_counter()
        result = gp.prune(job["path"], Path(folder) / "small.onnx", macs=job["macs"], progress=clock, **options)
        seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "steps": clock.done(),
        "macs": result.after.macs / result.before.macs,
        **summary(result),
    }


def measured(job: Row) -> Row:
    """A job in a process of its own: its result, processor time and peak memory."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        told = watched([sys.executable, "-m", "benchmarks.accuracy.resources", "--worker", json.dumps(job)])
    except RuntimeError as error:
        return {"failed": str(error).strip()[-300:]}
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    row: Row = json.loads([line for line in told["out"].splitlines() if line.startswith(MARK)][-1].removeprefix(MARK))
    row |= {"peak_mib": told["peak"] >> 20, "without_files_mib": told["own"] >> 20}
    row["processor"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and peak memory of calibration and recovery.")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--macs", default="50%")
    parser.add_argument("--only", nargs="*", choices=list(MODES), default=list(MODES))
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        emit(work(json.loads(options.worker)))
        return
    from benchmarks.accuracy.vision import ResNet50  # not in the worker, whose memory is measured

    path, data = ResNet50().path(), images(options.samples)
    rows = {}
    for name in options.only:
        job = {"path": str(path), "data": str(data), "macs": options.macs, "options": MODES[name]}
        rows[name] = measured(job)
        print(name, rows[name], flush=True)
    lines = [
        (
            n,
            f"{r['seconds']:.1f}",
            f"{r['processor']:.1f}",
            f"{r['peak_mib']:,}",
            f"{r['without_files_mib']:,}",
            f"{r['macs']:.3f}",
        )
        if "seconds" in r
        else (n, r["failed"], "", "", "", "")
        for n, r in rows.items()
    ]
    text = header(f"resnet50, {options.samples} images, {options.macs} of the MACs")
    text += "\n" + table(lines, ["what", "seconds", "processor seconds", "peak MiB", "without files", "MACs left"])
    print(text)
    if options.write:
        write_results("accuracy-resources", text, rows)


if __name__ == "__main__":
    main()
