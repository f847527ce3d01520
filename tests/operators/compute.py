"""Contractions, norms, reductions, recurrent layers."""

from __future__ import annotations

import numpy as np

from tests.operators.case import Array, Case, Sizes, case, one_of

_SUMS = ["ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"]
_STATISTICS = ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSum", "ReduceLogSumExp"]


def _group_norm(inputs: list[Array], kept: list[list[Array]], sizes: Sizes) -> list[Array]:
    """Kept channels of each group, normalised over what is kept."""
    x, scale, bias = (np.asarray(a, np.float64) for a in inputs)
    n, c, h = kept[0]
    per_group = x.shape[1] // sizes["g"]
    out = np.zeros((len(n), len(c), len(h)))
    for k, channel in enumerate(c):
        mates = [j for j in c if j // per_group == channel // per_group]
        group = x[np.ix_(n, mates, h)]
        mean, std = group.mean(axis=(1, 2)), np.sqrt(group.var(axis=(1, 2)) + 1e-5)
        own = channel // per_group if scale.size == sizes["g"] else channel
        value = x[np.ix_(n, [channel], h)][:, 0]
        out[:, k] = (value - mean[:, None]) / std[:, None] * scale[own] + bias[own]
    return [out]


def _recurrent(op: str, gates: int, **more: object) -> Case:
    weights = f"weight 1 {gates}*h i", f"weight 1 {gates}*h h", f"weight 1 {2 * gates}*h"
    return case(
        op, "t b i", *weights, free="h i", zero="h i", hidden_size=lambda d: d["h"],
        outputs=(True,) * (3 if op == "LSTM" else 2), **more,
    )  # fmt: skip


CASES: tuple[Case, ...] = (
    # Matrix products.
    case("MatMul", "n k", "k m", free="n k m", zero="k"),
    case("MatMul", "b n k", "weight k m", free="b n k m", zero="k", note="weight"),
    case("MatMul", "weight n k", "b k m", free="b n k m", zero="k", note="left"),
    case("MatMul", "b 1 n k", "h k m", free="b h n k m", zero="k", note="batch"),
    case("MatMul", "k", "b k m", free="b k m", zero="k", note="vector"),
    case("MatMul", "n k", "k", free="n k", zero="k", note="to_vector"),
    case("Gemm", "n k", "weight k m", "weight m", free="n k m", zero="k"),
    case("Gemm", "k n", "weight m k", "n 1", free="n k m", zero="k", transA=1, transB=1, alpha=0.5, note="transposed"),
    case("Gemm", "n k", "k m", free="n k m", zero="k", note="bare"),
    case("Gemm", "weight n k", "k m", "weight 1 m", free="n k m", zero="k", note="left", opset=7),
    case("Einsum", "b i j", "weight j k", free="b i j k", zero="j", equation="bij,jk->bik"),
    case("Einsum", "b n h d", "b m h d", free="b n m h d", zero="d", equation="bnhd,bmhd->bhnm", note="heads"),
    case("Einsum", "n c", free="n c", zero="c", equation="nc->n", note="sum"),
    case("Einsum", "i j", "j", free="i j", equation="i j , j -> i j", note="scale"),
    case("Einsum", "n k", "k m", free="n k m", zero="k", equation="nk,km", note="implicit"),
    case("Einsum", "m k", "k b", free="m k b", zero="k", equation="mk,kb", note="implicit_order"),
    case("Einsum", "a b n k", "weight k m", free="a b n k m", zero="k", equation="...nk,km->...nm", note="ellipsis"),
    case("Einsum", "1 b n k", "a b k m", free="a b n k m", zero="k", equation="...ik, ...kj", note="ellipsis_implicit"),
    case("Einsum", "c n c", free="c n", equation="cnc->nc", note="diagonal"),
    case("Einsum", "c c", "n", free="c n", zero="c", equation="cc,n->n", note="trace"),
    case("Einsum", "n c", "c n", "weight c m", free="n c m", zero="c", equation="nc,cn,cm->nm", note="three"),
    case("Einsum", "n c", free="n c", zero="n c", equation="nc->", note="scalar"),
    # Convolutions.
    case("Conv", "n i 6", "weight o i 3", "weight o", free="n i o", zero="i", pads=[1, 1]),
    case("Conv", "n i 5 6", "weight o i 3 2", free="n i o", zero="i", strides=[2, 1], note="2d"),
    case("Conv", "n i 6", "o i 3", "o", free="n i o", zero="i", note="computed_kernel"),
    case("Conv", "n i p", "weight o i 1", free="n i o p", zero="i", note="kernel_one"),
    case("Conv", "n c 6", "weight c 1 3", free="n c", group=lambda d: d["c"], note="depthwise"),
    case(
        "Conv", "n g*i 6", "weight g*o i 3", "weight g*o", free="n g i o", zero="g*i",
        group=lambda d: d["g"], note="grouped",
    ),
    case(
        "Conv", "n g 6", "weight g*o 1 3", free="n g o", group=lambda d: d["g"], note="multiplier",
    ),
    case("com.microsoft.FusedConv", "n i 6", "weight o i 3", "weight o", free="n i o", zero="i", activation="Relu"),
    case("ConvTranspose", "n i 5", "weight i o 3", "weight o", free="n i o", zero="i", strides=[2]),
    case(
        "ConvTranspose", "n g*i 5", "weight g*i o 3", "weight g*o", free="n g i o", zero="g*i",
        group=lambda d: d["g"], note="grouped",
    ),
    case("ConvTranspose", "n i 5", "i o 3", free="n i o", zero="i", note="computed_kernel"),
    case("ConvTranspose", "n c 5", "weight c 1 3", free="n c", group=lambda d: d["c"], note="depthwise"),
    case("ConvTranspose", "n i p", "weight i o 1", free="n i o p", zero="i", note="kernel_one"),
    # Windows.
    case("MaxPool", "n c 6", free="n c", kernel_shape=[2]),
    case("MaxPool", "n c h", free="n c h", kernel_shape=[1], note="kernel_one"),
    case("MaxPool", "n c 5 6", free="n c", kernel_shape=[2, 2], outputs=(True, False), note="2d"),
    case("MaxPool", "n c h 6", free="n c h", kernel_shape=[1, 2], auto_pad=one_of("SAME_UPPER", "SAME_LOWER", "VALID"),
         ceil_mode=one_of(0, 1), note="auto_pad"),
    case("MaxPool", "n c 9", free="n c", kernel_shape=[2], dilations=[3], strides=[2], ceil_mode=one_of(0, 1),
         note="dilated"),
    case("AveragePool", "n c h 6", free="n c h", kernel_shape=[1, 3], auto_pad=one_of("SAME_UPPER", "SAME_LOWER"),
         strides=[1, 2], count_include_pad=one_of(0, 1), note="auto_pad"),
    case("AveragePool", "n c h", free="n c", kernel_shape=[1], strides=[2], note="skipping", sizes={"h": 5}),
    case("Conv", "n i h 6", "weight o i 1 3", free="n i o h", zero="i",
         auto_pad=one_of("SAME_UPPER", "SAME_LOWER", "VALID"), note="auto_pad"),
    case("ConvTranspose", "n i 5", "weight i o 3", free="n i o", zero="i", strides=[2], output_shape=[10],
         auto_pad=one_of("SAME_UPPER", "SAME_LOWER"), note="output_shape"),
    case("ConvTranspose", "n i h 5", "weight i o 1 2", free="n i o h", zero="i", strides=[1, 2], output_padding=[0, 1],
         dilations=[1, 2], note="one_axis"),
    case("MaxPool", "n c 5 6", kernel_shape=[2, 2], outputs=(True, True), note="indices"),
    case("AveragePool", "n c 6", free="n c", kernel_shape=[3], strides=[2]),
    case("LpPool", "n c 6", free="n c", kernel_shape=[2]),
    *(case(op, "n c 5 6", free="n c") for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")),
    case("LRN", "n c h 5", free="n h 5", size=3),
    # Norms.
    case("InstanceNormalization", "n c h", "weight c", "weight c", free="n c h", restricted=True),
    case(
        "GroupNormalization", "n g*r h", "weight g*r", "weight g*r", free="n g r h", judge=_group_norm,
        num_groups=lambda d: d["g"], opset=21,
    ),
    case("LayerNormalization", "n t c", "weight c", "weight c", free="n t c", restricted=True),
    case("LayerNormalization", "n t c", "weight t c", free="n t c", restricted=True, axis=1, note="two_axes"),
    case(
        "LayerNormalization", "n t c", "weight c", "", free="n t c", restricted=True, outputs=(True, True, True),
        note="statistics",
    ),
    case("RMSNormalization", "n t c", "weight c", free="n t c", restricted=True, opset=23),
    case("SimplifiedLayerNormalization", "n t c", "weight c", free="n t c", restricted=True, axis=-1),
    case("LpNormalization", "n t c", free="n t c", restricted=True, axis=1, p=2),
    case("LpNormalization", "n t c", free="n t c", restricted=True, p=1, note="default_axis"),
    case("MeanVarianceNormalization", "n c h w", free="n c h w", restricted=True, axes=[0, 2, 3]),
    case("MeanVarianceNormalization", "n c h w", free="n c h w", restricted=True, axes=[1], note="channels"),
    case("Softmax", "n t c", free="n t"),
    case("Softmax", "n t c", free="n c", axis=1, note="middle"),
    case("Softmax", "n t c", free="n", opset=11),
    case("Softmax", "n t c", free="n t", axis=2, opset=11, note="last"),
    case("LogSoftmax", "n t c", free="t c", axis=0),
    case("Hardmax", "n t c", free="n t", axis=-1),
    # Reductions.
    *(case(op, "n t c", [1], free="n t c", zero="t", opset=18) for op in _SUMS),
    *(case(op, "n t c", free="n t c", zero="t", axes=[-2], keepdims=0, opset=11) for op in _SUMS),
    *(case(op, "n t c", [-1, 0], free="n t c", restricted=True, positive=True, keepdims=0) for op in _STATISTICS),
    *(case(op, "n t c", free="n t c", restricted=True, positive=True, axes=[1], opset=11) for op in _STATISTICS),
    case("ReduceLogSum", "n t c", [1], free="n t c", zero="t", opset=18, positive=True, note="axes"),
    case("ReduceSum", "n t c", [], free="n t c", zero="n t c", note="empty_axes", keepdims=one_of(0, 1)),
    case("ReduceSumSquare", "n t c", free="n t c", noop_with_empty_axes=1, note="noop"),
    case("ReduceSum", "n t c", [], free="n t c", noop_with_empty_axes=1, note="noop"),
    case("ReduceSum", "n t c", free="n t c", zero="n t c", keepdims=0, note="all"),
    case("ReduceMean", "n t c", free="n t c", restricted=True, keepdims=0, note="all"),
    case("ReduceSum", "n t c", "indices 1", bound="1", fixed_shape=False, note="computed_axes"),
    # Recurrent layers.
    _recurrent("LSTM", 4),
    _recurrent("GRU", 3),
    _recurrent("RNN", 1),
    _recurrent("GRU", 3, linear_before_reset=1, note="reset_after"),
    case(
        "LSTM", "t b i", "weight 1 4*h i", "weight 1 4*h h", "weight 1 8*h", "", "1 b h", "1 b h", "weight 1 3*h",
        free="h i", zero="h i", hidden_size=lambda d: d["h"], outputs=(True, True, True), note="states",
    ),
    case(
        "GRU", "t b i", "weight 2 3*h i", "weight 2 3*h h", "weight 2 6*h", free="h i", zero="h i",
        hidden_size=lambda d: d["h"], outputs=(True, True), direction="bidirectional", note="bidirectional",
    ),
    case(
        "LSTM", "t b i", "weight 2 4*h i", "weight 2 4*h h", "2 8*h", "", "2 b h", "2 b h", "2 3*h", free="h i",
        zero="h i", hidden_size=lambda d: d["h"], outputs=(True, True, True), direction="bidirectional",
        note="computed_bias",
    ),
)  # fmt: skip
