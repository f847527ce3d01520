"""Metrics before and after pruning without training, graphprune and its peers, in one table.

    python -m benchmarks.accuracy.run [PATTERN] [--peers yes|only|no] [--variants NAMES] [--write]

Every figure is a job in a process of its own that is remembered: a run that was cut off goes on where it stopped.
Rows of graphprune are measured again when its sources changed (`--keep` takes them as they are); a peer's are not.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Container, Iterable, Mapping
from typing import Any

from benchmarks.accuracy.task import Task
from benchmarks.accuracy.tasks import TASKS
from benchmarks.common import Row, cached_job, fingerprint, header, other_sources, table, write_results
from tests.assets import AssetUnavailable

MODULE = "benchmarks.accuracy.measure"
TIMEOUT = 3600.0
PEERS = {"torch-pruning": TIMEOUT, "onnxsim": 600.0}  # seconds; onnxsim's own fine-tuning can take hours
PLAIN, CUT, DEFAULT = "no data", "before recovery", "default"
VARIANTS: dict[str, Row] = {
    PLAIN: {"options": {"recover": "none"}, "data": False},
    CUT: {"options": {"recover": "none"}, "data": True},
    DEFAULT: {"options": {}, "data": True},
}


def remembered(
    task: Task, job: Mapping[str, Any], options: argparse.Namespace, *, own: bool = True, timeout: float = TIMEOUT
) -> Row:
    """A row, measured or remembered; `timeout` in seconds."""
    sources = fingerprint()

    def stale(row: Row) -> bool:
        if options.redo_failed and ("failed" in row or "broken" in row):
            return True
        return own and not options.keep and row.get("sources") != sources

    whole = {"path": str(task.path()), "task": task.name, "samples": task.samples, **job}
    return cached_job(MODULE, whole, min(timeout, options.timeout), fresh=options.fresh and own, redo=stale)


def told(row: Row) -> str:
    """Why a row has no figure."""
    return str(row.get("failed") or row.get("broken") or "no result")


class Report:
    """Rows as they come, and reasons where there is no figure."""

    def __init__(self) -> None:
        self.lines: dict[tuple[str, str], list[list[str]]] = {}
        self.reasons: dict[str, None] = {}
        self.data: list[Row] = []

    def cell(self, place: str, rows: Iterable[Row], metric: str) -> str:
        """Mean over seeds and half their range, or a mark for the reasons below the table."""
        figures = []
        for row in rows:
            if "measures" in row:
                figures.append(float(row["measures"][metric]))
            else:
                self.reasons[f"{place}: {told(row)}"] = None
        if not figures:
            return "-"
        spread = f" ± {(max(figures) - min(figures)) / 2:.1f}" if len(figures) > 1 else ""
        return f"{statistics.fmean(figures):.1f}{spread}"

    def publish(self, name: str, parts: list[str], *, write: bool) -> None:
        """Print the parts of the text with the reasons below, and write it with the rows where that is asked for."""
        if others := other_sources(self.data):
            parts = [*parts, others]
        if self.reasons:
            reasons = "\n".join(f"- {reason}" for reason in self.reasons)
            parts = [*parts, f"## Why there is no figure\n\n{reasons}\n"]
        text = "\n".join(parts)
        print(text)
        if write:
            write_results(name, text, self.data)


def best(row: Row, part: str, metric: str) -> tuple[str, float] | None:
    """The best criterion of a peer and its metric."""
    found = {
        label: float(tried[part][metric])
        for label, tried in row.get("tried", {}).items()
        if metric in tried.get(part, {})
    }
    return max(found.items(), key=lambda pair: pair[1]) if found else None


def best_recovered(row: Row, metric: str) -> tuple[str, float] | None:
    """Onnxsim's best criterion and recovery, and its metric."""
    found = {
        f"{label}, {step}": float(measures[metric])
        for label, tried in row.get("tried", {}).items()
        for step, measures in tried.get("recovered", {}).items()
        if metric in measures
    }
    return max(found.items(), key=lambda pair: pair[1]) if found else None


def peers(task: Task, macs: str, options: argparse.Namespace, report: Report) -> dict[str, Row | None]:
    """Rows of the peers; None for one that cannot take the model."""
    rows: dict[str, Row | None] = {}
    for kind, timeout in PEERS.items():
        place = f"{task.name} at {macs}, {kind}"
        if kind == "torch-pruning" and not task.for_torch:
            report.reasons[f"{task.name}, {kind}: it wants a PyTorch module of convolutions, this is a file"] = None
            rows[kind] = None
            continue
        row = remembered(task, {"kind": kind, "macs": macs}, options, own=False, timeout=timeout)
        report.data.append({"task": task.name, "macs": macs, "peer": kind, **row})
        if "broken" in row or "failed" in row:
            report.reasons[f"{place}: {told(row)}"] = None
        for label, tried in row.get("tried", {}).items():
            if "failed" in tried:
                report.reasons[f"{place}, {label}: {tried['failed']}"] = None
        rows[kind] = row
    return rows


