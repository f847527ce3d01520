"""Exports the zoo to ONNX files in a cache directory, each export in a process of its own.

    python -m benchmarks.zoo.export [--only REGEX] [--exporter dynamo|script|both] [--jobs 1]

The directory is `$GRAPHPRUNE_ZOO` (default `~/.cache/graphprune/zoo`). It gets `<name>.<exporter>.onnx` files
and an `index.json` that says how each was made. Files that are already there are left alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from benchmarks.zoo.entries import Entry

OPSET = {"dynamo": 20, "script": 17}
TIMEOUT = 600.0
TOLERANCE = 1e-2  # beyond it a file with dynamic sizes is wrong, and smaller promises are tried
MARK = "RESULT "


def zoo_dir() -> Path:
    """The cache directory."""
    return Path(os.environ.get("GRAPHPRUNE_ZOO") or Path.home() / ".cache" / "graphprune" / "zoo")


def modes(entry: Entry) -> list[tuple[str, ...]]:
    """The sets of sizes to leave open, the most generous first."""
    sizes = {size for value in entry.inputs for size in value.shape if isinstance(size, str)}
    return [("batch", "seq"), ("batch",), ()] if "seq" in sizes else [("batch",), ()]


def label(mode: tuple[str, ...]) -> str:
    """How the index calls a mode."""
    return "+".join(mode) or "static"


def convert(model: nn.Module, entry: Entry, inputs: tuple[Tensor, ...], exporter: str, path: Path, mode: str) -> None:
    """Write one ONNX file, with the sizes named in `mode` left open."""
    import torch

    opened = mode.split("+")
    axes = [
        {axis: size for axis, size in enumerate(value.shape) if isinstance(size, str) and size in opened}
        for value in entry.inputs
    ]
    names = [value.name for value in entry.inputs]
    common: dict[str, Any] = {"input_names": names, "output_names": list(entry.outputs)}
    if exporter == "script":
        outputs = {name: {0: "batch"} for name in entry.outputs}
        dynamic_axes = dict(zip(names, axes, strict=True)) | outputs if mode != "static" else None
        torch.onnx.export(
            model,
            inputs,
            path,
            dynamo=False,
            opset_version=OPSET[exporter],
            dynamic_axes=dynamic_axes,
            **common,
        )
        return
    dims = {size: torch.export.Dim(size, min=1, max=4096 if size == "batch" else 64) for size in opened}
    dynamic_shapes = (tuple({axis: dims[size] for axis, size in found.items()} for found in axes),)
    torch.onnx.export(
        model,
        inputs,
        path,
        dynamo=True,
        opset_version=OPSET[exporter],
        dynamic_shapes=dynamic_shapes if mode != "static" else None,
        external_data=False,
        **common,
    )


def check(model: nn.Module, path: Path, feeds: tuple[Tensor, ...], names: list[str]) -> float:
    """The largest error of the file in onnxruntime against torch, relative to the largest output."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = model(*feeds)
    expected = (expected,) if isinstance(expected, torch.Tensor) else expected
    kept = {value.name for value in session.get_inputs()}
    values = {name: value.numpy() for name, value in zip(names, feeds, strict=True) if name in kept}
    errors = []
    for got, want in zip(session.run(None, values), expected, strict=True):
        if not torch.isfinite(want).all():
            raise ValueError("the network's output is not finite")
        errors.append(float((torch.from_numpy(got) - want).abs().max() / want.abs().max()))
    return max(errors)


def work(name: str, exporter: str, mode: str, path: Path) -> dict[str, Any]:
    """Export one network in one way and check the file; runs in a process of its own."""
    import torch

    from benchmarks.zoo.entries import SEQ
    from benchmarks.zoo.models import ZOO, build, sample

    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operator has no ONNX form
    entry, model = ZOO[name], build(name)
    sizes = {"batch": 1 if mode == "static" else 2, "seq": SEQ}
    others = [sizes]
    if mode != "static":
        others.append({"batch": 3, "seq": SEQ - 7 if "seq" in mode else SEQ})
    started = time.perf_counter()
    convert(model, entry, sample(name, sizes), exporter, path, mode)
    seconds = time.perf_counter() - started
    names = [value.name for value in entry.inputs]
    error = max(check(model, path, sample(name, size, seed=2), names) for size in others)
    if mode != "static" and not error < TOLERANCE:
        raise ValueError(f"with {mode} left open the file is wrong by {error:.3g}")
    opened = mode.split("+")
    shapes = {
        value.name: {
            "shape": [sizes[size] if isinstance(size, str) and size not in opened else size for size in value.shape],
            "kind": value.kind,
        }
        for value in entry.inputs
    }
    return {
        "seconds": round(seconds, 1),
        "rel_error": error,
        "inputs": shapes,
        "outputs": list(entry.outputs),
    }


