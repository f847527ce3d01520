"""How fast the analysis and the rewriting are.

    python -m benchmarks.speed [--only decoder|resnet50|prune] [--rounds 9]

decoder: analysis of a 6.7 G parameter language model whose weights do not exist (nothing may read them).
resnet50: reading the file (onnx_ir.load, not ours), building our graph from it (shape inference, folding) and
    analysis, apart from each other, against Torch-Pruning's dependency graph of the same network.
prune: pruning without verification against reading and writing the same file with onnx-ir.
Paired rounds, medians. Needs `python -m benchmarks.zoo.export --only '^resnet50$'` for the last two. Writes
`benchmarks/results/speed.md` and `.json`.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import onnx_ir as ir

import graphprune as gp
from benchmarks.common import Row, header, table, write_results
from benchmarks.decoder import Size, decoder
from benchmarks.zoo.export import zoo_dir
from graphprune.cost.model import CostModel

Call = Callable[[], object]


def seconds(call: Call) -> float:
    """Time of one call."""
    gc.collect()
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def paired(calls: Mapping[str, Call], rounds: int) -> dict[str, float]:
    """Median seconds of each call; every round runs all in order, after one round that does not count."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            spent = seconds(call)
            if number:
                found[name].append(spent)
    return {name: median(values) for name, values in found.items()}


def time_decoder(rounds: int) -> tuple[str, Row]:
    """Load and analysis of the large decoder, with open and with fixed sizes."""
    rows: Row = {}
    for name, sizes in {"dynamic batch and seq": {}, "static 1 x 2048": {"batch": 1, "seq": 2048}}.items():
        model = decoder(Size(), **sizes)
        load, analysis = [], []
        for _ in range(rounds):
            started = time.perf_counter()
            graph = gp.load(model)
            loaded = time.perf_counter()
            deps = gp.analyze(graph)
            analysis.append(time.perf_counter() - loaded)
            load.append(loaded - started)
        rows[name] = {
            "nodes": len(graph.nodes),
            "parameters": graph.parameters(),
            "load": median(load),
            "analysis": median(analysis),
            "groups": len(deps.groups),
            "units": deps.units,
            "granularity": deps.granularity(),
            "prunable": CostModel(deps).prunable_share(),
        }
    lines = [
        (
            name,
            row["nodes"],
            f"{row['parameters'] / 1e9:.2f} G",
            f"{row['load']:.2f}",
            f"{row['analysis']:.2f}",
            f"{row['load'] + row['analysis']:.2f}",
            row["groups"],
            row["units"],
            f"{row['granularity']:.3f}",
            f"{100 * row['prunable']:.1f} %",
        )
        for name, row in rows.items()
    ]
    names = ["sizes", "nodes", "parameters", "load + infer s", "analysis s", "sum s"]
    return table(lines, [*names, "groups", "units", "granularity", "prunable MACs"]), rows


def time_resnet50(rounds: int) -> tuple[str, Row]:
    """Our steps on the exported file, each on the fresh result of the one before, and Torch-Pruning's graph."""
    import torch
    import torch_pruning

    from benchmarks.zoo.models import build

    torch.set_num_threads(1)
    path, network = zoo_dir() / "resnet50.dynamo.onnx", build("resnet50").requires_grad_(requires_grad=True)
    image = torch.randn(1, 3, 224, 224)
    made: dict[str, Any] = {}
    building, analysis, peer = "graph building + shapes + folding", "analysis", "Torch-Pruning build_dependency"
    spent = paired(
        {
            "reading + parsing (onnx_ir.load)": lambda: made.update(model=ir.load(path)),
            building: lambda: made.update(graph=gp.load(made["model"])),
            analysis: lambda: gp.analyze(made["graph"]),
            peer: lambda: torch_pruning.DependencyGraph().build_dependency(
                network, example_inputs=image, verbose=False
            ),
        },
        rounds,
    )
    lines = [(n, f"{s:.4f}", f"{s / spent[analysis]:.2f}", f"{s / spent[peer]:.2f}") for n, s in spent.items()]
    text = table(lines, ["step", "median s", "ratio to analysis", "ratio to Torch-Pruning"])
    ratio = spent[building] / spent[analysis]
    text += f"\n\ngraph building / analysis: {ratio:.2f}; reading and parsing is not part of graph building"
    return text, {**spent, "graph building / analysis": ratio}


def time_prune(rounds: int) -> tuple[str, Row]:
    """Pruning without verification, file to file, and a plain copy through onnx-ir."""
    path = zoo_dir() / "resnet50.dynamo.onnx"
    with tempfile.TemporaryDirectory(prefix="graphprune-bench-") as folder:
        target = Path(folder) / "small.onnx"
        options: dict[str, Any] = {"macs": "50%", "check": False}
        spent = paired(
            {
                "graphprune prune, unverified": lambda: gp.prune(path, target, **options),
                "onnx-ir load + save": lambda: ir.save(ir.load(path), target),
            },
            rounds,
        )
    return _ratios(spent, "onnx-ir load + save"), dict(spent)


def _ratios(spent: Mapping[str, float], base: str) -> str:
    lines = [(name, f"{value:.3f}", f"{value / spent[base]:.2f}") for name, value in spent.items()]
    return table(lines, ["step", "median s", f"ratio to {base}"])


PARTS: dict[str, tuple[str, Callable[[int], tuple[str, Row]]]] = {
    "decoder": ("Language model with 6.7 G parameters, weights never read", time_decoder),
    "resnet50": ("resnet50: reading, graph building, analysis", time_resnet50),
    "prune": ("resnet50: file to file", time_prune),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the analysis and the rewriting.")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    parser.add_argument("--rounds", type=int, default=9, help="rounds per measurement")
    options = parser.parse_args()
    text, data = [], {}
    for name, (title, measure) in PARTS.items():
        if options.only in (None, name):
            lines, data[name] = measure(options.rounds)
            text.append(f"## {title}\n\n{lines}\n")
            print(text[-1], flush=True)
    report = "\n".join([header(f"Speed, medians of {options.rounds}"), *text])
    if options.only is None:
        print(report)
        write_results("speed", report, data)


if __name__ == "__main__":
    main()