def peer_cells(rows: Mapping[str, Row | None], metric: str) -> list[str]:
    """Four cells: Torch-Pruning plain and re-calibrated, onnxsim plain and recovered."""
    torch, simple = rows.get("torch-pruning") or {}, rows.get("onnxsim") or {}
    hits = [best(torch, "plain", metric), best(torch, "recalibrated", metric), best(simple, "plain", metric)]
    return [f"{hit[1]:.1f} ({hit[0]})" if hit else "-" for hit in (*hits, best_recovered(simple, metric))]


def own_rows(
    task: Task, macs: str, align: int | str, options: argparse.Namespace, report: Report
) -> dict[str, list[Row]]:
    """Rows of graphprune by variant, of the default one per calibration set; with other alignments it alone, once.

    What the default's plan gives before recovery is in its own rows; in older ones, a cut of its own is measured.
    """
    found: dict[str, list[Row]] = {}
    wanted = options.variants.split(",") if align == task.aligns[0] else [DEFAULT]
    for name, variant in reversed(VARIANTS.items()) if options.peers != "only" else ():
        if name not in wanted or name in found:
            continue
        job = {"kind": "ours", "macs": macs, "data": variant["data"], "options": {**variant["options"], "align": align}}
        seeds = range(task.sets if name == DEFAULT and align == task.aligns[0] else 1)
        found[name] = [remembered(task, {**job, "seed": seed}, options) for seed in seeds]
        about = {"task": task.name, "macs": macs, "align": align, "variant": name}
        report.data += [{**about, "seed": seed, **row} for seed, row in zip(seeds, found[name], strict=True)]
        if name == DEFAULT and all("after_cut" in row for row in found[name]):
            found[CUT] = [{"measures": row["after_cut"]} for row in found[name]]
    return found


def measure(task: Task, options: argparse.Namespace, report: Report) -> None:
    """All rows of one task."""
    dense = remembered(task, {"kind": "dense"}, options, own=False)
    report.data.append({"task": task.name, "dense": True, **dense})
    for macs in task.targets:
        others = peers(task, macs, options, report) if options.peers != "no" else {}
        for align in task.aligns:
            rows = own_rows(task, macs, align, options, report)
            for metric, start in dense.get("measures", {}).items():
                place = f"{task.name} at {macs}, align {align}"
                names = VARIANTS if options.peers != "only" else ()
                cells = [report.cell(f"{place}, {n}", rows[n], metric) if n in rows else "" for n in names]
                line = [macs, str(align), f"{start:.1f}", *cells]
                line += peer_cells(others, metric) if align == task.aligns[0] else [""] * 4
                report.lines.setdefault((task.name, metric), []).append(line)
                print(f"{task.name}, {metric}:", " | ".join(line), flush=True)


def document(report: Report, options: argparse.Namespace) -> list[str]:
    """The report as parts of markdown."""
    ours = list(VARIANTS) if options.peers != "only" else []
    names = ["MACs", "align", "original", *ours]
    names += ["Torch-Pruning", "+ re-calibrated", "onnxsim Wanda", "+ its recovery"]
    parts = [header("Accuracy without training")]
    parts.append(
        "Metrics in percent; where there are several calibration sets the mean ± half the range. "
        "A peer's best criterion, chosen by the metric itself, is in brackets; it does not depend on the alignment.\n"
    )
    for (name, metric), lines in report.lines.items():
        task = TASKS[name]
        if metric == task.metric:
            parts.append(
                f"## {name}: {metric}\n\nCalibration: {task.samples} samples, {task.sets} sets: {task.data_note}.\n"
            )
        else:
            parts.append(f"### {name}: {metric}\n")
        parts.append(table(lines, names) + "\n")
    return parts


def parser(description: str) -> argparse.ArgumentParser:
    """Options of the accuracy benchmarks."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("pattern", nargs="?", default="", help="regular expression a task's name must match")
    found.add_argument("--write", action="store_true", help="write the report, also of a part of the tasks")
    found.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds per job")
    found.add_argument("--fresh", action="store_true", help="measure graphprune again; peers are remembered")
    found.add_argument("--keep", action="store_true", help="take rows that other sources of graphprune gave")
    found.add_argument("--redo-failed", action="store_true", help="measure again what failed")
    return found


def chosen(pattern: str, among: Container[str] = TASKS) -> list[Task]:
    """Tasks whose files can be had; the others are told."""
    found = []
    for name, task in TASKS.items():
        if name in among and re.search(pattern, name):
            try:
                task.path()
                found.append(task)
            except (AssetUnavailable, OSError, ImportError) as error:
                print(f"{name}: SKIPPED, {error}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    options_parser = parser("Metrics of pruned models that were not trained again.")
    options_parser.add_argument("--peers", choices=("yes", "only", "no"), default="yes")
    options_parser.add_argument("--variants", default=",".join(VARIANTS), help="columns, with commas between")
    options = options_parser.parse_args()
    report = Report()
    for task in chosen(options.pattern):
        measure(task, options, report)
    report.publish("accuracy", document(report, options), write=options.write)


if __name__ == "__main__":
    main()
