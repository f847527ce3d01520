"""Cases with other sizes and attributes than those that they state."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.operators.case import STORED, Arg, Case, tokens

SMALL = 4  # sizes of a varied case, drawn with repetition: ones and equal sizes are where rules go wrong


def varied(one: Case, rng: np.random.Generator) -> Case:
    """The case with other sizes and attributes; whether it still makes sense is for the runtime to say."""
    letters = {c for arg in one.inputs for t in tokens(arg) for c in t if c.isalpha()}
    sizes = {c: int(rng.integers(1, SMALL + 1)) for c in sorted(letters)}
    attrs = {k: _other(k, v, one, rng) for k, v in one.attrs.items()}
    inputs = tuple(_stored_or_computed(a, rng) for a in one.inputs)
    for key, choices in EXTRA.get(one.op, {}).items():
        if rng.random() < 0.5:
            attrs[key] = choices[rng.integers(len(choices))]
    return replace(one, inputs=inputs, sizes={**sizes, **one.sizes}, attrs=attrs)


def _stored_or_computed(arg: Arg, rng: np.random.Generator) -> Arg:
    """A float tensor that is stored becomes a computed one now and then, or the other way round."""
    if not isinstance(arg, str) or not arg or rng.random() < 0.6:
        return arg
    words = arg.split()
    if words[0] == "indices":
        return arg.replace("indices", "picked")
    if words[0] == "weight" and words[1] not in STORED:
        return " ".join(words[1:])
    return f"weight {arg}" if words == tokens(arg) and rng.random() < 0.3 else arg


def _other(key: str, value: object, one: Case, rng: np.random.Generator) -> object:
    rank = len(tokens(one.inputs[0])) if one.inputs else 0
    if rng.random() < 0.3:
        return value
    if key == "axis" and rank:
        return int(rng.integers(-rank, rank))
    if key == "axes" and rank:
        return [int(a) for a in rng.permutation(rank)[: rng.integers(1, rank + 1)]]
    if key == "perm":
        return [int(a) for a in rng.permutation(rank)]
    if key in ("keepdims", "transA", "transB", "linear_before_reset"):
        return int(rng.integers(2))
    return value


_WINDOW = {"strides": ([1], [2], [1, 1], [2, 1]), "auto_pad": ("SAME_UPPER", "SAME_LOWER", "VALID")}
EXTRA: dict[str, dict[str, tuple[object, ...]]] = {
    "Conv": {**_WINDOW, "dilations": ([1], [2])},
    "ConvTranspose": {**_WINDOW, "output_padding": ([1],)},
    "MaxPool": {**_WINDOW, "ceil_mode": (1,), "dilations": ([2],)},
    "AveragePool": {**_WINDOW, "ceil_mode": (1,), "count_include_pad": (1,)},
    "LpPool": {**_WINDOW, "p": (1, 3)},
    "LSTM": {"layout": (1,), "input_forget": (1,), "clip": (0.5,), "direction": ("reverse",)},
    "GRU": {"layout": (1,), "linear_before_reset": (1,), "clip": (0.5,), "direction": ("reverse",)},
    "RNN": {"layout": (1,), "clip": (0.5,), "direction": ("reverse",)},
    "ArgMax": {"select_last_index": (1,)},
    "CumSum": {"exclusive": (1,), "reverse": (1,)},
    "TopK": {"largest": (0,), "sorted": (0,)},
    "Softmax": {"axis": (0, 1, -1, -2)},
    "LogSoftmax": {"axis": (0, 1, -1, -2)},
    "Hardmax": {"axis": (0, 1, -1)},
    "Gemm": {"transA": (0, 1), "transB": (0, 1), "alpha": (2.0,), "beta": (0.5,)},
    "Flatten": {"axis": (0, 1, 2, -1)},
    "Transpose": {"perm": ([0, 1, 2], [1, 0, 2], [1, 2, 0], [2, 1, 0])},
    "Reshape": {"allowzero": (0, 1)},
    "Gather": {"axis": (0, 1)},
    "GatherElements": {"axis": (0, 1)},
    "Concat": {"axis": (0, 1)},
    "LayerNormalization": {"axis": (0, 1, 2, -1)},
    "RMSNormalization": {"axis": (0, 1, 2, -1)},
    "LpNormalization": {"axis": (0, 1, 2), "p": (1, 2)},
}
