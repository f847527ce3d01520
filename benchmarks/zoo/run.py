"""Prunes every file of the zoo and checks the results.

    python -m benchmarks.zoo.run [--only REGEX] [--exporter dynamo|script|both] [--macs 50%] [--align 1,8]
                                 [--no-peers] [--jobs 1] [--fresh] [--redo-failed]

The files come from `python -m benchmarks.zoo.export`. Each file is measured in a process of its own; rows are
kept, so a second run measures only what is missing (`--fresh` measures all again, `--redo-failed` those that
failed). A run over everything writes `benchmarks/results/zoo.md` and `.json`.
"""

from __future__ import annotations

import argparse
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import rows as report
from benchmarks.common import Row, cached_job, header, write_results
from benchmarks.zoo.export import zoo_dir

MODULE = "benchmarks.measure"


def files(only: str, exporter: str) -> dict[str, Path]:
    """Files of the zoo by name, in alphabetical order."""
    found = {path.stem: path for path in sorted(zoo_dir().glob("*.onnx"))}
    kinds = ("dynamo", "script") if exporter == "both" else (exporter,)
    return {n: p for n, p in found.items() if n.rpartition(".")[2] in kinds and re.search(only, n)}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that all benchmarks on files share."""
    parser.add_argument("--only", default="", help="regular expression a name must match")
    parser.add_argument("--macs", default="50%", help="what remains")
    parser.add_argument("--align", default="1,8", help="alignments to try, with commas between")
    parser.add_argument("--no-peers", action="store_true", help="measure graphprune alone")
    parser.add_argument("--jobs", type=int, default=1, help="files at a time")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds per file")
    parser.add_argument("--fresh", action="store_true", help="measure again what is known")
    parser.add_argument("--redo-failed", action="store_true", help="measure again what failed")
    parser.add_argument("--out", default="", help="name of the report, also for a part of the files")


def measure(name: str, path: Path, options: argparse.Namespace) -> Row:
    """All rows of one file."""
    aligns = [int(a) for a in options.align.split(",")]
    job = {"kind": "ours", "path": str(path), "macs": options.macs, "aligns": aligns}
    fresh = options.fresh

    def failed(row: Row) -> bool:
        return options.redo_failed and any(report.run_failure(row, str(a)) for a in aligns)

    both: Row = {"ours": cached_job(MODULE, job, options.timeout, fresh=fresh, redo=failed)}
    if not options.no_peers:
        other = {"kind": "onnxsim", "path": str(path), "sparsity": 0.5}
        both["onnxsim"] = cached_job(MODULE, other, options.timeout, fresh=fresh)
    told = [report.run_failure(both["ours"], str(a)) or "ok" for a in aligns]
    print(f"{name}: {' / '.join(told)} ({both['ours'].get('total_seconds', 0):.0f} s)", flush=True)
    return both


def collect(paths: dict[str, Path], options: argparse.Namespace) -> dict[str, Row]:
    """Rows of all files, measured or remembered."""
    with ThreadPoolExecutor(options.jobs) as pool:
        found = pool.map(lambda item: measure(*item, options), paths.items())
        return dict(zip(paths, found, strict=True))


def parts(rows: dict[str, Row], options: argparse.Namespace) -> list[str]:
    """Summary, table and explanations of some rows as markdown."""
    aligns = options.align.split(",")
    target = float(options.macs.rstrip("%")) / 100
    sections = [
        ("Summary", report.summary(rows, aligns, target)),
        ("Files", report.main_table(rows, aligns)),
        ("Failures", report.failures(rows, aligns)),
        ("Targets out of reach", report.infeasible(rows, aligns)),
        ("Granularity below 0.8: shares of all weight elements", report.explanations(rows)),
    ]
    if not options.no_peers:
        sections.append(("Files that onnxsim breaks", report.peer_failures(rows)))
    return [f"## {title}\n\n{text}\n" for title, text in sections]


def publish(name: str, title: str, rows: dict[str, Row], text: list[str], options: argparse.Namespace) -> None:
    """Print a report; write it when it covers everything or has a name of its own."""
    report_text = "\n".join([header(title), *text])
    print(report_text)
    if options.out or not options.only:
        write_results(options.out or name, report_text, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Prune the zoo and check the results.")
    parser.add_argument("--exporter", choices=["dynamo", "script", "both"], default="both")
    add_options(parser)
    options = parser.parse_args()
    paths = files(options.only, options.exporter)
    if not paths:
        parser.error(f"no file in {zoo_dir()} matches; make them with python -m benchmarks.zoo.export")
    rows = collect(paths, options)
    text = []
    for exporter in ("dynamo", "script"):
        mine = {name: row for name, row in rows.items() if name.endswith(f".{exporter}")}
        if mine:
            text += [f"# Exporter: {exporter}\n", *parts(mine, options)]
    name = "zoo" if options.exporter == "both" else f"zoo-{options.exporter}"
    publish(name, f"The zoo at {options.macs} of the MACs", rows, text, options)


if __name__ == "__main__":
    main()
