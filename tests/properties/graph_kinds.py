"""The kinds of graphs of the stress run: what is dynamic, which opset, which operators are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from tests.properties import ops_blocks, ops_cases, ops_control, ops_dynamic, random_graphs
from tests.properties.registry import names
from tests.properties.state import Seeded, State, Value

__all__ = ["KINDS", "Kind", "ops_blocks", "ops_cases", "ops_control", "ops_dynamic"]

OLD = (7, 9, 10, 11, 13, 17, 18, 21, 23, 24, 26)
_ANY_OPSET = ("any_operator", "linear", "flatten_gemm", "conv", "transpose", "concat", "matmul_pair")


@dataclass(frozen=True)
class Kind:
    """A kind of graphs; ``weight`` makes it more likely."""

    make: Callable[[Seeded], ModelProto]
    weight: int


KINDS: dict[str, Kind] = {}


def kind(weight: int) -> Callable[[Callable[[Seeded], ModelProto]], Callable[[Seeded], ModelProto]]:
    """Register a kind under the name of its maker."""

    def decorate(make: Callable[[Seeded], ModelProto]) -> Callable[[Seeded], ModelProto]:
        KINDS[make.__name__.replace("_", " ")] = Kind(make, weight)
        return make

    return decorate


@kind(6)
def fixed_sizes(s: Seeded) -> ModelProto:
    return random_graphs.grown(s, names("", "stress"), 4, 24)


@kind(3)
def dynamic_batch(s: Seeded) -> ModelProto:
    s.dynamic = True
    blocks = [n for n in names("stress") if n != "any_operator"]
    return random_graphs.grown(s, [*names(""), *blocks], 4, 24)


@kind(4)
def other_opsets(s: Seeded) -> ModelProto:
    s.b.opset = s.pick(OLD)
    return random_graphs.grown(s, _ANY_OPSET, 6, 24, sources=("conv", "linear"))


@kind(2)
def half_precision(s: Seeded) -> ModelProto:
    """A graph of fixed sizes in float16."""
    model = random_graphs.grown(s, _HALF, 4, 16)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


_HALF = (
    "unary", "with_parameter", "binary", "linear", "conv", "flatten_gemm", "concat", "split", "slice_", "gather",
    "transpose", "reshape", "pad", "tile", "expand", "channel_shuffle", "gated_mlp", "layernorm", "reduce",
    "global_pool",
)  # fmt: skip


def _tokens(s: State, index: int) -> Value:
    n = s.number(3, 10)
    return Value(s.b.source(f"input{index}", ["batch", "sequence", n]), (1, 32, n))


def _image(s: State, index: int) -> Value:
    n = s.number(2, 4)
    return Value(s.b.source(f"input{index}", ["batch", n, "height", "width"]), (1, n, 224, 224))


def _token_head(s: State, v: Value, index: int) -> str:
    """Every token, or their mean."""
    x = v.name if s.flag() else s.b.op("ReduceMean", v.name, s.b.ints(1), keepdims=0)
    return s.b.linear(x, v.shape[2], 3, f"head{index}")


def _image_head(s: State, v: Value, index: int) -> str:
    """Every pixel, or their mean."""
    if s.flag():
        return s.b.conv(v.name, v.shape[1], 3, 1, f"head{index}")
    x = s.b.op("Flatten", s.b.op("GlobalAveragePool", v.name))
    return s.b.gemm(x, v.shape[1], 3, f"head{index}")


@kind(3)
def dynamic_sequence(s: Seeded) -> ModelProto:
    first = ("token_linear",)
    return random_graphs.grown(s, names("sequence"), 4, 24, sources=first, source=_tokens, head=_token_head)


@kind(2)
def dynamic_image(s: Seeded) -> ModelProto:
    first = ("image_conv",)
    return random_graphs.grown(s, names("image"), 4, 20, sources=first, source=_image, head=_image_head)
