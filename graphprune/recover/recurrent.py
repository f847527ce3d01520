"""Re-fits a recurrent layer on the sums of its gates in the original.

Inputs are those that the pruned layers in front give, states those of the original that stay; then a second fit takes
the states that the fitted layer really runs through. Each is kept only if the layer's outputs come closer.

Source: the least squares of He et al. (ICCV 2017) on the gates, with states of the original as in Williams, Zipser, "A
Learning Algorithm for Continually Running Fully Recurrent Neural Networks" (teacher forcing), 1989.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from graphprune.calibration.normal import Normal, Real
from graphprune.calibration.recurrent import Recurrent, Steps, Sums, gate_sums, input_rows, state_rows
from graphprune.calibration.walks import Walking
from graphprune.coupling.box import Box
from graphprune.coupling.cut import Cut
from graphprune.graph.model import Array, Graph
from graphprune.recover.contents import content, exchange
from graphprune.recover.paired import HELD, LayerError
from graphprune.recover.ridge import fit

Weights = tuple[Array, Array, Array | None]


@dataclass(frozen=True)
class _Part:
    """Gates that are fitted together.

    Attributes:
        gates: Their numbers.
        inputs: Whether they sum the inputs.
        states: "" when they do not sum the states, "states", or "reset" for the states behind the reset gate.
    """

    gates: tuple[int, ...]
    inputs: bool
    states: str


def _parts(layer: Recurrent) -> tuple[_Part, ...]:
    if layer.node.key != "GRU":
        return (_Part(tuple(range(layer.gates)), inputs=True, states="states"),)
    first = _Part((0, 1), inputs=True, states="states")
    if layer.resets_sums:
        return first, _Part((2,), inputs=True, states=""), _Part((2,), inputs=False, states="states")
    return first, _Part((2,), inputs=True, states="reset")


@dataclass(frozen=True)
class RecurrentPair:
    """Both models at a recurrent layer; the original is past it, the pruned model in front of it."""

    cut: Cut
    small: Graph
    layer: Recurrent
    dense: Walking
    pruned: Walking

    def values(self, at: Walking, graph: Graph) -> Iterator[dict[str, Array]]:
        """What the layer reads, feed by feed."""
        fixed = {n: a for n in self.layer.read if not at.has(n) and (a := graph.constant(n)) is not None}
        streams = {n: at.value(n) for n in self.layer.read if n not in fixed}
        for _ in range(at.feeds):
            yield fixed | {n: np.asarray(next(s)) for n, s in streams.items()}

    def weights(self, graph: Graph) -> Weights:
        """W, R and B as they are now."""
        layer = self.layer
        bias = content(graph, layer.bias) if layer.bias else None
        return content(graph, layer.weight), content(graph, layer.recurrence), bias

    def rows(self, *, own: bool) -> Iterator[tuple[Steps, Sums, Real]]:
        """Per feed the pruned steps, the original's sums of the gates that stay, and the states behind the reset."""
        source, layer = self.cut.deps.source, self.layer
        weights = self.weights(source)
        hers = self.pruned.peek(layer.states) if own else None
        streams = (
            self.values(self.dense, source),
            self.dense.value(layer.states),
            self.values(self.pruned, self.small),
        )
        for given, states, mine in zip(*streams, strict=True):
            at = Steps(input_rows(layer, given), state_rows(layer, given, states))
            sums = gate_sums(layer, weights, at)
            reset = self._kept_states(sums.reset)
            before = self._kept_states(at.states) if hers is None else state_rows(layer, mine, next(hers))
            now = Steps(input_rows(layer, mine), before)
            whole, first, second = (self._kept_gates(a) for a in (sums.whole, sums.inputs, sums.states))
            yield now, Sums(whole, first, second, reset), np.asarray(reset * now.states)

    def _kept_gates(self, sums: Array) -> Array:
        box = self.cut.box(self.layer.weight, 3)
        inner = Box({a: k for a, k in box.axes.items() if a < 2}, {a: r for a, r in box.ragged.items() if a < 2})
        return inner.take(sums.transpose(0, 2, 1)).transpose(0, 2, 1)

    def _kept_states(self, states: Array) -> Array:
        box = self.cut.box(self.layer.recurrence, 3)
        turned = {0: 0, 2: 1}  # the states' axis of R is here axis 1
        axes = {turned[a]: k for a, k in box.axes.items() if a in turned}
        ragged = {turned[a]: r for a, r in box.ragged.items() if a in turned}
        return Box(axes, ragged).take(states.transpose(0, 2, 1)).transpose(0, 2, 1)

    def error(self) -> float:
        """Squared error of the outputs on the feeds that judge, relative to their energy."""
        off = energy = 0.0
        judges = [f for f in range(self.pruned.feeds) if f % HELD == HELD - 1 or self.pruned.feeds < HELD]
        for name in (n for n in self.layer.node.outputs if n):
            for feed, (now, whole) in enumerate(zip(self.pruned.peek(name), self.dense.value(name), strict=True)):
                if feed in judges:
                    wanted = self.cut.box(name, whole.ndim).take(np.asarray(whole, np.float64))
                    off += float(((now - wanted) ** 2).sum())
                    energy += float(((wanted - wanted.mean()) ** 2).sum())
        return off / max(energy, 1e-30)