def one_line(error: BaseException) -> str:
    """An exception and its cause in one line."""
    lines: list[str] = []
    link: BaseException | None = error
    while link is not None and len(lines) < 3:
        text = next((line.strip() for line in str(link).splitlines() if line.strip()), "")
        lines.append(f"{type(link).__name__}: {text}"[:200])
        link = link.__cause__
    return " <- ".join(lines)


def attempt(name: str, exporter: str, mode: str, path: Path) -> dict[str, Any]:
    """Run `work` in a fresh process, so that neither a crash nor an endless export stops the rest."""
    command = [sys.executable, "-m", "benchmarks.zoo.export", "--worker", name, exporter, mode, str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"no result after {TIMEOUT:.0f} s"}
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            result: dict[str, Any] = json.loads(line.removeprefix(MARK))
            return result
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return {"error": f"the process ended with code {done.returncode}: {last[:200]}"}


def export(name: str, exporter: str) -> dict[str, Any]:
    """Export one network, with as many sizes left open as works; the file appears only when it is good."""
    from benchmarks.zoo.models import ZOO

    target = zoo_dir() / f"{name}.{exporter}.onnx"
    partial = zoo_dir() / f"{name}.{exporter}.part"
    refused: dict[str, str] = {}
    for mode in map(label, modes(ZOO[name])):
        result = attempt(name, exporter, mode, partial)
        if "error" not in result:
            partial.replace(target)
            return {"file": target.name, "exporter": exporter, "mode": mode, **result, "refused": refused}
        refused[mode] = result["error"]
    partial.unlink(missing_ok=True)
    return {"exporter": exporter, "error": refused["static"], "refused": refused}


def record(key: str, result: dict[str, Any]) -> None:
    """Add one result to the index."""
    path = zoo_dir() / "index.json"
    index = json.loads(path.read_text()) if path.exists() else {}
    index[key] = result
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(dict(sorted(index.items())), indent=1) + "\n")
    partial.replace(path)


def worker(name: str, exporter: str, mode: str, path: str) -> None:
    """The whole life of a process started by `attempt`."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            result = work(name, exporter, mode, Path(path))
    except Exception as error:  # the parent must hear of every failure
        result = {"error": one_line(error)}
    print(f"\n{MARK}{json.dumps(result)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Export the zoo to ONNX files.")
    parser.add_argument("--only", default="", help="regular expression a name must match")
    parser.add_argument("--exporter", choices=["dynamo", "script", "both"], default="both")
    parser.add_argument("--jobs", type=int, default=1, help="exports at a time")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(*arguments.worker)
        return
    from benchmarks.zoo.models import ZOO

    zoo_dir().mkdir(parents=True, exist_ok=True)
    exporters = ["dynamo", "script"] if arguments.exporter == "both" else [arguments.exporter]
    wanted = [(name, exporter) for exporter in exporters for name in ZOO if re.search(arguments.only, name)]
    missing = [pair for pair in wanted if not (zoo_dir() / f"{pair[0]}.{pair[1]}.onnx").exists()]
    print(f"{len(missing)} of {len(wanted)} files to make in {zoo_dir()}", flush=True)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        futures = {pool.submit(export, *pair): ".".join(pair) for pair in missing}
        for future in as_completed(futures):
            key, result = futures[future], future.result()
            record(key, result)
            said = result.get("error") or f"{result['mode']}, {result['seconds']} s, error {result['rel_error']:.1e}"
            print(f"{key}: {said}", flush=True)


if __name__ == "__main__":
    main()
