"""The operator as a black box: which outputs move when inputs are changed, against what a rule denies.

Removing units leaves, for every rule, a promise: what is kept of the outputs is a function of what is kept of the
inputs, once the removed positions of the axes it sums over are zero. So: zero those, change the other removed
positions at will, and nothing that is kept may move, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphprune import api
from graphprune.algebra import Axis
from graphprune.coupling.groups import DependencyGraph
from tests.operators.case import STORED, Arg, Array, Built, Case, tokens

SMALL = 4  # sizes of a varied case, drawn with repetition: ones and equal sizes are where rules go wrong
LARGE = 16.0  # changed values are also drawn this much larger, so that a maximum over positions shows


class Refused(Exception):
    """Neither onnxruntime nor the reference evaluator runs a varied case."""


class Operator:
    """One node, ready to run on any arrays of one rank and type per input."""

    def __init__(self, built: Built, arrays: dict[str, Array], fixed: dict[str, Array]) -> None:
        node = built.nodes[-1]
        inputs = [helper.make_tensor_value_info(n, _dtype(a), [None] * a.ndim) for n, a in arrays.items()]
        outs = [helper.make_empty_tensor_value_info(o) for o in built.outs]
        stored = [numpy_helper.from_array(np.asarray(a), n) for n, a in fixed.items()]
        graph = helper.make_graph([node], "black box", inputs, outs, stored)
        opsets = [helper.make_opsetid("", built.case.opset), helper.make_opsetid("com.microsoft", 1)]
        self.model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self.session = ort.InferenceSession(self.model.SerializeToString(), options, ["CPUExecutionProvider"])
        except Exception:
            try:
                self.session = ReferenceEvaluator(self.model)
            except Exception as error:
                raise Refused(str(error)) from None

    def __call__(self, arrays: dict[str, Array]) -> list[Array]:
        try:
            with np.errstate(all="ignore"):
                return [np.asarray(a) for a in self.session.run(None, arrays)]
        except Exception as error:
            raise Refused(str(error)) from None


def _dtype(array: Array) -> int:
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))


def moved(one: Array, two: Array) -> Array:
    """bool per element: whether two outputs of one shape differ; NaN equals NaN, and no zero has a sign."""
    if one.dtype.kind in "fc":
        return ~((one == two) | (np.isnan(one) & np.isnan(two)))
    return np.asarray(one != two)


@dataclass
class Probe:
    """A case with what the analysis says of it."""

    built: Built

    def __post_init__(self) -> None:
        self.base = self._inputs(self.built.stored)
        fixed = {n: a for n, a in self.base.items() if n not in self._changeable()}
        self.operator = Operator(self.built, {n: self.base[n] for n in self._changeable()}, fixed)
        self.plain = self.operator(self._fed(self.base))
        self.model = self.built.whole(dict(zip(self.built.outs, self.plain, strict=True)))
        self.deps: DependencyGraph = api.analyze(self.model)

    def _changeable(self) -> list[str]:
        """Inputs of the node that are no settings."""
        pairs = zip(self.built.arguments, self.built.case.inputs, strict=False)
        return list(dict.fromkeys(n for n, arg in pairs if n and (tokens(arg) or n in self.built.feeds)))

    def _fed(self, arrays: dict[str, Array]) -> dict[str, Array]:
        return {n: arrays[n] for n in self._changeable()}

    def _inputs(self, stored: dict[str, Array]) -> dict[str, Array]:
        """What the node reads."""
        made = {o for node in self.built.nodes[:-1] for o in node.output}
        names = [n for n in dict.fromkeys(self.built.arguments) if n]
        out = {n: stored[n] if n in stored else self.built.feeds[n] for n in names if n not in made}
        computed = [n for n in names if n in made]
        if computed:
            outs = [helper.make_empty_tensor_value_info(n) for n in computed]
            weights = [numpy_helper.from_array(np.asarray(a), n) for n, a in stored.items()]
            graph = helper.make_graph(self.built.nodes[:-1], "sources", [], outs, weights)
            opsets = [helper.make_opsetid("", 20)]
            model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
            out |= dict(zip(computed, ReferenceEvaluator(model).run(None, {}), strict=True))
        return {n: np.asarray(out[n]) for n in names}

    def others(self, seed: int) -> dict[str, Array]:
        """Other content for the node's inputs, of the same kinds."""
        built, rng = self.built, np.random.default_rng(seed)
        built.rng = rng
        wide = LARGE if seed % 2 and not (built.case.unit or built.case.positive) else 1.0
        stored = dict(built.stored)
        for i, arg in enumerate(built.case.inputs):
            words = tokens(arg)
            name = f"arg{i}" if f"arg{i}" in stored else f"arg{i}_stored"
            if not words or name not in stored:
                continue
            kind = str(arg).split()
            array = built._array(words, kind[1] if kind[0] == "weight" else kind[0] if kind[0] == "picked" else "")
            large = array.dtype.kind == "f" and kind[0] != "picked"
            stored[name] = (array * wide).astype(array.dtype) if large else array
        out = self._inputs(stored)
        out |= {n: rng.permutation(a.ravel()).reshape(a.shape) for n, a in built.feeds.items()}
        for name, array in out.items():  # what did not change although it could
            if array.dtype == bool:
                out[name] = ~self.base[name]
        return out

    @cached_property
    def units(self) -> list[int]:
        """Every unit that an input or output axis of the node holds."""
        names = [*self.built.arguments, *self.built.outs]
        axes = [a for n in names if n for a in self.deps.types.get(n) or () if a is not None and a.units is not None]
        held = np.unique(np.concatenate([a.units.ravel() for a in axes])) if axes else np.zeros(0, np.int32)
        return [int(u) for u in held if u > 0]

    def gone(self, name: str, removed: Array) -> list[Array | None]:
        """Per axis of a tensor: bool per position, True where it is removed; None where nothing is."""

        def mask(axis: Axis | None) -> Array | None:
            if axis is None or axis.units is None:
                return None
            out = removed[axis.units].any(axis=1)
            return out if out.any() else None

        return [mask(a) for a in self.deps.types.get(name) or ()]

    def denied(self, units: list[int], seed: int) -> str:
        """Empty, or where a kept output moves with something removed although the rule says that it cannot."""
        removed = np.zeros(self.deps.state.store.count, bool)
        removed[units] = True
        kept = [self._box(o, a, removed) for o, a in zip(self.built.outs, self.plain, strict=True)]
        if any(k.size == 0 for k in kept):
            return ""
        first, second = self._pair(removed, self.others(seed))
        if first is None:
            return ""
        outs = zip(self.built.outs, self.operator(first), self.operator(second), strict=True)
        for name, a, b in outs:
            if a.shape != b.shape:
                return f"the shape of {name} depends on what is removed"
            where = np.argwhere(self._box(name, moved(a, b), removed))
            if len(where):
                return f"units {units}: kept position {where[0].tolist()} of what is left of {name} moves"
        return ""

    def _box(self, name: str, array: Array, removed: Array) -> Array:
        for axis, mask in enumerate(self.gone(name, removed)):
            if mask is not None:
                array = np.compress(~mask, array, axis=axis)
        return array

    def _pair(self, removed: Array, other: dict[str, Array]) -> tuple[dict[str, Array] | None, dict[str, Array]]:
        """Two sets of inputs that differ in removed positions only; None when nothing can be changed."""
        sites = {(s.slot, s.axis): s.mode for s in self.deps.sites if s.node == "subject"}
        first, second = dict(self.base), dict(self.base)
        changed = False
        for slot, name in enumerate(self.built.arguments):
            if not name:
                continue
            zero, free = (np.zeros(self.base[name].shape, bool) for _ in range(2))
            for axis, mask in enumerate(self.gone(name, removed)):
                if mask is None:
                    continue
                where = (slice(None),) * axis + (mask,)
                mode = sites.get((slot, axis))
                if mode is None:
                    free[where] = True
                elif mode == "zero":
                    zero[where] = True
            first[name] = np.where(zero, np.zeros((), self.base[name].dtype), self.base[name])
            second[name] = np.where(free & ~zero, other[name], first[name])
            changed |= bool((free & ~zero).any())
        return (self._fed(first) if changed else None), self._fed(second)


def removals(probe: Probe, rng: np.random.Generator, sets: int) -> Iterator[list[int]]:
    """Every unit alone, then some random sets."""
    yield from ([u] for u in probe.units)
    for _ in range(sets if len(probe.units) > 1 else 0):
        yield [u for u in probe.units if rng.random() < 0.4] or probe.units[:1]


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
