"""Attention as one operator, and what comes with it: rotary positions, caches, fused norms and activations."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.operators.case import Array, Case, Sizes, case

_MS = "com.microsoft."


def _heads(d: Sizes) -> int:
    return d["h"]


def _queries(d: Sizes) -> int:
    return d["g"] * d["r"]


def _groups(d: Sizes) -> int:
    return d["g"]


def _lengths(d: Sizes) -> Array:
    return np.full(d["b"], d["t"] - 1, np.int32)


def _total(d: Sizes) -> Array:
    return np.array(d["t"], np.int32)


def _attention(*more: str, **options: Any) -> Case:
    """Three axes: (B, T, heads * dims)."""
    options = {"free": "g r d v", "opset": 23, **options}
    return case(
        "Attention", "b t g*r*d", "b s g*d", "b s g*v", *more, zero="g*r*d g*d",
        q_num_heads=_queries, kv_num_heads=_groups, **options,
    )  # fmt: skip


def _attention4(*more: str, **options: Any) -> Case:
    """Four axes: (B, heads, T, dims)."""
    options = {"free": "g r d v", "opset": 23, **options}
    return case("Attention", "b g*r t d", "b g s d", "b g s v", *more, zero="d", **options)


def _packed(width: str = "h*d+h*d+h*v", **options: Any) -> Case:
    """com.microsoft.Attention, which projects by itself."""
    options = {
        "free": "c h d v", "zero": f"c {width}", "num_heads": _heads,
        "qkv_hidden_sizes": lambda d: [d["h"] * d["d"]] * 2 + [d["h"] * d["v"]], **options,
    }  # fmt: skip
    more = options.pop("more", ())
    return case(f"{_MS}Attention", "b t c", f"weight c {width}", f"weight {width}", *more, **options)


def _multi(*more: Any, **options: Any) -> Case:
    options = {"free": "h d v", "zero": "h*d h*d+h*d+h*v", "num_heads": _heads, **options}
    return case(f"{_MS}MultiHeadAttention", "b t h*d", "b s h*d", "b s h*v", *more, **options)


def _grouped(*inputs: Any, **options: Any) -> Case:
    options = {"free": "g r", "sizes": {"d": 8}, "num_heads": _queries, "kv_num_heads": _groups, **options}
    return case(f"{_MS}GroupQueryAttention", *inputs, **options)


def _linear(*more: Any, op: str = "LinearAttention", **options: Any) -> Case:
    options = {"free": "g r d v", "opset": 27, **options}
    return case(
        op, "b t g*r*d", "b t g*d", "b t g*v", *more, zero="g*r*d g*d", outputs=(True, True), unit=True,
        q_num_heads=_queries, kv_num_heads=_groups, **options,
    )  # fmt: skip


def _ids(high: int) -> Any:
    return lambda d: np.random.default_rng(high).integers(0, high, (2, 4)).astype(np.int32)


def _group_norm(inputs: list[Array], kept: list[list[Array]], sizes: Sizes) -> list[Array]:
    """Kept channels of each group, normalised over what is kept of the sum with skip and bias."""
    boxes = [a[np.ix_(*k)].astype(np.float64) for a, k in zip(inputs, kept, strict=True)]
    x, gamma, beta = boxes[:3]
    s = x + boxes[3][:, None, None] + boxes[4] if len(boxes) > 3 else x
    member = kept[0][3] // (inputs[0].shape[3] // sizes["g"])
    out = np.empty_like(s)
    for group in np.unique(member):
        mates = s[..., member == group]
        mean, var = (f(mates, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.var))
        out[..., member == group] = (mates - mean) / np.sqrt(var + 1e-5)
    out = out * gamma + beta
    return [out / (1 + np.exp(-out)), s] if len(boxes) > 3 else [out]


_SUM: dict[str, Any] = {"free": "b t c", "restricted": True, "outputs": (True, False, False, True)}
_SILU: dict[str, Any] = {"activation": "silu", "outputs": (True, True)}
_BOTH: dict[str, Any] = {"transBatchA": 1, "transBatchB": 1, "transB": 1}
_GQA = ("b t g*r*d", "b t g*d", "b t g*d", "", "", _lengths, _total)
_EQUAL = {"free": "c h d", "qkv_hidden_sizes": None}

CASES: tuple[Case, ...] = (
    # The standard operator.
    _attention(),
    _attention(softcap=2.0, is_causal=1, scale=0.3, note="scale"),
    _attention("b g*r t s", note="mask"),
    _attention("t s", note="shared_mask", opset=24),
    _attention("", "b g p d", "b g p v", outputs=(True, True, True), note="cache"),
    _attention("", "", "", outputs=(True, False, False, True), qk_matmul_output_mode=1, note="scores"),
    _attention(free="d v r", sizes={"g": 1}, note="one_key"),
    _attention(free="d v g", sizes={"r": 1}, note="plain"),
    _attention4(note="four"),
    _attention4("g*r t s", note="four_mask"),
    _attention4("", "b g p d", "b g p v", outputs=(True, True, True), note="four_cache", opset=24),
    _attention4("", "", "", lambda d: np.full(d["b"], d["s"] - 1), opset=24, note="lengths"),
    # onnxruntime's operators.
    _packed(),
    _packed("?3*h*d", **_EQUAL, sizes={"d": 5}, extra=5, unidirectional=1, note="equal"),
    _packed(more=("", "", "b h t t"), scale=0.4, note="bias"),
    _packed("3*h*d", **_EQUAL, more=("", "2 b h p d"), outputs=(True, True), note="cache"),
    _packed(more=(lambda d: np.ones((d["b"], d["t"]), np.int32),), note="mask"),
    _multi(),
    _multi("weight h*d+h*d+h*v", note="bias"),
    _multi("", "", "b h t s", unidirectional=0, note="scores"),
    _multi("", lambda d: np.ones((d["b"], d["s"]), np.int32), scale=0.7, note="mask"),
    case(
        f"{_MS}MultiHeadAttention", "b t h*d", "b s h*d", "b s h*d", "", "", "", "b h p d", "b h p d",
        free="h d", zero="h*d", num_heads=_heads, outputs=(True, True, True), note="cache",
    ),
    case(
        f"{_MS}MultiHeadAttention", "b t h*d", "b h s d", "b h s d", free="h d", zero="h*d d",
        num_heads=_heads, note="cross",
    ),
    case(
        f"{_MS}DecoderMaskedMultiHeadAttention", "b 1 h*d", "b h s d", "b h s d", free="h d", zero="h*d d",
        num_heads=_heads,
    ),
    case(
        f"{_MS}DecoderMaskedMultiHeadAttention", "b 1 h*d", "b 1 h*d", "b 1 h*d", "", "", "b h p d", "b h p d",
        lambda d: np.array([d["p"] - 1], np.int32), "", "", "weight 3*h*d", free="h d", zero="h*d 3*h*d",
        num_heads=_heads, outputs=(True, True, True), past_present_share_buffer=1, note="cache",
    ),
    _grouped(*_GQA, zero="g*r*d g*d", outputs=(True, True, True)),
    _grouped("b t g*r*d+g*d+g*d", *_GQA[3:5], "", "", *_GQA[5:], zero="g*r*d+g*d+g*d", note="packed"),
    # Rotary positions.
    case(
        "RotaryEmbedding", "b h t 2*p", "m p", "m p", "indices b t", free="h p", bound="t", opset=23, sizes={"m": 9},
    ),
    case(
        "RotaryEmbedding", "b t h*p*2", "b t p", "b t p", free="h p", opset=23, num_heads=_heads, interleaved=1,
        note="three",
    ),
    case(
        "RotaryEmbedding", "b h t 2*p+r", "b t p", "b t p", free="h p r", opset=23,
        rotary_embedding_dim=lambda d: 2 * d["p"], note="partial",
    ),
    *(
        case(f"{_MS}RotaryEmbedding", x, "indices b t", "m p", "m p", free="h p", bound="t", sizes={"m": 9}, **more)
        for x, more in (("b h t p*2", {"interleaved": 1}), ("b t h*2*p", {"note": "three"}))
    ),
    # Recurrent attention and caches.
    _linear(update_rule="linear"),
    _linear("", "b t g*d", update_rule="gated", note="gated"),
    _linear("b g d v", "b t g", "b t g", note="gated_delta", scale=0.2),
    _linear("", "", "b t 1", update_rule="delta", note="delta"),
    _linear("b g d v", "b t g", "b t g", op=f"{_MS}LinearAttention", opset=20),
    case("TensorScatter", "b h 9 d", "b h t d", "indices b", free="h d", bound="t", sizes={"t": 4}, opset=24),
    case("TensorScatter", "b 9 d", "b t d", free="d", axis=1, sizes={"t": 4}, opset=24, note="axis"),
    *(
        case(f"{d}CausalConvWithState", "b c t", "weight c 1 3", "weight c", "b c 2", free="c", opset=v, **_SILU)
        for d, v in (("", 27), (_MS, 20))
    ),
    # Fused norms.
    case(f"{_MS}SkipLayerNormalization", "b t c", "b t c", *("weight c",) * 3, **_SUM),
    case(f"{_MS}SkipLayerNormalization", "b t c", "t c", "weight c", free="b t c", restricted=True, note="skip_shared"),
    case(f"{_MS}SkipSimplifiedLayerNormalization", "b t c", "b t c", *("weight c",) * 2, **_SUM),
    case(
        f"{_MS}EmbedLayerNormalization", _ids(5), _ids(3), "weight 5 c", "weight 7 c", "weight 3 c", "weight c",
        "weight c", free="c", restricted=True, outputs=(True, False, True),
    ),
    case(
        f"{_MS}EmbedLayerNormalization", _ids(5), "", "weight 5 c", "weight 7 c", "", "weight c", "weight c",
        free="c", restricted=True, outputs=(True, True), note="two_tables",
    ),
    case(
        f"{_MS}GroupNorm", "n 2 3 g*c", "weight g*c", "weight g*c", free="n g c 2 3", judge=_group_norm,
        groups=_groups, channels_last=1, activation=0,
    ),
    case(
        f"{_MS}SkipGroupNorm", "n 2 3 g*c", "weight g*c", "weight g*c", "n g*c", "weight g*c",
        free="n g c 2 3", judge=_group_norm, groups=_groups, channels_last=1, activation=1, outputs=(True, True),
    ),
    # Fused activations.
    case(f"{_MS}BiasAdd", "n t c", "weight c", "n t c", free="n t c"),
    case(f"{_MS}BiasSplitGelu", "n t 2*c", "weight 2*c", free="n t c"),
    case("SwiGLU", "n c", "n c", free="n c", opset=28),
    case(f"{_MS}BiasGelu", "n t c", "weight c", free="n t c"),
    case(f"{_MS}FastGelu", "n t c", "weight c", free="n t c"),
    case(f"{_MS}FastGelu", "n t c", free="n t c", note="bare"),
    # Fused products.
    case(f"{_MS}FusedMatMul", "b h n k", "b h m k", free="b h n k m", zero="k", transB=1, alpha=0.5),
    case(f"{_MS}FusedMatMul", "b k n", "weight k m", free="b n k m", zero="k", transA=1, note="weight"),
    case(f"{_MS}FusedMatMul", "n b h k", "b h k m", free="b h n k m", zero="k", transBatchA=1, note="batch"),
    case(f"{_MS}FusedMatMul", "n b k", "m b k", free="b n k m", zero="k", note="both", **_BOTH),
    case(f"{_MS}TransposeMatMul", "k n", "k m", free="n k m", zero="k", transA=1),
    case(f"{_MS}FusedGemm", "n k", "weight m k", "weight m", free="n k m", zero="k", transB=1, activation="Relu"),
)  # fmt: skip
