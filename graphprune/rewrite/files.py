"""Writing models: beside the target and renamed in at the end, in the input's style of external data."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import onnx_ir as ir

from graphprune.errors import InputError
from graphprune.graph.sizes import weight_bytes
from graphprune.plan import Plan

_PROTOBUF_LIMIT = 2**31 - 2**20
METADATA_KEY = "graphprune"


def stamp(model: ir.Model, plan: Plan, *, verified: bool) -> None:
    """Note the recipe and whether the result was proved, in the model's metadata."""
    note = {"plan": plan.version, "recipe": plan.recipe, "verified": verified}
    model.metadata_props[METADATA_KEY] = json.dumps(note, sort_keys=True)
    if not verified:
        model.metadata_props[f"{METADATA_KEY}.warning"] = "UNVERIFIED"


def has_external(model: ir.Model) -> bool:
    """Whether any initializer lives outside the file."""
    return any(isinstance(v.const_value, ir.ExternalTensor) for v in model.graph.initializers.values())


def save(model: ir.Model, path: str | Path) -> None:
    """Write a model; what stood there is replaced only when everything is written.

    Weights go to one external file "<name>.data" beside the model when the model's own weights are external or
    when it would exceed what one file can hold.

    Raises:
        InputError: The folder cannot be written.
    """
    path = Path(path)
    data = f"{path.name}.data"
    external = has_external(model) or weight_bytes(model) > _PROTOBUF_LIMIT
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.resolve().parent) as folder:
            written = Path(folder) / path.name
            ir.save(model.clone(), written, format="protobuf", external_data=data if external else None)
            if external and (Path(folder) / data).exists():
                os.replace(Path(folder) / data, path.resolve().parent / data)  # noqa: PTH105
            os.replace(written, path)  # noqa: PTH105
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None
