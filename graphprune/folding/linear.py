"""Operators that sum an input with a weight, all written as one matrix per group.

A weight in canonical form has the axes (groups, inputs of a group, outputs of a group, taps): output o of group g is
the sum over inputs i and taps k of x[g, i] · w[g, i, o, k], and what lies outside of a padded input counts as zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from graphprune.graph.model import Array, Graph, Node

_CONVS = ("Conv", "com.microsoft.FusedConv")
_GLANCE = 4
_RECURRENT = ("LSTM", "GRU", "RNN")


@dataclass(frozen=True, slots=True)
class Linear:
    """How a node sums the positions of one input axis.

    Attributes:
        node: The node.
        slot: Input slot of the data.
        axis: Its summed axis, not negative.
        weight: Input slot of the weight.
        groups: Number of groups.
        labels: Tensor and axis whose labels say which outputs stay.
        bias: Where a constant that is the same at every output position can go: "input" (slot 2 of the node),
            "add" (an Add behind the node, on its axis ``out_axis``), or "" when there is none.
        even: Whether every output position sees every tap, so that a constant input gives a constant output.
        out_axis: Output axis, from the end, along which outputs lie.
        canonical: Stored weight to canonical form.
        restored: Canonical form to stored weight.
    """

    node: Node
    slot: int
    axis: int
    weight: int
    groups: int
    labels: tuple[str, int]
    bias: str
    even: bool
    out_axis: int
    canonical: Callable[[Array], Array]
    restored: Callable[[Array], Array]


def reached(block: Array, inputs: Array) -> Array:
    """Whether any of some inputs has a weight other than zero into each output, bool of shape (outputs,).

    A glance at the first inputs settles nearly all outputs of a living layer.

    Args:
        block: Weights of one group, shape (inputs, outputs, taps).
        inputs: Positions of the inputs.
    """
    found: Array = (block[inputs[:_GLANCE]] != 0).any(axis=(0, 2))
    open_outputs = np.flatnonzero(~found)
    if len(open_outputs) and len(inputs) > _GLANCE:
        found[open_outputs] = (block[np.ix_(inputs[_GLANCE:], open_outputs)] != 0).any(axis=(0, 2))
    return found


def linear(graph: Graph, node: Node, slot: int) -> Linear | None:
    """How a node sums an input axis, None where it does it in a way that is not described here."""
    shapes = [graph.values[n].shape if n else None for n in node.inputs]
    if shapes[slot] is None or any(s is None for s in shapes[:2]):
        return None
    if node.key in _CONVS and slot == 0:
        return _conv(node, shapes[1] or ())
    if node.key == "ConvTranspose" and slot == 0:
        return _conv_transpose(node, shapes[1] or ())
    if node.key == "Gemm" and slot == 0:
        return _gemm(node)
    if node.key == "MatMul":
        return _matmul(node, slot, shapes[slot] or (), shapes[1 - slot] or ())
    if node.key in _RECURRENT and slot in (0, 2):
        return _recurrent(node, slot)
    return None


def _grouped(weight: Array, groups: int) -> Array:
    out, inner = weight.shape[:2]
    cube = weight.reshape(groups, out // groups, inner, -1)
    return cube.transpose(0, 2, 1, 3)


def _conv(node: Node, shape: tuple[int, ...]) -> Linear:
    groups = int(node.attrs.get("group", 1))
    window = bool(np.prod(shape[2:], dtype=np.int64) > 1)
    padded = any(node.attrs.get("pads") or ()) or (_auto_pad(node).startswith("SAME") and window)
    return Linear(
        node=node,
        slot=0,
        axis=1,
        weight=1,
        groups=groups,
        labels=(node.outputs[0], 1),
        bias="input",
        even=not padded,
        out_axis=1 - len(shape),
        canonical=lambda w: _grouped(w, groups),
        restored=lambda w: w.transpose(0, 2, 1, 3).reshape(shape),
    )


def _auto_pad(node: Node) -> str:
    value = node.attrs.get("auto_pad", "NOTSET")
    return str(value.decode() if isinstance(value, bytes) else value)


def _conv_transpose(node: Node, shape: tuple[int, ...]) -> Linear:
    groups = int(node.attrs.get("group", 1))
    per_group = shape[1]
    plain = all(n == 1 for n in shape[2:]) and all(int(n) == 1 for n in node.attrs.get("strides") or ())
    grown = any(node.attrs.get("pads") or ()) or any(node.attrs.get("output_padding") or ())
    return Linear(
        node=node,
        slot=0,
        axis=1,
        weight=1,
        groups=groups,
        labels=(node.outputs[0], 1),
        bias="input",
        even=plain and not grown and "output_shape" not in node.attrs,
        out_axis=1 - len(shape),
        canonical=lambda w: w.reshape(groups, shape[0] // groups, per_group, -1),
        restored=lambda w: w.reshape(shape),
    )


def _gemm(node: Node) -> Linear:
    flipped = bool(node.attrs.get("transB", 0))

    def canonical(weight: Array) -> Array:
        matrix: Array = weight.T if flipped else weight
        return matrix[None, :, :, None]

    def restored(weight: Array) -> Array:
        matrix: Array = weight[0, :, :, 0]
        return matrix.T if flipped else matrix

    scaled = float(node.attrs.get("beta", 1.0)) != 1.0 or float(node.attrs.get("alpha", 1.0)) != 1.0
    axis = 0 if node.attrs.get("transA", 0) else 1
    return Linear(
        node, 0, axis, 1, 1, (node.outputs[0], 1), "" if scaled else "input", not scaled, -1, canonical, restored
    )


def _matmul(node: Node, slot: int, data: tuple[int, ...], weight: tuple[int, ...]) -> Linear | None:
    """The weight may stand on either side; its batch axes count as taps."""
    if len(weight) < 2 or len(data) < 2:
        return None
    right = slot == 0  # the weight is the right operand, (…, K, N), else the left one, (…, M, K)

    def canonical(array: Array) -> Array:
        matrix = array if right else np.swapaxes(array, -1, -2)
        return matrix.reshape(-1, *matrix.shape[-2:]).transpose(1, 2, 0)[None]

    def restored(array: Array) -> Array:
        matrix: Array = array[0].transpose(2, 0, 1)
        return matrix.reshape(weight) if right else np.swapaxes(matrix, -1, -2).reshape(weight)

    flat = len(weight) == 2
    return Linear(
        node=node,
        slot=slot,
        axis=len(data) - (1 if right else 2),
        weight=1 - slot,
        groups=1,
        labels=(node.outputs[0], max(len(data), len(weight)) - (1 if right else 2)),
        bias="add" if flat else "",
        even=flat,
        out_axis=-1 if right else -2,
        canonical=canonical,
        restored=restored,
    )


def _recurrent(node: Node, slot: int) -> Linear:
    """W (directions, gates, inputs) and R (directions, gates, hidden); what is carried on in time is no data."""
    weight = 1 if slot == 0 else 2
    return Linear(
        node=node,
        slot=slot,
        axis=2,
        weight=weight,
        groups=1,
        labels=(node.inputs[weight], 1),
        bias="",
        even=False,
        out_axis=0,
        canonical=lambda w: w.transpose(2, 1, 0)[None],
        restored=lambda w: w[0].transpose(2, 1, 0),
    )
