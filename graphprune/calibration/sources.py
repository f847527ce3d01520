"""What each kind of layer reads, as rows: one per output position, chunk by chunk so that little memory is taken."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from graphprune.calibration.aten import aten_linear
from graphprune.calibration.grams import Source
from graphprune.calibration.unfold import unfold, unfolds
from graphprune.calibration.values import HIDDEN
from graphprune.errors import InputError
from graphprune.folding.linear import Linear, linear
from graphprune.graph.model import Array, Graph, Node

_CHUNK = 1 << 24  # elements unfolded at once
CHUNK_BYTES = 4 * _CHUNK
_RECURRENT = ("LSTM", "GRU", "RNN")


def layer_source(graph: Graph, node: Node, slot: int) -> Source:
    """Rows of what a layer sums with a weight; for a recurrent layer's R the states one step before.

    The order of the columns is that of :class:`graphprune.folding.linear.Linear`: inputs of a group, taps within. R has
    a matrix per direction.

    Raises:
        InputError: The node sums in a way that is not described.
    """
    if node.key in _RECURRENT and slot in (0, 2):
        return _recurrent(graph, node, slot)
    found = aten_linear(graph, node, slot) if "slots" in node.attrs else linear(graph, node, slot)
    if found is None or not unfolds(found):
        raise InputError(f"{node.key} {node.name}: there is no Gram matrix for input {slot}")
    weight = graph.values[node.inputs[found.weight]].shape or ()
    kernel = weight[2:] if found.node.key not in ("Gemm", "MatMul") else ()
    width = (graph.values[node.inputs[slot]].shape or ())[found.axis] // found.groups * math.prod(kernel)
    name = node.inputs[slot]
    rank = len(kernel) + 2 if kernel else 0

    def chunks(values: Mapping[str, Array], rng: np.random.Generator, limit: int | None) -> Iterator[Array]:
        data = values[name]
        data = data[None] if rank and data.ndim == rank - 1 else data  # PyTorch: without a batch
        yield from _unfolded(found, data, kernel, rng, limit)

    return Source((name,), found.groups, width, chunks)


def _unfolded(
    found: Linear, data: Array, kernel: Sequence[int], rng: np.random.Generator, limit: int | None
) -> Iterator[Array]:
    """A layer's rows; windows are made a few samples at a time."""
    if not kernel:
        rows = unfold(found, data, kernel)
        chosen = _sample(rows.shape[1], rng, limit)
        yield rows if chosen is None else rows[:, chosen]
        return
    each = unfold(found, data[:1], kernel, np.zeros(1, np.int64)).size  # elements of one position
    per_sample = _places(found, data, kernel)
    chosen = _sample(len(data) * per_sample, rng, limit)
    step = max(1, _CHUNK // max(per_sample * each, 1))
    if chosen is None and per_sample * each <= _CHUNK:
        for lo in range(0, len(data), step):
            yield unfold(found, data[lo : lo + step], kernel)
        return
    positions = np.arange(len(data) * per_sample) if chosen is None else chosen
    step = max(1, _CHUNK // max(each, 1))
    for lo in range(0, len(positions), step):
        yield unfold(found, data, kernel, positions[lo : lo + step])


def _places(found: Linear, data: Array, kernel: Sequence[int]) -> int:
    """Output positions of one sample: those of a single channel."""
    return int(unfold(replace(found, groups=1), data[:1, :1], kernel).shape[1])


def _sample(total: int, rng: np.random.Generator, limit: int | None) -> np.ndarray | None:
    """Positions drawn without replacement, in order; None for all."""
    return np.sort(rng.choice(total, limit, replace=False)) if limit is not None and total > limit else None


def channel_source(graph: Graph, name: str, axes: tuple[int, ...]) -> Source:
    """Rows of a value's positions along an axis; several axes count as one, their product.

    Raises:
        InputError: The value's shape is unknown.
    """
    shape = graph.values[name].shape
    if shape is None:
        raise InputError(f"{name}: its shape is unknown")

    def chunks(values: Mapping[str, Array], rng: np.random.Generator, limit: int | None) -> Iterator[Array]:
        data = np.moveaxis(values[name], axes, range(-len(axes), 0))
        rows = data.reshape(-1, math.prod(data.shape[-len(axes) :]))
        chosen = _sample(len(rows), rng, limit)
        yield (rows if chosen is None else rows[chosen])[None]

    return Source((name,), 1, math.prod(shape[a] for a in axes), chunks)


def _recurrent(graph: Graph, node: Node, slot: int) -> Source:
    """The input of a recurrent layer, or its states one step before, without steps behind the end of a sequence."""
    weight = graph.values[node.inputs[1 if slot == 0 else 2]].shape
    assert weight is not None
    data, ends, first = node.inputs[0], _given(node, 4), _given(node, 5)
    states = f"{node.name}{HIDDEN}"
    batch_first = bool(node.attrs.get("layout", 0))
    direction = node.attrs.get("direction", "forward")
    direction = direction.decode() if isinstance(direction, bytes) else str(direction)
    fixed = {n: a for n in (ends, first) if n and (a := graph.constant(n)) is not None}

    def chunks(values: Mapping[str, Array], rng: np.random.Generator, limit: int | None) -> Iterator[Array]:
        def value(name: str) -> Array | None:
            return fixed[name] if name in fixed else values.get(name) if name else None

        if slot == 0:
            x = values[data]
            steps = (np.swapaxes(x, 0, 1) if batch_first else x)[:, None]
        else:
            steps = states_before(values[states], value(first), value(ends), direction, batch_first=batch_first)
        rows = carried_out(steps, value(ends))
        chosen = _sample(rows.shape[1], rng, limit)
        yield rows if chosen is None else rows[:, chosen]

    names = (data,) if slot == 0 else (states,)
    varying = tuple(n for n in (ends, first if slot else "") if n and n not in fixed)
    return Source((*names, *varying), weight[0] if slot else 1, weight[2], chunks)


def _given(node: Node, slot: int) -> str:
    return node.inputs[slot] if len(node.inputs) > slot else ""


def states_before(made: Array, first: Array | None, ends: Array | None, direction: str, *, batch_first: bool) -> Array:
    """What each step reads as the state, shape (time, directions, batch, hidden)."""
    states = made.transpose(1, 2, 0, 3) if batch_first else made
    if first is not None and batch_first:
        first = np.swapaxes(first, 0, 1)
    out = np.zeros_like(states)
    for place in range(states.shape[1]):
        start = np.zeros_like(states[0, place]) if first is None else first[place]
        if direction == "reverse" or place == 1:
            out[:-1, place] = states[1:, place]
            last = np.full(states.shape[2], len(states)) if ends is None else np.asarray(ends)
            lanes = np.flatnonzero(last > 0)
            out[last[lanes] - 1, place, lanes] = start[lanes]
        else:
            out[1:, place] = states[:-1, place]
            out[0, place] = start
    return out


def carried_out(steps: Array, ends: Array | None) -> Array:
    """Rows (directions, time · batch, features) of the steps that are carried out."""
    time, directions, batch, width = steps.shape
    rows = steps.transpose(1, 0, 2, 3).reshape(directions, time * batch, width)
    if ends is None:
        return rows
    return rows[:, (np.arange(time)[:, None] < np.asarray(ends)[None]).ravel()]
