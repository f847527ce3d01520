"""What a case of the operator table says, and the tiny model it stands for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, defs, helper, numpy_helper

from tests.freed import summed

Array = NDArray[Any]
Sizes = Mapping[str, int]
Arg = "str | float | list[int] | Array | Callable[[Sizes], Any] | OneOf"
Judge = Callable[[list[Array], list[list[Array]], Sizes], list[Array]]

DTYPES = {
    "bool": TensorProto.BOOL, "int32": TensorProto.INT32, "uint8": TensorProto.UINT8, "int8": TensorProto.INT8
}  # fmt: skip
STORED = {
    **{t: np.dtype(t) for t in ("int8", "uint8", "int16", "int32")},
    **{t: np.dtype(getattr(ml_dtypes, t)) for t in ("int4", "uint4", "float8_e4m3fn")},
}
OPSET = 20


@dataclass(frozen=True)
class Case:
    """An operator, how it is called, and what may be removed.

    Attributes:
        op: Operator, with its domain if it is not the standard one.
        inputs: One entry per input, "" for an omitted one:
            "n 2*c 3": a float tensor in which every axis is free; letters are sizes drawn at random;
            "bool n c", "int32 n c": the same of another type;
            "?3": an axis whose units are those of parts of others, not counted on its own;
            "weight o c": stored in the file; "weight int8 c" for integers;
            "sequence n c": two such tensors in a sequence; "optional n c": one in an optional;
            "input n c": a graph input, "indices n c": an integer one in the range of ``bound``;
            "picked n c": such integers, computed, so that their axes are free;
            a float, a list, an array or a function of the sizes: a constant.
        free: Letters whose positions may be removed, each on its own; "c:5" where only 5 units of axis c may, "5"
            for an axis written so. The units of the whole model and of every axis are exactly these. "" when nothing
            may leave.
        zero: Axes, as written in ``inputs``, over which the operator sums: in the full run the removed
            positions are zero there.
        restricted: The operator is defined on what is kept (means, norms): the full run is the unchanged node
            on the kept positions of its inputs.
        judge: Instead: what the outputs must be, from the full inputs and the kept positions of each axis.
        extra: Units that the operator adds by itself.
        attrs: Attributes; a function is called with the sizes.
        outputs: Number of outputs; names of those used when not all.
        opset: Opset version.
        sizes: Sizes that are not drawn.
        nothing: What a removed position of ``zero`` is set to in its float source.
        positive: Inputs are drawn from [1.1, 3], else they are normal.
        unit: Inputs are drawn from [-0.9, 0.9].
        bound: Indices are below this size.
        fixed_shape: False when the shape of the outputs depends on data.
        unpack: Operator (and attributes) that makes a tensor of every output: a sequence, an optional.
    """

    op: str
    inputs: tuple[Any, ...]
    free: str = ""
    zero: str = ""
    restricted: bool = False
    judge: Judge | None = None
    extra: int = 0
    attrs: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[bool, ...] = (True,)
    opset: int = OPSET
    sizes: Mapping[str, Any] = field(default_factory=dict)
    nothing: float = 0.0
    positive: bool = False
    unit: bool = False
    bound: str = ""
    fixed_shape: bool = True
    unpack: tuple[str, Mapping[str, Any]] | None = None
    note: str = ""

    def counts(self, sizes: Sizes) -> dict[str, int]:
        """Units by letter of an axis."""
        pairs = (t.partition(":") for t in self.free.split())
        return {t: int(count) if count else size_of(t, sizes) for t, _, count in pairs}

    @property
    def label(self) -> str:
        """Name of the test."""
        name = self.op.replace("com.microsoft.", "ms.")
        return "-".join(x for x in (name, f"v{self.opset}" if self.opset != OPSET else "", self.note) if x)


@dataclass(frozen=True)
class OneOf:
    """A setting or constant that is drawn anew for every seed."""

    options: tuple[Any, ...]


def one_of(*options: Any) -> OneOf:
    """One of some values, or of functions of the sizes; an attribute that is None is left out."""
    return OneOf(options)


def case(op: str, *inputs: Arg, **more: Any) -> Case:
    """A case; unknown keywords are attributes of the operator."""
    known = {k: more.pop(k) for k in list(more) if k in Case.__dataclass_fields__}
    return Case(op, inputs, attrs=more, **known)


_KINDS = ("weight", "input", "indices", "picked", "sequence", "optional", "bool", *STORED)


def tokens(arg: Arg) -> list[str]:
    """The axes of a tensor as they are written; [] for constants."""
    if not isinstance(arg, str) or not arg:
        return []
    words = arg.split()
    while words and words[0] in _KINDS:
        words.pop(0)
    return words


def size_of(token: str, sizes: Sizes) -> int:
    """The length of an axis such as "c", "3" or "4*h"."""
    total = 0
    for term in token.lstrip("?").split("+"):
        total += prod(int(f) if f.isdigit() else sizes[f] for f in term.split("*"))
    return total


def draw_sizes(one: Case, rng: np.random.Generator) -> dict[str, int]:
    """Distinct sizes for the letters, so that a mix-up of two axes shows."""
    given = {k: v.options[rng.integers(len(v.options))] if isinstance(v, OneOf) else v for k, v in one.sizes.items()}
    letters = sorted({c for arg in one.inputs for t in tokens(arg) for c in t if c.isalpha()} - set(one.sizes))
    values = rng.permutation(np.arange(2, 3 + max(len(letters), 3)))
    return {**dict(zip(letters, (int(v) for v in values), strict=False)), **given}


class Built:
    """The model of a case: sources, the operator, and consumers that sum everything up."""

    def __init__(self, one: Case, seed: int) -> None:
        self.case = one
        self.rng = np.random.default_rng(seed)
        self.sizes = draw_sizes(one, self.rng)
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.stored: dict[str, Array] = {}
        self.sources: dict[str, list[str]] = {}
        self.feeds: dict[str, Array] = {}
        self.given: list[Any] = []  # inputs as the case writes them, after their draw
        self.parts: dict[str, list[str]] = {}  # tensors in an input that is a sequence or optional
        names = [self._source(i, arg) for i, arg in enumerate(one.inputs)]
        self.arguments = names
        domain, _, op = one.op.rpartition(".")
        self.outs = [f"out{i}" if used else "" for i, used in enumerate(one.outputs)]
        attrs = {k: a for k, v in one.attrs.items() if (a := self._drawn(v)) is not None}
        while names and not names[-1]:
            names.pop()
        self.nodes.append(helper.make_node(op, names, self.outs, name="subject", domain=domain, **attrs))
        self.outs = [o for o in self.outs if o]
        if one.unpack is not None:
            maker, more = one.unpack
            self.unpacked = {o: f"{o}_element" for o in self.outs}
            zero = [self._scalar()] if maker == "SequenceAt" else []
            for out, element in self.unpacked.items():
                self.nodes.append(helper.make_node(maker, [out, *zero], [element], **more))
            self.outs = list(self.unpacked.values())

    def _scalar(self) -> str:
        self.stored["zero_place"] = np.array(0)
        return "zero_place"

    def _drawn(self, value: Any) -> Any:
        """A setting with its draw made and its sizes filled in."""
        if isinstance(value, OneOf):
            value = value.options[self.rng.integers(len(value.options))]
        return value(self.sizes) if callable(value) else value

    def _array(self, words: list[str], dtype: str = "") -> Array:
        shape = [size_of(t, self.sizes) for t in words]
        if dtype in STORED:
            return self.rng.integers(0, 5, shape).astype(STORED[dtype])
        if dtype == "picked":
            return self.rng.integers(0, size_of(self.case.bound, self.sizes), shape).astype(np.float32)
        if self.case.positive:
            return self.rng.uniform(1.1, 3, shape).astype(np.float32)
        if self.case.unit:
            return self.rng.uniform(-0.9, 0.9, shape).astype(np.float32)
        return self.rng.standard_normal(shape).astype(np.float32)

    def _source(self, i: int, arg: Arg) -> str:
        name = f"arg{i}"
        value = self._drawn(arg)
        self.given.append(value)
        if isinstance(value, str):
            return self._tensor(name, value) if value else ""
        if isinstance(value, float):
            value = np.float32(value)
        elif isinstance(value, list | int):
            value = np.array(value, np.int64)
        self.stored[name] = np.asarray(value)
        return name

    def _tensor(self, name: str, arg: str) -> str:
        words, kind = tokens(arg), arg.split()
        if kind[0] in ("sequence", "optional"):
            parts = [self._tensor(f"{name}_{k}", " ".join(words)) for k in range(2 if kind[0] == "sequence" else 1)]
            maker = "SequenceConstruct" if kind[0] == "sequence" else "Optional"
            self.nodes.append(helper.make_node(maker, parts, [name]))
            self.parts[name] = parts
            return name
        shape = [size_of(t, self.sizes) for t in words]
        if kind[0] == "indices":
            high = size_of(self.case.bound, self.sizes)
            self.feeds[name] = self.rng.integers(0, high, shape)
            self.inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, shape))
            return name
        if kind[0] == "input":
            self.feeds[name] = self._array(words)
            self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
            return name
        dtype = kind[1] if kind[0] == "weight" else kind[0]
        source = name if kind[0] == "weight" else f"{name}_stored"
        self.stored[source] = self._array(words, dtype if kind[0] in ("weight", "picked") else "")
        self.sources[source] = words
        if kind[0] == "weight":
            return name
        cast = dtype in DTYPES or dtype == "picked"
        self.stored[f"{name}_zero"] = np.asarray(np.float32(0))
        self.nodes.append(helper.make_node("Add", [source, f"{name}_zero"], [f"{name}_float" if cast else name]))
        if dtype == "picked":
            self.nodes.append(helper.make_node("Cast", [f"{name}_float"], [name], to=TensorProto.INT64))
        elif cast:  # integers of some size
            if dtype != "bool":
                self.stored[f"{name}_ten"] = np.asarray(np.float32(10))
                self.nodes.append(helper.make_node("Mul", [f"{name}_float", f"{name}_ten"], [f"{name}_big"]))
                self.nodes.append(helper.make_node("Abs", [f"{name}_big"], [f"{name}_float_abs"]))
                self.nodes.append(helper.make_node("Cast", [f"{name}_float_abs"], [name], to=DTYPES[dtype]))
            else:
                self.nodes.append(helper.make_node("Cast", [f"{name}_float"], [name], to=DTYPES[dtype]))
        return name

    def subject(self, stored: Mapping[str, Array] | None = None) -> ModelProto:
        """The operator with its sources; its outputs are the model's."""
        outs = [helper.make_empty_tensor_value_info(o) for o in self.outs]
        return self._model(self.nodes, outs, stored or self.stored)

    def whole(self, arrays: Mapping[str, Array]) -> ModelProto:
        """The subject with every output weighted, so that all its axes are a weight's, and summed to a number."""
        nodes, stored, outs = list(self.nodes), dict(self.stored), []
        for out in self.outs:
            last = out
            if arrays[out].dtype != np.float32:
                last = f"{out}_real"
                nodes.append(helper.make_node("Cast", [out], [last], to=TensorProto.FLOAT))
            if self.case.fixed_shape and arrays[out].shape:
                stored[f"{out}_scale"] = self.rng.standard_normal(arrays[out].shape).astype(np.float32)
                nodes.append(helper.make_node("Mul", [last, f"{out}_scale"], [f"{out}_scaled"]))
                last = f"{out}_scaled"
            nodes += summed(last, f"{out}_sum")
            outs.append(helper.make_tensor_value_info(f"{out}_sum", TensorProto.FLOAT, []))
        model = self._model(nodes, outs, stored)
        node = next(n for n in self.nodes if n.name == "subject")
        if not defs.has(node.op_type, self.case.opset, node.domain):  # the file has to state the shapes itself
            model.graph.value_info.extend(
                helper.make_tensor_value_info(
                    out, helper.np_dtype_to_tensor_dtype(arrays[out].dtype), arrays[out].shape
                )
                for out in self.outs
            )
        return model

    def _model(self, nodes: list[Any], outs: list[Any], stored: Mapping[str, Array]) -> ModelProto:
        weights = [numpy_helper.from_array(np.asarray(a), n) for n, a in stored.items()]
        graph = helper.make_graph(nodes, "case", self.inputs, outs, weights)
        opsets = [helper.make_opsetid("", self.case.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)
