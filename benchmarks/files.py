"""What the benchmarks on ONNX files share: options, rows of many files, the report."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import rows as report
from benchmarks.common import Row, cached_job, header, write_results

MODULE = "benchmarks.measure"


def parser(description: str) -> argparse.ArgumentParser:
    """Options of every benchmark on files."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--only", default="", help="regular expression a name must match")
    found.add_argument("--macs", default="50%", help="what remains, in percent")
    found.add_argument("--align", default="1,auto", help="alignments to try, with commas between")
    found.add_argument("--no-peers", action="store_true", help="measure graphprune alone")
    found.add_argument("--jobs", type=int, default=1, help="files at a time")
    found.add_argument("--timeout", type=float, default=900.0, help="seconds per file")
    found.add_argument("--fresh", action="store_true", help="measure graphprune again; peers are remembered")
    found.add_argument("--redo-failed", action="store_true", help="measure again what failed")
    found.add_argument("--out", default="", help="name of the report, also for a part of the files")
    return found


def measure(name: str, path: Path, options: argparse.Namespace) -> Row:
    """All rows of one file."""
    aligns = [int(a) if a.isdigit() else a for a in options.align.split(",")]
    job = {"kind": "ours", "path": str(path), "macs": options.macs, "aligns": aligns}

    def failed(row: Row) -> bool:
        return options.redo_failed and any(report.run_failure(row, str(a)) for a in aligns)

    both: Row = {"ours": cached_job(MODULE, job, options.timeout, fresh=options.fresh, redo=failed)}
    if not options.no_peers:
        other = {"kind": "onnxsim", "path": str(path), "sparsity": 0.5}
        both["onnxsim"] = cached_job(MODULE, other, options.timeout)
    told = [report.run_failure(both["ours"], str(a)) or "ok" for a in aligns]
    print(f"{name}: {' / '.join(told)} ({both['ours'].get('total_seconds', 0):.0f} s)", flush=True)
    return both


def collect(paths: Mapping[str, Path], options: argparse.Namespace) -> dict[str, Row]:
    """Rows of all files, measured or remembered."""
    with ThreadPoolExecutor(options.jobs) as pool:
        found = pool.map(lambda name: measure(name, paths[name], options), paths)
        return dict(zip(paths, found, strict=True))


def parts(rows: Mapping[str, Row], options: argparse.Namespace) -> list[str]:
    """Summary, table and explanations of some rows as markdown."""
    aligns = options.align.split(",")
    target = float(options.macs.rstrip("%")) / 100
    sections = [
        ("Summary", report.summary(rows, aligns, target)),
        ("Files", report.main_table(rows, aligns)),
        ("Failures", report.failures(rows, aligns)),
        ("Targets out of reach", report.infeasible(rows, aligns)),
        ("Granularity below 0.8: shares of all weight elements", report.explanations(rows)),
        ("MACs that nothing can remove", report.fixed_macs(rows)),
    ]
    if not options.no_peers:
        sections.append(("Files that onnxsim breaks", report.peer_failures(rows)))
    return [f"## {title}\n\n{text}\n" for title, text in sections]


def publish(name: str, title: str, rows: Mapping[str, Row], text: list[str], options: argparse.Namespace) -> None:
    """Print a report; write it when it covers everything or has a name of its own."""
    whole = "\n".join([header(title), *text])
    print(whole)
    if options.out or not options.only:
        write_results(options.out or name, whole, rows)
