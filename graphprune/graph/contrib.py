"""Output shapes of operators that onnx has no shape function for: onnxruntime's own fused operators.

Files written by onnxruntime's optimiser name these operators and record no shapes between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import defs, shape_inference

from graphprune.graph.control import BadSizes
from graphprune.graph.integer_shapes import integer_types
from graphprune.graph.types import UNKNOWN, Shape, Typed

if TYPE_CHECKING:
    from graphprune.graph.infer import Pass

Shapes = list[Shape | None]

# Fused operators that have the shape of a standard one.
TWINS = {
    "com.microsoft.FusedConv": "Conv",
    "com.microsoft.FusedGemm": "Gemm",
    **{f"com.microsoft.nchwc.{op}": op for op in ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool")},
}


@dataclass(frozen=True, slots=True)
class Call:
    """A node with what is known of its inputs.

    Attributes:
        node: The node.
        shapes: Sizes by input slot, None for an omitted or unknown one.
        known: Contents by input slot that follow from sizes and constants.
    """

    node: ir.Node
    shapes: Sequence[Shape | None]
    known: Sequence[NDArray[np.generic] | None] = ()

    def shape(self, slot: int) -> Shape | None:
        """Sizes of an input, None when it is omitted or unknown."""
        return self.shapes[slot] if slot < len(self.shapes) else None

    def size(self, slot: int, axis: int) -> int:
        """One size of an input, UNKNOWN when it is."""
        shape = self.shape(slot)
        return UNKNOWN if shape is None or axis >= len(shape) else shape[axis]

    def integer(self, name: str, default: int = 0) -> int:
        """An integer attribute."""
        return self.node.attributes.get_int(name, default)


def output_shapes(call: Call) -> Shapes:
    """Sizes by output, None where nothing is known; an operator that is not in the table has none."""
    domain = call.node.domain
    key = call.node.op_type if domain in ("", "ai.onnx") else f"{domain}.{call.node.op_type}"
    found = _TABLE.get(key)
    return [] if found is None or call.shape(0) is None else found(call)


def output_dtype(op: str, slot: int, dtypes: Sequence[int]) -> int:
    """Element type of an output: that of the first input, but for looked up tables and counts of tokens."""
    if op == "EmbedLayerNormalization":
        return int(ir.DataType.INT32) if slot == 1 else dtypes[2]
    return dtypes[0] if dtypes else 0


def contrib_types(p: Pass, node: ir.Node) -> tuple[Typed | None, ...]:
    """Types of the outputs of an operator that onnx says nothing about; () when it is not known here either.

    Raises:
        BadSizes: The input sizes do not fit the operator.
    """
    typed = [p.typed(v) for v in node.inputs]
    try:
        found = integer_types(node, [t[:2] for t in typed], p.opsets.get("", 1))
    except (shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise BadSizes(f"{node.op_type} {node.name or ''}: {str(error).splitlines()[0]}") from None
    if found:
        return tuple(None if t is None else (*t, "") for t in found)
    known = [p.facts.known.get(v.name or "") if v is not None else None for v in node.inputs]
    shapes = output_shapes(Call(node, [t[1] for t in typed], known))
    dtypes = [t[0] for t in typed]
    return tuple(None if s is None else (output_dtype(node.op_type, k, dtypes), s, "") for k, s in enumerate(shapes))


def as_twin(proto: onnx.NodeProto, schema: defs.OpSchema) -> onnx.NodeProto:
    """The node as its schema knows it: a fused operator without what it adds to its standard twin."""
    if f"{proto.domain}.{proto.op_type}" not in TWINS:
        return proto
    plain = onnx.NodeProto()
    plain.CopyFrom(proto)
    del plain.attribute[:], plain.input[:]
    plain.op_type, plain.domain = schema.name, schema.domain
    plain.attribute.extend(a for a in proto.attribute if a.name in schema.attributes)
    plain.input.extend(proto.input[: schema.max_input])
    return plain


def _grown(call: Call, past: int, new: int) -> int:
    """Tokens in a cache after a step; a shared buffer keeps its length."""
    if call.integer("past_present_share_buffer"):
        return past
    return UNKNOWN if UNKNOWN in (past, new) else past + new


def _per(size: int, heads: int) -> int:
    return size // heads if heads and size != UNKNOWN else UNKNOWN


def _same(call: Call) -> Shapes:
    return [call.shape(0)] * len(call.node.outputs)


def _skip_norm(call: Call) -> Shapes:
    x = call.shape(0) or ()
    statistics = (*x[:-1], 1)
    return [x, statistics, statistics, x]


def _layer_norm(call: Call) -> Shapes:
    x = call.shape(0) or ()
    start = call.integer("axis", -1) % len(x)
    statistics = (*x[:start], *(1 for _ in x[start:]))
    return [x, statistics, statistics]


def _half(call: Call) -> Shapes:
    x = call.shape(0) or ()
    return [(*x[:-1], _per(x[-1], 2))]


def operand_order(rank: int, *, trans: bool, batch: bool) -> list[int]:
    """Axes of a FusedMatMul operand in the order in which the product sees them.

    With ``batch`` the first axis comes behind the batch axes; ``trans`` then swaps the last two.
    """
    order = list(range(rank))
    if rank > 1 and batch:
        order = [*order[1:-1], 0, rank - 1]
    if rank > 1 and trans:
        order[-2:] = order[:-3:-1]
    return order


def _fused_matmul(call: Call) -> Shapes:
    sides = []
    for slot, side in enumerate("AB"):
        shape = call.shape(slot)
        if shape is None:
            return []
        order = operand_order(
            len(shape), trans=bool(call.integer(f"trans{side}")), batch=bool(call.integer(f"transBatch{side}"))
        )
        sides.append([shape[a] for a in order])
    left, right = sides
    batch = [max(a, b) for a, b in zip_longest(left[-3::-1], right[-3::-1], fillvalue=1)][::-1]
    return [(*batch, *left[-2:-1], *(right[-1:] if len(right) > 1 else ()))]


def _embed(call: Call) -> Shapes:
    ids = call.shape(0) or ()
    out = (*ids, call.size(2, 1))
    return [out, ids[:1], out]


def _attention(call: Call) -> Shapes:
    x, heads = call.shape(0) or (), call.integer("num_heads")
    given = call.node.attributes.get("qkv_hidden_sizes")
    sizes = list(given.as_ints()) if given is not None else [_per(call.size(1, 1), 3)] * 3
    past = call.shape(4)
    length = x[1] if past is None else _grown(call, past[3], x[1])
    return [(*x[:2], sizes[2]), (2, x[0], heads, length, _per(sizes[2], heads))]


def _heads(call: Call, slot: int, heads: int) -> tuple[int, int]:
    """Length and head size of a key or value of rank 3 (merged), 4 (heads first) or 5 (packed)."""
    shape = call.shape(slot) or ()
    if len(shape) == 4:
        return shape[2], shape[3]
    if len(shape) == 5:
        return shape[1], shape[4]
    return (shape[1], _per(shape[2], heads)) if len(shape) == 3 else (UNKNOWN, UNKNOWN)


def _multi_head(call: Call, past_slot: int = 6) -> Shapes:
    x, heads = call.shape(0) or (), call.integer("num_heads")
    packed = call.shape(1) is None
    length, dims = _heads(call, 0 if packed else 1, heads)
    width = dims if packed or call.shape(2) is None else _heads(call, 2, heads)[1]
    past = call.shape(past_slot)
    if past is not None:
        length = _grown(call, past[2], length)
    out = UNKNOWN if width == UNKNOWN else heads * width
    return [
        (*x[:2], out),
        (x[0], heads, length, dims),
        (x[0], heads, length, width),
        (x[0], heads, x[1], length),
    ]


def _decoder_masked(call: Call) -> Shapes:
    return _multi_head(call, 5)


def _grouped_query(call: Call) -> Shapes:
    x, heads, kv = call.shape(0) or (), call.integer("num_heads"), call.integer("kv_num_heads")
    packed = call.shape(1) is None
    dims = _per(x[2], heads + 2 * kv if packed else heads)
    past = call.shape(3)
    step = call.known[6] if len(call.known) > 6 else None
    length = UNKNOWN if step is None else int(np.asarray(step).ravel()[0])
    if past is not None:
        length = UNKNOWN if UNKNOWN in (past[2], length) else max(past[2], length)
    cache = (x[0], kv, length, dims)
    return [(*x[:2], UNKNOWN if dims == UNKNOWN else heads * dims), cache, cache]


def _plain_channels(call: Call) -> Shapes:
    """Channels in blocks, padded, back as they were."""
    n, _, *window = call.shape(0) or (UNKNOWN, UNKNOWN)
    channels = call.integer("channels", UNKNOWN)
    return [(n, *window, channels) if call.integer("channels_last") else (n, channels, *window)]


def _linear_attention(call: Call) -> Shapes:
    x, groups = call.shape(0) or (), call.integer("kv_num_heads")
    heads, width = call.integer("q_num_heads"), _per(call.size(2, 2), groups)
    out = UNKNOWN if width == UNKNOWN else max(heads, groups) * width
    return [(*x[:2], out), (x[0], groups, _per(x[2], heads), width)]


def _causal_conv(call: Call) -> Shapes:
    x, kernel = call.shape(0) or (), call.size(1, 2)
    return [x, (*x[:2], UNKNOWN if kernel == UNKNOWN else kernel - 1)]


_SAME = (
    *("GroupNormalization", "Dropout", "MeanVarianceNormalization", "Gelu", "QuickGelu"),
    *(
        f"com.microsoft.{op}"
        for op in (
            "BiasAdd",
            "BiasGelu",
            "BiasSoftmax",
            "FastGelu",
            "Gelu",
            "GroupNorm",
            "QuickGelu",
            "RotaryEmbedding",
            "SkipGroupNorm",
        )
    ),
)
_TABLE: dict[str, Callable[[Call], Shapes]] = {
    **dict.fromkeys(_SAME, _same),
    "SimplifiedLayerNormalization": _layer_norm,
    "com.microsoft.Attention": _attention,
    "com.microsoft.BiasSplitGelu": _half,
    "com.microsoft.CausalConvWithState": _causal_conv,
    "com.microsoft.DecoderMaskedMultiHeadAttention": _decoder_masked,
    "com.microsoft.EmbedLayerNormalization": _embed,
    "com.microsoft.FusedMatMul": _fused_matmul,
    "com.microsoft.GroupQueryAttention": _grouped_query,
    "com.microsoft.LinearAttention": _linear_attention,
    "com.microsoft.MultiHeadAttention": _multi_head,
    "com.microsoft.nchwc.ReorderInput": _same,
    "com.microsoft.nchwc.ReorderOutput": _plain_channels,
    "com.microsoft.SkipLayerNormalization": _skip_norm,
    "com.microsoft.SkipSimplifiedLayerNormalization": _skip_norm,
    "com.microsoft.TransposeMatMul": _fused_matmul,
}