def refit_recurrent(pair: RecurrentPair) -> LayerError:
    """Fit W, R and B anew, in place, and say what it did."""
    layer = pair.layer
    names = (layer.weight, layer.recurrence, layer.bias)
    before = error = pair.error()
    best, strength = pair.weights(pair.small), np.inf
    for own in (False, True):
        if own and not pair.pruned.makes(layer.states):
            break
        tried, used = _fitted(pair, own=own)
        _put(pair, names, tried)
        after = pair.error()
        if after < error:
            best, error, strength = tried, after, used
        else:
            _put(pair, names, best)
    return LayerError(layer.name, before, error, strength)


def _put(pair: RecurrentPair, names: tuple[str, str, str], weights: Weights) -> None:
    for name, array in zip(names, weights, strict=True):
        if array is not None:
            exchange(pair.small, name, array)


def _fitted(pair: RecurrentPair, *, own: bool) -> tuple[Weights, float]:
    """New weights, from the states of the original or from the layer's own."""
    layer = pair.layer
    w, r, bias = (None if a is None else np.array(a, np.float64) for a in pair.weights(pair.small))
    assert w is not None and r is not None
    parts, strengths = _parts(layer), []
    for part, direction, train, held in _summed(pair, parts, (w, r), own=own):
        rows = _rows(part, r.shape[2])
        pieces = ([w[direction, rows].T] if part.inputs else []) + ([r[direction, rows].T] if part.states else [])
        half = slice(0, w.shape[1]) if part.inputs else slice(w.shape[1], None)
        both = np.zeros(len(rows))
        if bias is not None:
            first, second = bias[direction, : w.shape[1]][rows], bias[direction, w.shape[1] :][rows]
            both = first * part.inputs + second * bool(part.states)
        found = fit(train, held, np.concatenate(pieces)[None], both[None], free_bias=bias is not None)
        strengths.append(found.strength)
        at = w.shape[2] if part.inputs else 0
        if part.inputs:
            w[direction, rows] = found.weight[0, :at].T
        if part.states:
            r[direction, rows] = found.weight[0, at:].T
        if bias is not None:
            bias[direction, half][rows] += found.bias[0] - both
    return (w, r, bias), max(strengths)


def _rows(part: _Part, size: int) -> Array:
    return np.concatenate([np.arange(g * size, (g + 1) * size) for g in part.gates])


def _summed(
    pair: RecurrentPair, parts: tuple[_Part, ...], weights: tuple[Array, Array], *, own: bool
) -> Iterator[tuple[_Part, int, Normal, Normal]]:
    """Normal equations, to fit and to judge by, of each part and direction."""
    w, r = weights
    size, feeds = r.shape[2], pair.pruned.feeds
    sums = {
        (k, d, held): Normal.empty(1, w.shape[2] * part.inputs + size * bool(part.states), size * len(part.gates))
        for k, part in enumerate(parts)
        for d in range(len(w))
        for held in (False, True)
    }
    for feed, (now, wanted, behind) in enumerate(pair.rows(own=own)):
        judges = feed % HELD == HELD - 1 if feeds >= HELD else None
        for k, part in enumerate(parts):
            target = wanted.whole if part.inputs and part.states else wanted.inputs if part.inputs else wanted.states
            for d in range(len(w)):
                states = behind[d] if part.states == "reset" else now.states[d]
                x = np.concatenate(([now.inputs] if part.inputs else []) + ([states] if part.states else []), axis=1)
                y = target[d][:, _rows(part, size)]
                for held in (False, True) if judges is None else (judges,):
                    sums[k, d, held].add(x[None].astype(np.float32), y[None].astype(np.float32))
    for k, part in enumerate(parts):
        for d in range(len(w)):
            yield part, d, sums[k, d, False], sums[k, d, True]
