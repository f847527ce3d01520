"""Prunes every file of the zoo and checks the results.

    python -m benchmarks.zoo.run [--only REGEX] [--exporter dynamo|script|both] [--macs 50%] [--align 1,auto]
                                 [--form original|sim|ort|fp16] [--no-peers] [--jobs 1] [--fresh] [--redo-failed]

The files come from `python -m benchmarks.zoo.export`, other forms of them from `benchmarks.zoo.derive`. Each file is
measured in a process of its own; rows are kept, so a second run measures only what is missing (`--fresh` measures all
again, `--redo-failed` those that failed). A run over everything writes `benchmarks/results/zoo.md` and `.json`.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.files import collect, parser, parts, publish
from benchmarks.zoo.derive import FORMS, derived_dir
from benchmarks.zoo.export import zoo_dir


def files(only: str, exporter: str, form: str) -> dict[str, Path]:
    """Files of the zoo by name, in alphabetical order."""
    kinds = ("dynamo", "script") if exporter == "both" else (exporter,)
    folder, end = (zoo_dir(), "") if form == "original" else (derived_dir(), f".{form}")
    found = {p.stem: p for kind in kinds for p in sorted(folder.glob(f"*.{kind}{end}.onnx"))}
    return {n: p for n, p in sorted(found.items()) if re.search(only, n)}


def main() -> None:
    arguments = parser("Prune the zoo and check the results.")
    arguments.add_argument("--exporter", choices=["dynamo", "script", "both"], default="both")
    arguments.add_argument("--form", choices=["original", *FORMS], default="original")
    options = arguments.parse_args()
    paths = files(options.only, options.exporter, options.form)
    if not paths:
        arguments.error(f"no file in {zoo_dir()} matches; make them with python -m benchmarks.zoo.export")
    rows = collect(paths, options)
    text = []
    for exporter in ("dynamo", "script"):
        mine = {name: row for name, row in rows.items() if f".{exporter}" in name}
        if mine:
            text += [f"# Exporter: {exporter}\n", *parts(mine, options)]
    name = "zoo" if options.exporter == "both" else f"zoo-{options.exporter}"
    name += "" if options.form == "original" else f"-{options.form}"
    publish(name, f"The zoo at {options.macs} of the MACs", rows, text, options)


if __name__ == "__main__":
    main()
