"""Branches and loops in random graphs: their bodies read live tensors and weights of both scopes."""

from __future__ import annotations

import numpy as np

from tests.graphs.control import body
from tests.properties.registry import op
from tests.properties.state import State, Value, fits


def _matrix(s: State, v: Value) -> bool:
    return not s.dynamic and 2 <= v.rank <= 3 and s.b.opset >= 13 and v.shape[-1] >= 2


def _typed(shape: tuple[int, ...]) -> str:
    return f"float[{', '.join(map(str, shape))}]"


@op(_matrix, weight=2, kind="stress")
def branches(s: State, v: Value) -> Value:
    """Each branch multiplies by a matrix, its own or one outside, perhaps with a hidden layer between."""
    n, out = v.shape[-1], s.size()
    shape = (*v.shape[:-1], out)
    if not fits(shape):
        return v
    graphs = []
    for name in ("then", "other"):
        inner = s.size()
        first, second = s.b.sample(n, inner, fan_in=n), s.b.sample(inner, out, fan_in=inner)
        own = {f"{name}_first": first, f"{name}_second": second} if s.flag() else {}
        words = list(own) or [s.b.const(first, s.b.fresh("outer")), s.b.const(second, s.b.fresh("outer"))]
        act = s.pick(("Relu", "Tanh", "Sigmoid"))
        text = (
            f"{name} () => ({_typed(shape)} {name}_out) {{ {name}_h = MatMul(%s, {words[0]})"
            f" {name}_r = {act}({name}_h) {name}_out = MatMul({name}_r, {words[1]}) }}"
        )
        graphs.append(body(text, v.name, **own))
    mean = s.b.op("ReduceMean", v.name, keepdims=0)
    flag = s.b.op("Greater", mean, s.b.scalar(s.pick((-9.0, 9.0))))  # a rounding error cannot turn it round
    return Value(s.b.op("If", flag, then_branch=graphs[0], else_branch=graphs[1]), shape, v.degree + 1)


@op(_matrix, weight=2, kind="stress")
def loop(s: State, v: Value) -> list[Value]:
    """A state that goes through the same two layers for some turns, and what is seen of it every turn."""
    n, inner = v.shape[-1], s.size()
    first = s.b.const(s.b.sample(n, inner, fan_in=n), s.b.fresh("loop"))
    second = s.b.const(s.b.sample(inner, n, fan_in=inner), s.b.fresh("loop"))
    state = _typed(v.shape)
    turn = body(
        f"turn (int64[] i, bool[] go, {state} h) => (bool[] again, {state} next, {state} seen) {{"
        f" again = Identity(go) a = MatMul(h, {first}) r = Relu(a) c = MatMul(r, {second}) next = Tanh(c)"
        f" seen = {s.pick(('Relu', 'Sigmoid', 'Neg'))}(next) }}"
    )
    turns = s.number(2, 3)
    last, seen = s.b.ops("Loop", s.b.const(np.int64(turns)), "", v.name, outputs=2, body=turn)
    s.b.hint(last, *v.shape)
    s.b.hint(seen, turns, *v.shape)
    return [Value(last, v.shape, 1), Value(seen, (turns, *v.shape), 1)]


@op(lambda s, v: _matrix(s, v) and v.rank == 3, weight=2, kind="stress")
def scan(s: State, v: Value) -> list[Value]:
    """A recurrent cell over the first or the second axis."""
    axis = s.number(0, 1)
    rest, n = v.shape[1 - axis], v.shape[2]
    hidden, out = s.size(), s.size()
    w, r, o = (
        s.b.const(s.b.sample(a, b, fan_in=a), s.b.fresh("scan"))
        for a, b in ((n, hidden), (hidden, hidden), (hidden, out))
    )
    cell = body(
        f"cell ({_typed((rest, hidden))} h, {_typed((rest, n))} x) =>"
        f" ({_typed((rest, hidden))} next, {_typed((rest, out))} y) {{"
        f" w = MatMul(x, {w}) r = MatMul(h, {r}) s = Add(w, r) next = Tanh(s) y = MatMul(next, {o}) }}"
    )
    more = {"scan_input_axes": [axis], "scan_output_axes": [axis], "scan_input_directions": [s.number(0, 1)]}
    start = s.b.const(np.zeros((rest, hidden), np.float32))
    last, steps = s.b.ops("Scan", start, v.name, outputs=2, body=cell, num_scan_inputs=1, **more)
    shape = (rest, v.shape[axis], out) if axis else (v.shape[axis], rest, out)
    s.b.hint(last, rest, hidden)
    s.b.hint(steps, *shape)
    return [Value(last, (rest, hidden), 1), Value(steps, shape, 1)]
