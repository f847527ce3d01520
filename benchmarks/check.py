"""Checks of a written model that owe nothing to the pruner: is it valid, did its interface change?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

Feed = dict[str, Any]


def short(error: object, limit: int = 300) -> str:
    """A message in one line."""
    text = " ".join(str(error).split())
    return text if len(text) <= limit else f"{text[: limit // 3]} ... {text[-limit * 2 // 3 :]}"


def session(path: Path) -> ort.InferenceSession:
    """A file opened in onnxruntime, without the fusion that ends the process on some float16 files."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    stored = onnx.load(path, load_external_data=False).graph.initializer
    off = ["MatmulTransposeFusion"] if any(t.data_type == onnx.TensorProto.FLOAT16 for t in stored) else []
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"], disabled_optimizers=off)


def output_shapes(path: Path, feeds: Sequence[Feed]) -> list[list[tuple[int, ...]]]:
    """Shapes of all outputs for each set of inputs."""
    opened = session(path)
    return [[np.shape(value) for value in opened.run(None, feed)] for feed in feeds]


def defect(original: Path, written: Path, feeds: Sequence[Feed]) -> str:
    """What is wrong with a written file: checker, loading, running, shapes of the outputs; else "".

    A checker that does not take the original says nothing about the file: onnxruntime's optimiser writes operators of
    its own into onnx's domain.
    """
    try:
        onnx.checker.check_model(written)
    except Exception as error:
        if not _rejected(original, full=False):
            return f"checker: {short(error)}"
    try:
        got = output_shapes(written, feeds)
    except Exception as error:
        return f"onnxruntime: {short(error)}"
    wanted = output_shapes(original, feeds)
    return "" if got == wanted else f"output shapes {short(got)} instead of {short(wanted)}"


def stale(original: Path, written: Path) -> str:
    """Why strict shape inference rejects a file (shapes noted in it are out of date) though it takes the original."""
    try:
        onnx.checker.check_model(written, full_check=True)
    except Exception as error:
        return "" if _rejected(original, full=True) else f"full check: {short(error)}"
    return ""


def _rejected(path: Path, *, full: bool) -> bool:
    """Whether the check does not even accept the original."""
    try:
        onnx.checker.check_model(path, full_check=full)
    except Exception:
        return True
    return False


def interface(model: onnx.ModelProto) -> dict[str, list[tuple[object, ...]]]:
    """Inputs and outputs in order: name, type, fixed and symbolic sizes."""
    stored = {tensor.name for tensor in model.graph.initializer}
    sides = {
        "input": [value for value in model.graph.input if value.name not in stored],
        "output": list(model.graph.output),
    }
    return {side: [_signature(value) for value in values] for side, values in sides.items()}


def _signature(value: onnx.ValueInfoProto) -> tuple[object, ...]:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return value.name, kind.elem_type, None
    return value.name, kind.elem_type, tuple(d.dim_param or d.dim_value for d in kind.shape.dim)


def interface_change(original: Path, written: Path) -> str:
    """The first difference in inputs, outputs, opsets or metadata; "" when there is none."""
    a = onnx.load(original, load_external_data=False)
    b = onnx.load(written, load_external_data=False)
    for side, values in interface(a).items():
        others = interface(b)[side]
        if values != others:
            pairs = zip(values, others, strict=False)
            differ = next(((x, y) for x, y in pairs if x != y), (len(values), len(others)))
            return f"{side}: {differ[0]} became {differ[1]}"
    if _opsets(a) != _opsets(b) or a.ir_version != b.ir_version:
        return f"opsets {_opsets(a)}, ir {a.ir_version} became {_opsets(b)}, ir {b.ir_version}"
    lost = {p.key: p.value for p in a.metadata_props}.items() - {p.key: p.value for p in b.metadata_props}.items()
    return f"metadata lost: {sorted(key for key, _ in lost)}" if lost else ""


def _opsets(model: onnx.ModelProto) -> dict[str, int]:
    return {entry.domain: entry.version for entry in model.opset_import}


def names_change(original: Path, written: Path) -> dict[str, int]:
    """How many nodes and stored tensors disappeared or are new, by name."""
    a = onnx.load(original, load_external_data=False).graph
    b = onnx.load(written, load_external_data=False).graph
    nodes = {n.name for n in a.node}, {n.name for n in b.node}
    weights = {t.name for t in a.initializer}, {t.name for t in b.initializer}
    return {
        "nodes_lost": len(nodes[0] - nodes[1]),
        "nodes_new": len(nodes[1] - nodes[0]),
        "weights_lost": len(weights[0] - weights[1]),
        "weights_new": len(weights[1] - weights[0]),
    }
