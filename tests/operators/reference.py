"""Operators of onnxruntime that have no kernel for the CPU, as its documentation defines them."""

from __future__ import annotations

from math import erf
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

_DOMAIN = "com.microsoft"


class BiasAdd(OpRun):
    op_domain = _DOMAIN

    def _run(self, x: Any, bias: Any, skip: Any) -> Any:
        return (x + bias + skip,)


class BiasSplitGelu(OpRun):
    op_domain = _DOMAIN

    def _run(self, x: Any, bias: Any) -> Any:
        left, right = np.split(x + bias, 2, axis=-1)
        gelu = right * 0.5 * (1 + np.vectorize(erf)(right / np.sqrt(2)))
        return ((left * gelu).astype(np.float32),)


def _normalised(s: Any, gamma: Any, beta: Any, groups: int, channels_last: int, activation: int) -> Any:
    x = s if channels_last else np.moveaxis(s, 1, -1)
    parts = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    mean, var = parts.mean(axis=(1, 3), keepdims=True), parts.var(axis=(1, 3), keepdims=True)
    y = ((parts - mean) / np.sqrt(var + 1e-5)).reshape(x.shape) * gamma + beta
    y = y / (1 + np.exp(-y)) if activation else y
    return (y if channels_last else np.moveaxis(y, -1, 1)).astype(np.float32)


class GroupNorm(OpRun):
    op_domain = _DOMAIN

    def _run(self, x: Any, gamma: Any, beta: Any, **attrs: Any) -> Any:
        return (_normalised(x, gamma, beta, attrs["groups"], attrs["channels_last"], attrs["activation"]),)


class SkipGroupNorm(OpRun):
    op_domain = _DOMAIN

    def _run(self, x: Any, gamma: Any, beta: Any, skip: Any, bias: Any = 0, **attrs: Any) -> Any:
        s = (x + (skip[:, None, None] if skip.ndim == 2 else skip) + bias).astype(np.float32)
        return _normalised(s, gamma, beta, attrs["groups"], attrs["channels_last"], attrs["activation"]), s


REFERENCES = [BiasAdd, BiasSplitGelu, GroupNorm, SkipGroupNorm]
