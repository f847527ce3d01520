"""Zoo files as other tools leave them: simplified, optimised for a runtime, in half precision.

    python -m benchmarks.zoo.derive [--only REGEX] [--exporter dynamo|script|both] [--form sim|ort|fp16|all]

Every derived file is made in a process of its own and written to `derived/` in the zoo's directory as
`<name>.<exporter>.<form>.onnx`. A tool that fails on a file is noted in `derived/failed.json`: there is nothing to
prune then. Files that are already there are left alone.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import onnx

from benchmarks.zoo.export import zoo_dir

FORMS = ("sim", "ort", "fp16")
TIMEOUT = 600.0


def derived_dir() -> Path:
    """Where derived files lie."""
    return zoo_dir() / "derived"


def simplified(source: Path, target: Path) -> None:
    """What onnxsim makes of a file."""
    import onnxsim

    model, same = onnxsim.simplify(onnx.load(source))
    if not same:
        raise ValueError("onnxsim says that its result differs")
    onnx.save(model, target)


def optimised(source: Path, target: Path) -> None:
    """What onnxruntime's extended optimisation makes of a file."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def halved(source: Path, target: Path) -> None:
    """Weights and arithmetic in float16, inputs and outputs as they were."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


MAKERS = {"sim": simplified, "ort": optimised, "fp16": halved}


def derive(source: Path, form: str) -> str:
    """Make one derived file in a process of its own; "" or why it failed."""
    target = derived_dir() / f"{source.stem}.{form}.onnx"
    if target.exists():
        return ""
    partial = target.with_suffix(".part")
    command = [sys.executable, "-m", "benchmarks.zoo.derive", "--worker", form, str(source), str(partial)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return f"took over {TIMEOUT:.0f} s"
    if done.returncode:
        partial.unlink(missing_ok=True)
        lines = done.stderr.strip().splitlines()
        return lines[-1][:300] if lines else f"exit {done.returncode}"
    partial.replace(target)
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Make derived files of the zoo.")
    parser.add_argument("--only", default="", help="regular expression a name must match")
    parser.add_argument("--exporter", choices=["dynamo", "script", "both"], default="both")
    parser.add_argument("--form", choices=[*FORMS, "all"], default="all")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        form, source, target = options.worker
        MAKERS[form](Path(source), Path(target))
        return
    derived_dir().mkdir(exist_ok=True)
    notes = derived_dir() / "failed.json"
    failed: dict[str, str] = json.loads(notes.read_text()) if notes.exists() else {}
    for source in sorted(zoo_dir().glob("*.onnx")):
        exporter = source.stem.rpartition(".")[2]
        if options.exporter not in (exporter, "both") or not re.search(options.only, source.stem):
            continue
        for form in FORMS if options.form == "all" else (options.form,):
            name = f"{source.stem}.{form}"
            reason = derive(source, form)
            failed.pop(name, None)
            if reason:
                failed[name] = reason
            print(f"{name}: {reason or 'made'}", flush=True)
            notes.write_text(json.dumps(failed, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
