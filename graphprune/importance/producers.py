"""The weights that make the channels of a unit, as one vector per unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphprune.algebra.axis import Ids
from graphprune.coupling.groups import DependencyGraph
from graphprune.graph.model import Array, Graph, Node
from graphprune.importance.contractions import Roles, roles
from graphprune.importance.slices import families, labels
from graphprune.importance.weights import Real, not_finite, read

Matrix = NDArray[np.float32]
_SHIFTS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "com.microsoft.FusedConv": 2}
_ADDED = ("Add", "Sub", "com.microsoft.BiasGelu", "com.microsoft.FastGelu", "com.microsoft.BiasAdd")


@dataclass(frozen=True, slots=True)
class Rows:
    """What one weight axis holds of the units of a group.

    Attributes:
        group: Number of the group.
        matrix: Contents, shape (units of the group, elements of one unit).
    """

    group: int
    matrix: Matrix


def producers(deps: DependencyGraph, *, shifts: bool) -> list[list[Matrix]]:
    """Per group the matrices (units, elements) of all weights that make its channels.

    A group that nothing makes, such as one of inputs, is given by the weights that read it.

    Args:
        deps: The dependency graph.
        shifts: Whether vectors that are added (biases) belong to it, and kernels are those behind a BatchNorm that
            follows them.

    Raises:
        InputError: A weight holds NaN or infinite values.
    """
    role = roles(deps)
    scales, vectors = affine(deps.source, role) if shifts else ({}, {})
    made: list[list[Matrix]] = [[] for _ in deps.groups]
    used: list[list[Matrix]] = [[] for _ in deps.groups]
    family = families(deps)
    for name, array, axes in read(deps):
        if not np.isfinite(array).all():
            raise not_finite(deps, name)
        if array.size == max(array.shape, default=0):
            if name not in vectors:
                continue
            array = vectors[name].reshape(array.shape)  # noqa: PLW2901
        for axis in axes:
            inner = (name, axis) in role.consumed
            scale = scales.get(name) if axis == 0 and not inner else None
            seen = array if scale is None else array * scale.reshape(-1, *[1] * (array.ndim - 1))
            for rows in _rows(deps, family, name, axis, seen):
                (used if inner else made)[rows.group].append(rows.matrix)
    return [m or u for m, u in zip(made, used, strict=True)]


def _rows(deps: DependencyGraph, family: Ids, name: str, axis: int, array: Real) -> Iterator[Rows]:
    """One matrix for every group on an axis whose units have equally many positions there."""
    units = labels(deps, name, axis)
    assert units is not None
    ragged = deps.ragged.get((name, axis))
    front = (axis,) if ragged is None else (ragged.block, axis)
    flat = np.moveaxis(array, front, range(len(front))).reshape(int(np.prod([array.shape[a] for a in front])), -1)
    columns = units.reshape(-1, units.shape[-1])
    for column in columns.T:
        groups = family[column]
        groups[column == 0] = -1
        for number in np.unique(groups[groups >= 0]):
            here = np.flatnonzero(groups == number)
            order = here[np.argsort(_place(deps.groups[number].units, column[here]), kind="stable")]
            size = deps.groups[number].size
            if len(np.unique(column[here])) == size and len(order) % size == 0 and _even(column[order], size):
                matrix = flat[order].reshape(size, -1)
                yield Rows(int(number), np.asarray(matrix, np.float32))


def _place(units: Ids, ids: Ids) -> NDArray[np.intp]:
    """Where each id stands among the units."""
    order = np.argsort(units)
    return order[np.searchsorted(units[order], ids)]


def _even(column: Ids, size: int) -> bool:
    """Whether ids that are sorted by unit are equally many for each."""
    table = column.reshape(size, -1)
    return bool((table == table[:, :1]).all())


def affine(graph: Graph, role: Roles) -> tuple[dict[str, Array], dict[str, Array]]:
    """What follows the kernels: factors per row of a kernel, and vectors that are added, each by stored name.

    A BatchNorm behind a convolution scales the rows of its kernel; what is added then stands under the name of the
    BatchNorm's own shift, since the convolution may have none.
    """
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    scales: dict[str, Array] = {}
    vectors: dict[str, Array] = {}
    for node in graph.nodes:
        weight, bias = _kernel(node)
        behind = readers.get(node.outputs[0], []) if weight in graph.weights else []
        norm = _norm(graph, behind[0]) if len(behind) == 1 else None
        if norm is not None and graph.weights[weight].shape[:1] == norm[1].shape:
            name, scale, mean, shift = norm
            scales[weight] = scale
            own = graph.constant(bias) if bias else None
            vectors[name] = shift + ((0.0 if own is None else own) - mean) * scale
            continue
        candidates = [bias] if weight else list(node.inputs) if node.key in _ADDED or node.op.startswith("add.") else []
        for name in candidates:
            found = graph.constant(name) if name in role.stored and name in graph.weights else None
            if found is not None and found.size == max(found.shape, default=0):
                vectors[name] = found
    return scales, vectors


def _kernel(node: Node) -> tuple[str, str]:
    """Names of a layer's weight and bias, "" where there is none."""
    slots = node.attrs.get("slots")
    if isinstance(slots, dict):  # an operator of PyTorch
        weight, bias = slots.get("weight"), slots.get("bias")
        if not isinstance(weight, int) or not ("conv" in node.op or node.op.startswith("linear")):
            return "", ""
        return node.inputs[weight], node.inputs[bias] if isinstance(bias, int) else ""
    if node.key not in _SHIFTS:
        return "", ""
    slot = _SHIFTS[node.key]
    return node.inputs[1], node.inputs[slot] if len(node.inputs) > slot else ""


def _norm(graph: Graph, node: Node) -> tuple[str, Array, Array, Array] | None:
    """A BatchNorm's name of the shift, and its factor, mean and shift per channel."""
    slots = node.attrs.get("slots")
    if isinstance(slots, dict):
        places = [slots.get(n) for n in ("weight", "bias", "running_mean", "running_var")]
        if "batch_norm" not in node.op or not all(isinstance(p, int) for p in places):
            return None
        names, eps = [node.inputs[int(p or 0)] for p in places], float(node.attrs.get("eps", 1e-5))
    elif node.key == "BatchNormalization" and len(node.inputs) == 5:
        names, eps = list(node.inputs[1:]), float(node.attrs.get("epsilon", 1e-5))
    else:
        return None
    arrays = [graph.constant(n) for n in names]
    if any(a is None for a in arrays) or names[1] not in graph.weights:
        return None
    scale, shift, mean, variance = (np.asarray(a, np.float32) for a in arrays)
    return names[1], scale / np.sqrt(variance + np.float32(eps)), mean, shift


def gram(matrices: Sequence[Matrix], lo: int, hi: int) -> NDArray[np.float32]:
    """Inner products of units lo to hi with all units, over all matrices, shape (hi - lo, units)."""
    out: NDArray[np.float32] = np.sum([m[lo:hi] @ m.T for m in matrices], axis=0, dtype=np.float32)
    return out
