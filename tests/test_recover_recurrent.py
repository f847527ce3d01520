"""Recurrent layers: sums of the gates against the operator itself, and redundant inputs and states made up for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphprune as gp
from graphprune.calibration.recurrent import Steps, gate_sums, input_rows, recurrents, state_rows
from graphprune.graph.run import Runner
from graphprune.recover.paired import Job
from graphprune.recover.refit import refit
from tests.graphs import Builder
from tests.recovery import changed_weight, run_all, stored, without

SIZE = 6
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "lstm": ("LSTM", 1, {}),
    "lstm both": ("LSTM", 2, {"direction": "bidirectional"}),
    "gru": ("GRU", 1, {"linear_before_reset": 1}),
    "gru reset first": ("GRU", 1, {"linear_before_reset": 0}),
    "gru reversed": ("GRU", 1, {"linear_before_reset": 1, "direction": "reverse"}),
    "rnn": ("RNN", 1, {}),
}
rng = np.random.default_rng(3)
DATA = [{"x": rng.standard_normal((9, 4, 5)).astype(np.float32)} for _ in range(16)]


def net(name: str, *, last_only: bool = False) -> tuple[Builder, str]:
    """x → product to 8 → Relu → recurrent layer of 6 → product; the builder and the output."""
    op, directions, attrs = CASES[name]
    b = Builder(name)
    x = b.op("Relu", b.linear(b.source("x", [9, 4, 5]), 5, 8, "embed"))
    rows = GATES[op] * SIZE
    w = b.weight(directions, rows, 8, fan_in=8, name="W")
    r = b.weight(directions, rows, SIZE, fan_in=SIZE, name="R")
    y = b.ops(op, x, w, r, b.weight(directions, 2 * rows, fan_in=4, name="B"), outputs=2, hidden_size=SIZE, **attrs)
    if last_only:
        b.nodes[-1].output[0] = ""
    out = b.transpose(y[1], 1, 0, 2) if last_only else b.transpose(y[0], 0, 2, 1, 3)
    shape = (4, directions * SIZE) if last_only else (9, 4, directions * SIZE)
    return b, b.linear(b.reshape(out, *shape), directions * SIZE, 3, "head")


@pytest.mark.parametrize("name", CASES)
def test_the_sums_of_the_gates_make_the_next_state(name: str) -> None:
    b, out = net(name)
    graph = gp.load(b.build(out))
    (layer,) = recurrents(graph)
    model = graph.source
    made_by_name = {v.name: v for n in model.graph for v in n.outputs}
    model.graph.outputs[:] = [made_by_name[layer.input], made_by_name[layer.states]]
    data, states = (np.asarray(a) for a in Runner(model, threads=1)(DATA[0]))
    at = Steps(input_rows(layer, {layer.input: data}), state_rows(layer, {}, states))
    weights = [graph.weights[n].read() for n in ("W", "R", "B")]
    sums = gate_sums(layer, (weights[0], weights[1], weights[2]), at)
    made = states.transpose(1, 0, 2, 3).reshape(states.shape[1], -1, SIZE)
    squash = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
    parts = np.split(sums.whole, GATES[layer.node.key], axis=2)
    if layer.node.key == "RNN":
        np.testing.assert_allclose(np.tanh(parts[0]), made, atol=1e-5)
    elif layer.node.key == "GRU":
        found = (1 - squash(parts[0])) * np.tanh(parts[2]) + squash(parts[0]) * at.states
        np.testing.assert_allclose(found, made, atol=1e-5)
    else:  # the cell is carried on: forward in the first direction
        cells = np.zeros((4, SIZE))
        for lo in range(0, made.shape[1], 4):
            i, o, f = (squash(p[0, lo : lo + 4]) for p in parts[:3])
            cells = f * cells + i * np.tanh(parts[3][0, lo : lo + 4])
            np.testing.assert_allclose(o * np.tanh(cells), made[0, lo : lo + 4], atol=1e-5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("last_only", [False, True])
def test_a_redundant_input_is_made_up_for(name: str, *, last_only: bool) -> None:
    b, out = net(name, last_only=last_only)
    for part in ("weight", "bias"):
        array = stored(b, f"embed.{part}")
        array[..., 5] = 2 * array[..., 2]
        changed_weight(b, f"embed.{part}", array)
    cut, small = without(b.build(out), "embed.weight", [5], axis=1)
    wanted = run_all(cut.deps.source.source, DATA)
    plainly = np.abs(run_all(small.source, DATA) - wanted).max()
    refit(Job(cut, small, DATA))
    assert np.abs(run_all(small.source, DATA) - wanted).max() < min(0.03 * plainly, 2e-3)


@pytest.mark.parametrize("name", CASES)
def test_a_state_that_repeats_another_is_made_up_for(name: str) -> None:
    """State 4 goes with state 1: same rows in every gate, so it is a copy that R and the head read again."""
    b, out = net(name)
    gates = GATES[CASES[name][0]]
    for part in ("W", "R", "B"):
        array = stored(b, part)
        for gate in range(gates * (2 if part == "B" else 1)):
            array[:, gate * SIZE + 4] = array[:, gate * SIZE + 1]
        changed_weight(b, part, array)
    cut, small = without(b.build(out), "R", [4], axis=2)
    wanted = run_all(cut.deps.source.source, DATA)
    plainly = np.abs(run_all(small.source, DATA) - wanted).max()
    report = refit(Job(cut, small, DATA))
    assert np.abs(run_all(small.source, DATA) - wanted).max() < min(0.03 * plainly, 2e-3)
    assert report[0].after < 0.01 * report[0].before


def test_lengths_and_first_states() -> None:
    """Sequences of unlike lengths and states that the caller hands in, both of the sizes before and after the cut."""
    b = Builder("lengths")
    x = b.op("Relu", b.linear(b.source("x", [9, 4, 5]), 5, 8, "embed"))
    names = [b.weight(1, n, k, fan_in=k, name=w) for w, n, k in (("W", 24, 8), ("R", 24, SIZE))]
    bias = b.weight(1, 48, name="B")
    lengths = b.const(np.array([9, 2, 5, 7], np.int32))
    first = [b.weight(1, 4, SIZE, name=n) for n in ("h", "c")]
    y = b.ops("LSTM", x, *names, bias, lengths, *first, outputs=3, hidden_size=SIZE)
    out = b.linear(b.op("Squeeze", b.op("Add", y[1], y[2]), b.ints(0)), SIZE, 3, "head")
    for part in ("W", "R", "B"):
        array = stored(b, part)
        for gate in range(8 if part == "B" else 4):
            array[:, gate * SIZE + 4] = array[:, gate * SIZE + 1]
        changed_weight(b, part, array)
    for part in ("h", "c"):
        array = stored(b, part)
        array[..., 4] = array[..., 1]
        changed_weight(b, part, array)
    cut, small = without(b.build(out), "R", [4], axis=2)
    wanted = run_all(cut.deps.source.source, DATA)
    plainly = np.abs(run_all(small.source, DATA) - wanted).max()
    refit(Job(cut, small, DATA))
    assert np.abs(run_all(small.source, DATA) - wanted).max() < min(0.03 * plainly, 2e-3)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("weight", "axis"), [("embed.weight", 1), ("R", 2)])
def test_what_cannot_be_made_up_for_loses_less(name: str, weight: str, axis: int) -> None:
    b, out = net(name)
    cut, small = without(b.build(out), weight, [0, 3], axis=axis)
    wanted = run_all(cut.deps.source.source, DATA)
    plainly = ((run_all(small.source, DATA) - wanted) ** 2).sum()
    report = refit(Job(cut, small, DATA))
    assert ((run_all(small.source, DATA) - wanted) ** 2).sum() < (0.5 if axis == 1 else 0.9) * plainly
    assert report[0].after < report[0].before
