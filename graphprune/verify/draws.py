"""Random numbers that come out alike in two models."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import onnx_ir as ir

_DRAWING = {
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
}  # fmt: skip


def seeded(model: ir.Model) -> ir.Model:
    """The model with a seed for every operator that draws without one, after the name of the value it makes."""
    if not any(_unseeded(model)):
        return model
    clone = model.clone()
    for node in _unseeded(clone):
        number = zlib.crc32((node.outputs[0].name or "").encode()) % 2**20  # exact as the float that it has to be
        node.attributes["seed"] = ir.AttrFloat32("seed", float(number))
    return clone


def _unseeded(model: ir.Model) -> Iterator[ir.Node]:
    for node in model.graph.all_nodes():
        if node.op_type in _DRAWING and node.domain in ("", "ai.onnx") and "seed" not in node.attributes:
            yield node
