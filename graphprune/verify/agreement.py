"""How far a pruned model still says what the original says, on samples without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from graphprune.coupling.cut import Cut
from graphprune.data import Samples
from graphprune.graph.model import Array, Graph
from graphprune.verify.answers import Answers
from graphprune.verify.inner import box

MOST = 256  # samples compared
_LINEAR = {"MatMul", "Gemm", "FusedMatMul", "linear", "addmm", "matmul", "mm"}


@dataclass(frozen=True, slots=True)
class Agreement:
    """One output, original against pruned.

    Attributes:
        output: Its name.
        cosine: Mean over samples of the cosine between the two; None for an output that is no float.
        relative_l2: sqrt(sum of squared differences / sum of squares of the original); None for no float.
        top1: Share of positions with the same largest entry, where an output looks like class scores; for integers
            and strings the share of equal entries; else None.
    """

    output: str
    cosine: float | None
    relative_l2: float | None
    top1: float | None


@dataclass
class _Sums:
    cosines: list[NDArray[np.float64]] = field(default_factory=list)
    off: float = 0.0
    scale: float = 0.0
    same: int = 0
    places: int = 0


def agreement(
    graph: Graph, cut: Cut, original: Answers, pruned: Answers, samples: Samples
) -> tuple[tuple[Agreement, ...], int]:
    """Compare the outputs of two models on up to 256 samples, spread over all.

    An output of another size than the original's counts as a miss in every measure.

    Args:
        graph: The original.
        cut: What the pruned model lost.
        original: The original's answers.
        pruned: The pruned model's.
        samples: The samples.

    Returns:
        One entry per output, and the number of samples.

    Raises:
        CannotRun: A model does not run.
    """
    classes = {name: class_axis(graph, name) for name in graph.outputs}
    sums = {name: _Sums() for name in graph.outputs}
    step = -(-samples.count // MOST)
    used = 0
    for k, feed in enumerate(samples):
        if k % step and len(samples) > 1:
            continue
        used += samples.in_feed(k)
        free = samples.batched and len({len(a) for a in feed.values() if a.ndim}) == 1
        rows = next(len(a) for a in feed.values() if a.ndim) if free else 0
        for name, wanted, got in zip(graph.outputs, original(feed), pruned(feed), strict=True):
            _add(sums[name], box(cut, name, np.asarray(wanted)), np.asarray(got), classes[name], rows)
    return tuple(_summed(name, s) for name, s in sums.items()), used


def class_axis(graph: Graph, output: str) -> int | None:
    """The axis along which an output holds class scores; None if it does not look like that.

    That is where a softmax ran, or the last axis of a matrix, or of what a linear layer made of a sequence; of fixed
    size, two at least.
    """
    makers = {name: node for node in graph.nodes for name in node.outputs}
    value, node = graph.values[output], makers.get(output)
    while node is not None and node.op in ("Identity", "Cast"):
        node = makers.get(node.inputs[0])
    rank = len(value.shape or ())
    if not value.shape or rank < 2:
        return None
    axis = rank - 1
    if node is not None and "softmax" in node.op.lower():
        axis = int(node.attrs.get("axis", node.attrs.get("dim", -1))) % rank
    elif rank > 3 or (rank == 3 and not _is_linear(makers, node)):
        return None
    return axis if axis and value.shape[axis] > 1 and not value.dynamic[axis] else None


def _is_linear(makers: Mapping[str, object], node: object) -> bool:
    """Whether a node is a linear layer, or the bias of one."""
    op, inputs = getattr(node, "op", ""), getattr(node, "inputs", ())
    if op in ("Add", "add"):
        return any(getattr(makers.get(n), "op", "").split(".")[0] in _LINEAR for n in inputs)
    return op.split(".")[0] in _LINEAR


def _add(sums: _Sums, wanted: Array, got: Array, classes: int | None, rows: int) -> None:
    """Take one pair of outputs in; ``rows`` is the number of samples along axis 0, 0 for one sample."""
    rows = rows if wanted.ndim and len(wanted) == rows else 0
    if wanted.dtype.kind not in "fV":
        sums.places += wanted.size
        sums.same += int((wanted == got).sum()) if wanted.shape == got.shape else 0
        return
    a, b = wanted.astype(np.float64), got.astype(np.float64)
    if a.shape != b.shape:
        b = np.zeros_like(a)
    elif classes is not None and classes < a.ndim:
        sums.same += int((a.argmax(classes) == b.argmax(classes)).sum())
    if classes is not None and classes < a.ndim:
        sums.places += a.size // a.shape[classes]
    good = np.isfinite(a) & np.isfinite(b)
    a, b = (np.where(good, v, 0.0).reshape(max(rows, 1), -1) for v in (a, b))
    sums.off += float(np.square(a - b).sum())
    sums.scale += float(np.square(a).sum())
    sums.cosines.append(_cosines(a, b))


def _cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine of each row; of two zero rows 1."""
    long, other = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    product = (a * b).sum(axis=1)
    both = long * other
    out = np.divide(product, both, out=np.zeros_like(both), where=both > 0)
    out[(long == 0) & (other == 0)] = 1.0
    return np.asarray(np.clip(out, -1.0, 1.0), np.float64)


def _summed(name: str, sums: _Sums) -> Agreement:
    top1 = sums.same / sums.places if sums.places else None
    if not sums.cosines:
        return Agreement(name, None, None, top1)
    relative = np.sqrt(sums.off / sums.scale) if sums.scale else float(sums.off > 0)
    return Agreement(name, _mean(sums.cosines), float(relative), top1)


def _mean(parts: Sequence[NDArray[np.float64]]) -> float:
    return float(np.concatenate(parts).mean())
