"""The operator as a black box: which outputs move when inputs are changed, against what a rule denies.

Removing units leaves, for every rule, a promise: what is kept of the outputs is a function of what is kept of the
inputs, once the removed positions of the axes it sums over are zero. So: zero those, change the other removed
positions at will, and nothing that is kept may move, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphprune import api
from graphprune.algebra import Axis
from graphprune.coupling.groups import DependencyGraph
from tests.operators.case import Array, Built, tokens
from tests.operators.legacy import upgraded
from tests.operators.reference import REFERENCES

LARGE = 16.0  # changed values are also drawn this much larger, so that a maximum over positions shows


class Refused(Exception):
    """Neither onnxruntime nor the reference evaluator runs a varied case."""


class Operator:
    """The subject of a case and what makes or opens its sequences, ready to run on any arrays of the same types."""

    def __init__(self, built: Built, arrays: Mapping[str, Array], fixed: Mapping[str, Array]) -> None:
        self.case, self.nodes, self.outs = built.case, _tail(built), built.outs
        self.arrays, self.fixed = dict(arrays), dict(fixed)
        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.options = options
        numpys = all(a.dtype.isbuiltin == 1 for a in arrays.values())
        self.session = self._session(arrays, fixed) if numpys else None

    def _model(self, arrays: Mapping[str, Array], fixed: Mapping[str, Array]) -> ModelProto:
        inputs = [helper.make_tensor_value_info(n, _dtype(a), a.shape) for n, a in arrays.items()]
        outs = [helper.make_empty_tensor_value_info(o) for o in self.outs]
        stored = [numpy_helper.from_array(np.asarray(a), n) for n, a in fixed.items()]
        graph = helper.make_graph(self.nodes, "black box", inputs, outs, stored)
        opsets = [helper.make_opsetid("", self.case.opset), helper.make_opsetid("com.microsoft", 1)]
        return upgraded(helper.make_model(graph, opset_imports=opsets, ir_version=10))

    def _session(self, arrays: Mapping[str, Array], fixed: Mapping[str, Array]) -> Any:
        """onnxruntime's session, None where it has no kernel."""
        serial = self._model(arrays, fixed).SerializeToString()
        try:
            return ort.InferenceSession(serial, self.options, ["CPUExecutionProvider"])
        except Exception:
            return None

    def __call__(self, arrays: Mapping[str, Array]) -> list[Array]:
        try:
            with np.errstate(all="ignore"):
                if self.session is not None:
                    return _arrays(self.session.run(None, dict(arrays)))
                stored = {**self.fixed, **arrays}  # some kernels want constants, some types are no numpy's
                if (session := self._session({}, stored)) is not None:
                    return _arrays(session.run(None, {}))
                return _arrays(ReferenceEvaluator(self._model({}, stored), new_ops=REFERENCES).run(None, {}))
        except Exception as error:
            raise Refused(str(error)) from None


def _arrays(values: Sequence[Any]) -> list[Array]:
    return [np.asarray(a) for a in values]


def _tail(built: Built) -> list[NodeProto]:
    """The subject with what makes its containers of tensors, and what opens those it gives."""
    start = next(i for i, n in enumerate(built.nodes) if n.name == "subject")
    return [n for i, n in enumerate(built.nodes) if i >= start or n.output[0] in built.parts]


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
        self.changeable = self._changeable()
        fixed = {n: a for n, a in self.base.items() if n not in self.changeable}
        self.operator = Operator(self.built, self._fed(self.base), fixed)
        self.plain = self.operator(self._fed(self.base))
        self.model = self.built.whole(dict(zip(self.built.outs, self.plain, strict=True)))
        self.deps: DependencyGraph = api.analyze(self.model)

    def operands(self) -> list[tuple[int, str]]:
        """Input and name of every tensor that the node reads; those of a container are one by one."""
        built = self.built
        return [(slot, part) for slot, n in enumerate(built.arguments) if n for part in built.parts.get(n, [n])]

    def _changeable(self) -> list[str]:
        """Tensors that are no settings."""
        cases = self.built.case.inputs
        return list(dict.fromkeys(n for i, n in self.operands() if tokens(cases[i]) or n in self.built.feeds))

    def _fed(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        return {n: arrays[n] for n in self.changeable}

    def _inputs(self, stored: Mapping[str, Array]) -> dict[str, Array]:
        """What the node reads, and what opens its outputs."""
        tail = _tail(self.built)
        inner = {o for n in tail for o in n.output}
        names = list(dict.fromkeys(n for node in tail for n in node.input if n and n not in inner))
        sources = [n for n in self.built.nodes if n not in tail]
        made = {o for node in sources for o in node.output}
        out = {n: stored[n] if n in stored else self.built.feeds[n] for n in names if n not in made}
        computed = [n for n in names if n in made]
        if computed:
            outs = [helper.make_empty_tensor_value_info(n) for n in computed]
            weights = [numpy_helper.from_array(np.asarray(a), n) for n, a in stored.items()]
            graph = helper.make_graph(sources, "sources", [], outs, weights)
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
        for slot, operand in self.operands():
            arg = built.case.inputs[slot]
            words = tokens(arg)
            name = operand if operand in stored else f"{operand}_stored"
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
        names = [*(n for _, n in self.operands()), *self.built.outs]
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
        sites = {(s.slot, s.axis): s for s in self.deps.sites if s.node == "subject"}
        first, second = dict(self.base), dict(self.base)
        zeros: list[tuple[str, Array, int]] = []
        changed = False
        for slot, name in self.operands():
            zero, free = (np.zeros(self.base[name].shape, bool) for _ in range(2))
            for axis, mask in enumerate(self.gone(name, removed)):
                if mask is None:
                    continue
                where = (slice(None),) * axis + (mask,)
                site = sites.get((slot, axis))
                if site is None:
                    free[where] = True
                elif site.mode == "zero":
                    zero[where] = True
                    zeros.append((name, zero, site.fill))
            second[name] = np.where(free & ~zero, other[name], second[name])
            changed |= bool((free & ~zero).any())
        for name, zero, fill in zeros:
            for arrays in (first, second):
                nothing = arrays[self.built.arguments[fill]] if fill >= 0 else np.zeros((), arrays[name].dtype)
                arrays[name] = np.where(zero, nothing, arrays[name])
        return (self._fed(first) if changed else None), self._fed(second)


def removals(probe: Probe, rng: np.random.Generator, sets: int) -> Iterator[list[int]]:
    """Every unit alone, then some random sets."""
    yield from ([u] for u in probe.units)
    for _ in range(sets if len(probe.units) > 1 else 0):
        yield [u for u in probe.units if rng.random() < 0.4] or probe.units[:1]
