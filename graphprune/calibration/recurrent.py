"""Recurrent layers whose weights can be fitted anew, and what their gates sum in the original."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphprune.calibration.normal import Real
from graphprune.calibration.sources import carried_out, states_before
from graphprune.calibration.views import Views
from graphprune.graph.model import Array, Graph, Node
from graphprune.graph.scopes import source_nodes
from graphprune.graph.sizes import cloned

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True)
class Recurrent:
    """A recurrent node with stored weights that nobody else reads.

    Attributes:
        node: The node.
        weight: Name of W, shape (directions, gates · hidden, inputs).
        recurrence: Name of R, shape (directions, gates · hidden, hidden).
        bias: Name of B, shape (directions, 2 · gates · hidden), "" when there is none.
    """

    node: Node
    weight: str
    recurrence: str
    bias: str

    @property
    def name(self) -> str:
        """Name of the node."""
        return self.node.name

    @property
    def input(self) -> str:
        """The sequence that it reads."""
        return self.node.inputs[0]

    @property
    def states(self) -> str:
        """The sequence of its states, once :func:`with_states` has named it."""
        return self.node.outputs[0] or f"{self.node.name}_states"

    @property
    def gates(self) -> int:
        """Gates of a cell."""
        return GATES[self.node.key]

    @property
    def resets_sums(self) -> bool:
        """Whether a GRU's reset gate multiplies what the states are summed to, not the states."""
        return self.node.key == "GRU" and bool(self.node.attrs.get("linear_before_reset", 0))

    def given(self, slot: int) -> str:
        """The value in an input slot, "" when there is none."""
        return self.node.inputs[slot] if len(self.node.inputs) > slot else ""

    @property
    def read(self) -> tuple[str, ...]:
        """The sequence, its lengths and the first states, as far as they are given."""
        return tuple(n for n in (self.input, self.given(4), self.given(5)) if n)


def recurrents(graph: Graph) -> Iterator[Recurrent]:
    """All recurrent layers of a graph that can be fitted, in graph order."""
    views = Views(graph)
    for node in graph.nodes:
        if node.key not in GATES or node.times != 1 or (node.key == "GRU" and node.attrs.get("activations")):
            continue
        names = [node.inputs[s] if len(node.inputs) > s else "" for s in (1, 2, 3)]
        held = [views.of(n) if n else None for n in names]
        if held[0] is None or held[1] is None or (names[2] and held[2] is None) or any(v and v.steps for v in held):
            continue
        yield Recurrent(node, names[0], names[1], names[2])


def with_states(model: ir.Model, graph: Graph) -> ir.Model:
    """The model, or a clone in which the sequences of all states have names."""
    wanted = {r.name: r.states for r in recurrents(graph) if not r.node.outputs[0]}
    if not wanted:
        return model
    model = cloned(model)
    for name, node in source_nodes(model):
        if name in wanted:
            node.outputs[0].name = wanted[name]
    return model


@dataclass(frozen=True)
class Steps:
    """All steps that a recurrent layer carries out on a feed; rows are time · batch.

    Attributes:
        inputs: Shape (rows, inputs).
        states: States one step before, shape (directions, rows, hidden).
    """

    inputs: Array
    states: Array


def input_rows(layer: Recurrent, values: Mapping[str, Array]) -> Array:
    """Rows of what the layer reads on a feed, from its operands by name."""
    data = values[layer.input]
    data = np.swapaxes(data, 0, 1) if layer.node.attrs.get("layout", 0) else data
    rows: Array = carried_out(data[:, None], values.get(layer.given(4)))[0]
    return rows


def state_rows(layer: Recurrent, values: Mapping[str, Array], states: Array) -> Array:
    """Rows of the states one step before, from its operands by name and the sequence of its states."""
    said = layer.node.attrs.get("direction", "forward")
    direction = said.decode() if isinstance(said, bytes) else str(said)
    ends, first = values.get(layer.given(4)), values.get(layer.given(5))
    batch_first = bool(layer.node.attrs.get("layout", 0))
    return carried_out(states_before(states, first, ends, direction, batch_first=batch_first), ends)


@dataclass(frozen=True)
class Sums:
    """What the gates of a recurrent layer sum, float64; gates lie behind each other on the last axis.

    Attributes:
        whole: Everything that goes into a gate, shape (directions, rows, gates · hidden).
        inputs: What comes from the inputs, the same shape.
        states: What comes from the states, the same shape.
        reset: Of a GRU the reset gate, shape (directions, rows, hidden); else ones.
    """

    whole: Real
    inputs: Real
    states: Real
    reset: Real


def gate_sums(layer: Recurrent, weights: tuple[Array, Array, Array | None], at: Steps) -> Sums:
    """Sums of all gates.

    Args:
        layer: The layer.
        weights: W, R and B.
        at: The steps.
    """
    w, r = np.asarray(weights[0], np.float64), np.asarray(weights[1], np.float64)
    half = w.shape[1]
    b = np.zeros((len(w), 2 * half)) if weights[2] is None else np.asarray(weights[2], np.float64)
    first, second = b[:, None, :half], b[:, None, half:]
    inputs = np.einsum("pi,dgi->dpg", at.inputs, w, optimize=True) + first
    states = np.asarray(at.states, np.float64)
    summed = states @ r.transpose(0, 2, 1) + second
    size = states.shape[2]
    reset = np.ones_like(states)
    if layer.node.key != "GRU":
        return Sums(inputs + summed, inputs, summed, reset)
    reset = 1 / (1 + np.exp(-(inputs + summed)[..., size : 2 * size]))
    last = slice(2 * size, 3 * size)
    whole = inputs + summed
    if layer.resets_sums:
        whole[..., last] = inputs[..., last] + reset * summed[..., last]
    else:
        again = (reset * states) @ r[:, last].transpose(0, 2, 1)
        summed[..., last] = again + second[..., last]
        whole[..., last] = inputs[..., last] + summed[..., last]
    return Sums(whole, inputs, summed, reset)
