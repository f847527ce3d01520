"""Prunes every file of the zoo and checks the results.

    python -m benchmarks.zoo.run [--only REGEX] [--exporter dynamo|script|both] [--macs 50%] [--align 1,8]
                                 [--no-peers] [--jobs 1] [--fresh] [--redo-failed]

The files come from `python -m benchmarks.zoo.export`. Each file is measured in a process of its own; rows are
kept, so a second run measures only what is missing (`--fresh` measures all again, `--redo-failed` those that
failed). A run over everything writes `benchmarks/results/zoo.md` and `.json`.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.files import collect, parser, parts, publish
from benchmarks.zoo.export import zoo_dir


def files(only: str, exporter: str) -> dict[str, Path]:
    """Files of the zoo by name, in alphabetical order."""
    found = {path.stem: path for path in sorted(zoo_dir().glob("*.onnx"))}
    kinds = ("dynamo", "script") if exporter == "both" else (exporter,)
    return {n: p for n, p in found.items() if n.rpartition(".")[2] in kinds and re.search(only, n)}


def main() -> None:
    arguments = parser("Prune the zoo and check the results.")
    arguments.add_argument("--exporter", choices=["dynamo", "script", "both"], default="both")
    options = arguments.parse_args()
    paths = files(options.only, options.exporter)
    if not paths:
        arguments.error(f"no file in {zoo_dir()} matches; make them with python -m benchmarks.zoo.export")
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
