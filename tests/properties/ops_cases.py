"""Any operator that has a case in tests/operators, put into a random graph: a new case is a new operator here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace as changed
from functools import cache
from math import prod
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, defs

from tests.operators import CASES
from tests.operators.case import DTYPES, Built, Case, OneOf, size_of, tokens
from tests.operators.legacy import upgraded
from tests.properties.registry import op
from tests.properties.state import MAX_ELEMENTS, MAX_RANK, State, Value
from tests.test_operators import evaluate

BROKEN = {"AffineGrid"}  # onnxruntime's optimiser spoils its body in some graphs that it runs without optimisation
WIDEST = 256  # elements that a matrix in front of an operator reads


@cache
def cases(opset: int) -> tuple[Case, ...]:
    """Cases that mean the same in an opset and that onnxruntime runs; those whose operators have no schema in any."""
    return tuple(c for c in CASES if _version(c, c.opset) == _version(c, opset) and has_kernel(changed(c, opset=opset)))


def has_kernel(one: Case) -> bool:
    """Whether onnxruntime runs a case at all, and its neighbours beside it."""
    if one.op in BROKEN:
        return False
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(upgraded(Built(one, 0).subject()).SerializeToString(), options, ["CPUExecutionProvider"])
    except Exception:
        return False
    return True


def _version(one: Case, opset: int) -> int:
    domain, _, op_type = one.op.rpartition(".")
    if domain or not defs.has(op_type, opset):
        return 0 if domain or not defs.has(op_type) else -opset
    return int(defs.get_schema(op_type, opset).since_version)


def bound(words: list[str], shape: tuple[int, ...]) -> dict[str, int] | None:
    """Sizes of the letters for which axes as a case writes them have this shape; None when they cannot."""
    sizes: dict[str, int] = {}
    if len(words) != len(shape):
        return None
    for word, n in zip(words, shape, strict=True):
        if word.isdigit() and int(word) == n:
            continue
        if len(word) != 1 or word.isdigit() or sizes.get(word, n) != n or n < 2:
            return None
        sizes[word] = n
    return sizes


@op(lambda s, v: not s.dynamic, weight=40, kind="stress")
def any_operator(s: State, v: Value) -> list[Value]:
    """One case: its tensors are computed from live ones, or are live ones as they are where they fit."""
    one = s.pick(cases(s.b.opset))
    letters = {c for arg in one.inputs for t in tokens(arg) for c in t if c.isalpha()}
    plain_first = bool(one.inputs) and isinstance(one.inputs[0], str) and one.inputs[0].split() == tokens(one.inputs[0])
    direct = bound(tokens(one.inputs[0]), v.shape) if plain_first and s.flag() else None
    if one.unit or one.positive or (direct and set(direct) & set(one.sizes)):
        direct = None
    fixed = {k: s.pick(v.options) if isinstance(v, OneOf) else v for k, v in one.sizes.items()}
    sizes = {**{c: s.number(2, 5) for c in sorted(letters)}, **(direct or {}), **fixed}
    shapes = [[size_of(t, sizes) for t in tokens(arg)] for arg in one.inputs]
    if any(prod(shape) > MAX_ELEMENTS for shape in shapes):
        return [s.add("Identity", v, shape=v.shape)]
    built = Built(changed(one, sizes=sizes), s.number(0, 2**16))
    try:
        plain = evaluate(built.subject(), built.feeds)
    except Exception:  # such sizes are not for it
        return [s.add("Identity", v, shape=v.shape)]
    taken = [v, *(s.pick(s.pool) if s.pool else v for _ in one.inputs)]
    names = [
        v.name if direct is not None and i == 0 else _argument(s, built, i, taken[i]) for i in range(len(one.inputs))
    ]
    while names and not names[-1]:
        names.pop()
    node = next(n for n in built.nodes if n.name == "subject")
    made = s.b.ops(node.op_type, *names, outputs=len(one.outputs), domain=node.domain)
    for attr in node.attribute:
        s.b.nodes[-1].attribute.append(attr)
    for k, used in enumerate(one.outputs):
        s.b.nodes[-1].output[k] = made[k] if used else ""
    used_names = [m for m, used in zip(made, one.outputs, strict=True) if used]
    if one.unpack is not None:
        used_names = [_opened(s, name, *one.unpack) for name in used_names]
    s.story.append(one.label)
    return [_result(s, name, array, one) for name, array in zip(used_names, plain, strict=True)]


def _opened(s: State, name: str, op_type: str, attrs: Mapping[str, Any]) -> str:
    """A tensor out of a sequence or optional."""
    place = [s.b.const(np.array(0))] if op_type == "SequenceAt" else []
    return s.b.op(op_type, name, *place, **attrs)


def _argument(s: State, built: Built, i: int, v: Value) -> str:
    """An input of a case: a constant of its own, or a tensor made of a live one."""
    one, name, arg = built.case, f"arg{i}", built.given[i]
    if isinstance(arg, str) and not arg:
        return ""
    kind = str(arg).split()[0] if isinstance(arg, str) else ""
    if not isinstance(arg, str) or kind == "weight":
        return s.b.const(built.stored[name], s.b.fresh("case"))
    shape = [size_of(t, built.sizes) for t in tokens(arg)]
    if kind == "sequence":
        return s.b.op("SequenceConstruct", _live(s, v, shape), _live(s, v, shape))
    if kind == "optional":
        return s.b.op("Optional", _live(s, v, shape))
    x = _live(s, v, shape)
    if one.positive:
        x = s.b.op("Add", s.b.op("Mul", s.b.op("Abs", s.b.op("Tanh", x)), s.b.scalar(1.9)), s.b.scalar(1.1))
    elif one.unit:
        x = s.b.op("Mul", s.b.op("Tanh", x), s.b.scalar(0.9))
    if kind in ("indices", "picked"):
        high = size_of(one.bound, built.sizes)
        spread = s.b.op("Floor", s.b.op("Mul", s.b.op("Abs", x), s.b.scalar(high / 2)))
        above = s.b.op("Relu", s.b.op("Sub", spread, s.b.scalar(high - 1)))  # old opsets do not broadcast in Min
        return s.b.op("Cast", s.b.op("Sub", spread, above), to=TensorProto.INT64)
    if kind == "bool":
        return s.b.op("Greater", x, s.b.scalar(0.0))
    if kind in DTYPES:
        return s.b.op("Cast", s.b.op("Abs", s.b.op("Mul", x, s.b.scalar(10.0))), to=DTYPES[kind])
    return x


def _live(s: State, v: Value, shape: list[int]) -> str:
    """A tensor of some shape, in which every axis is free, from all elements of a live one (or from many)."""
    n_in, n = prod(v.shape), prod(shape)
    x = s.b.op("Tanh", s.b.reshape(v.name, 1, n_in))
    if n_in > WIDEST:
        some = np.sort(s.b.rng.permutation(n_in)[:WIDEST])
        x, n_in = s.b.op("Gather", x, s.b.const(some), axis=1), WIDEST
    x = s.b.op("MatMul", x, s.b.weight(n_in, n, fan_in=n_in / 2))
    return s.b.reshape(x, *shape)


def _result(s: State, name: str, array: np.ndarray[Any, Any], one: Case) -> Value:
    """An output as a live tensor: of floats, of a fixed shape and of at least one axis."""
    if array.dtype != np.float32:
        name = s.b.op("Cast", name, to=TensorProto.FLOAT)
    if not one.fixed_shape:
        return Value(s.b.reshape(s.b.op("ReduceMax", name, keepdims=0), 1, 1), (1, 1), 3)
    s.b.hint(name, *array.shape)
    if array.ndim < 1 or array.ndim > MAX_RANK:
        return Value(s.b.reshape(name, 1, array.size), (1, array.size), 3)
    return Value(name, array.shape, 3)
