"""Element types and contents of PyTorch tensors in the terms of the neutral graph."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import torch

from graphprune.graph.model import Array

_NAMES = {"float32": "float", "float64": "double", "float8_e4m3fn": "float8e4m3fn", "float8_e5m2": "float8e5m2",
          "float8_e4m3fnuz": "float8e4m3fnuz", "float8_e5m2fnuz": "float8e5m2fnuz"}  # fmt: skip


def dtype_name(dtype: torch.dtype) -> str:
    """Name of an element type as graphs of ONNX files have it: "float", "double", "bfloat16", "int64" and so on."""
    name = str(dtype).removeprefix("torch.")
    return _NAMES.get(name, name)


def array_of(tensor: torch.Tensor) -> Array:
    """Content of a tensor; types that numpy lacks are those of ml_dtypes."""
    plain = tensor.detach().cpu()
    name = str(plain.dtype).removeprefix("torch.")
    if name == "bfloat16" or name.startswith("float8"):
        bits = plain.contiguous().view(torch.int16 if name == "bfloat16" else torch.uint8)
        return np.asarray(bits.numpy()).view(getattr(ml_dtypes, name))
    return np.asarray(plain.resolve_conj().resolve_neg().numpy())
