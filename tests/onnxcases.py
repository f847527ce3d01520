"""Models that come with the onnx package: exported single layers as files, and one or more per operator."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

if TYPE_CHECKING:
    from tests.freed import Array

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
LAYERS = ("pytorch-converted", "pytorch-operator", "simple")


@dataclass(frozen=True)
class OnnxCase:
    """A model with its inputs and outputs by name; None where one is no tensor of numbers."""

    name: str
    model: onnx.ModelProto
    inputs: dict[str, Array] | None
    outputs: dict[str, Array] | None


def layers() -> Iterator[OnnxCase]:
    """Single layers exported from PyTorch, and simple models."""
    for folder in LAYERS:
        for path in sorted((DATA / folder).glob("*/model.onnx")):
            model = onnx.load(path)
            stored = {t.name for t in model.graph.initializer}
            inputs = [v for v in model.graph.input if v.name not in stored]
            yield OnnxCase(
                f"{folder}/{path.parent.name}",
                model,
                _read(path.parent / "test_data_set_0", "input", inputs),
                _read(path.parent / "test_data_set_0", "output", model.graph.output),
            )


def nodes() -> Iterator[OnnxCase]:
    """The operator tests, and their twins in which function bodies are written out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    for one in found:
        inputs, outputs = one.data_sets[0]
        yield OnnxCase(
            f"node/{one.name}",
            one.model,
            _named([v.name for v in one.model.graph.input], inputs),
            _named([v.name for v in one.model.graph.output], outputs),
        )


def _read(folder: Path, kind: str, values: Any) -> dict[str, Array] | None:
    if not all(v.type.HasField("tensor_type") for v in values):
        return None
    arrays = [numpy_helper.to_array(onnx.load_tensor(folder / f"{kind}_{i}.pb")) for i in range(len(values))]
    return _named([v.name for v in values], arrays)


def _named(names: list[str], arrays: list[Any]) -> dict[str, Array] | None:
    plain = all(isinstance(a, np.ndarray | np.generic) and np.asarray(a).dtype.kind in "fiub" for a in arrays)
    return {n: np.asarray(a) for n, a in zip(names, arrays, strict=True)} if plain else None
