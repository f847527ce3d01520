"""What a layer reads, one row per output position, so that its product with the weight is one matrix product.

The columns follow :class:`graphprune.folding.linear.Linear`: inputs of a group first, taps within.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphprune.folding.linear import Linear
from graphprune.graph.model import Array, Node

_CONVS = ("Conv", "com.microsoft.FusedConv")


def unfolds(found: Linear) -> bool:
    """Whether :func:`unfold` knows the operator: convolutions, Gemm, and MatMul with a matrix."""
    if found.node.key == "MatMul":
        return bool(found.bias)
    return found.node.key in (*_CONVS, "ConvTranspose", "Gemm")


def unfold(found: Linear, data: Array, kernel: Sequence[int], rows: NDArray[np.int64] | None = None) -> Array:
    """The inputs of a layer as a matrix per group.

    Args:
        found: The layer.
        data: What its data slot holds.
        kernel: Sizes of the weight's window; empty for products.
        rows: Output positions to keep, in the order of :func:`outputs`; all when None.

    Returns:
        Array (groups, positions, inputs of a group · taps).
    """
    if found.node.key in (*_CONVS, "ConvTranspose"):
        return _windows(found, data, kernel, rows)
    flat = _positions_first(data, found.axis)
    return flat[None] if rows is None else flat[rows][None]


def outputs(found: Linear, made: Array, rows: NDArray[np.int64] | None = None) -> Array:
    """The output of a layer as a matrix per group, (groups, positions, outputs of a group)."""
    axis = made.ndim + found.out_axis
    flat = _positions_first(made, axis)
    flat = flat if rows is None else flat[rows]
    return flat.reshape(len(flat), found.groups, -1).transpose(1, 0, 2)


def positions(found: Linear, shape: Sequence[int]) -> int:
    """Number of output positions of an output of this shape."""
    return math.prod(shape) // max(shape[len(shape) + found.out_axis], 1)


def _positions_first(array: Array, axis: int) -> Array:
    moved = np.moveaxis(array, axis, -1)
    return np.ascontiguousarray(moved).reshape(-1, moved.shape[-1])


def _windows(found: Linear, data: Array, kernel: Sequence[int], rows: NDArray[np.int64] | None) -> Array:
    node, dims = found.node, len(kernel)
    grown = node.key == "ConvTranspose"
    strides = [int(s) for s in node.attrs.get("strides") or [1] * dims]
    dilations = [int(d) for d in node.attrs.get("dilations") or [1] * dims]
    pads = _pads(node, data.shape[2:], kernel, strides, dilations)
    if grown:
        data, pads = _stuffed(node, data, kernel, (strides, dilations, pads))
        strides = [1] * dims
    wide = np.pad(data, [(0, 0), (0, 0), *((max(a, 0), max(b, 0)) for a, b in pads)])
    inside: tuple[Any, ...] = tuple(
        slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(wide.shape[2:], pads, strict=True)
    )
    wide = wide[(..., *inside)]
    spans = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(wide, spans, axis=tuple(range(2, 2 + dims)))
    steps = [slice(None), slice(None), *(slice(None, None, s) for s in strides)]
    taps = [slice(None, None, -d if grown else d) for d in dilations]
    window: tuple[Any, ...] = (*steps, *taps)
    view = view[window]  # (batch, channels, *places, *taps)
    out = view.shape[2 : 2 + dims]
    if rows is None:
        cube = np.moveaxis(view, 1, 1 + dims).reshape(-1, data.shape[1], math.prod(kernel))
    else:
        batch, *places = np.unravel_index(rows, (data.shape[0], *out))
        cube = view[(batch, slice(None), *places)].reshape(len(rows), data.shape[1], math.prod(kernel))
    grouped: Array = cube.reshape(len(cube), found.groups, -1)
    return grouped.transpose(1, 0, 2)


def _pads(
    node: Node, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[tuple[int, int]]:
    """Padding before and behind each axis, in the terms of a plain convolution."""
    dims = len(kernel)
    said = node.attrs.get("auto_pad", "NOTSET")
    auto = str(said.decode() if isinstance(said, bytes) else said)
    if auto.startswith("SAME"):
        out = []
        for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
            total = max((math.ceil(n / s) - 1) * s + d * (k - 1) + 1 - n, 0)
            if node.key == "ConvTranspose":
                total = max(d * (k - 1) + 1 - s, 0)
            less, more = total // 2, total - total // 2
            out.append((less, more) if auto == "SAME_UPPER" else (more, less))
        return out
    pads = [int(p) for p in node.attrs.get("pads") or [0] * 2 * dims]
    return list(zip(pads[:dims], pads[dims:], strict=True))


def _stuffed(
    node: Node,
    data: Array,
    kernel: Sequence[int],
    window: tuple[Sequence[int], Sequence[int], Sequence[tuple[int, int]]],
) -> tuple[Array, list[tuple[int, int]]]:
    """A transposed convolution is a plain one, with the taps turned round, of the input spread out with zeros."""
    strides, dilations, pads = window
    dims = len(kernel)
    extra = [int(p) for p in node.attrs.get("output_padding") or [0] * dims]
    sizes = [(n - 1) * s + 1 for n, s in zip(data.shape[2:], strides, strict=True)]
    wide = np.zeros((*data.shape[:2], *sizes), data.dtype)
    places: tuple[Any, ...] = tuple(slice(None, None, s) for s in strides)
    wide[(..., *places)] = data
    reach = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
    return wide, [(r - a, r - b + e) for r, (a, b), e in zip(reach, pads, extra, strict=True)]
