"""Cases of operators that a module seldom calls by these names: torch.export and its passes write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.aten.case import Case, case

aten = torch.ops.aten


def called(name: str, *rest: Any, **more: Any) -> Callable[..., Any]:
    """A call of an operator with further arguments behind its tensors."""
    op, _, overload = name.partition(".")
    target = getattr(getattr(aten, op), overload) if overload else getattr(aten, op)
    return lambda *tensors: target(*tensors, *rest, **more)


def raw(name: str, *operands: str, rest: tuple[Any, ...] = (), stays: str = "", **sizes: int) -> Case:
    """A case of an operator called as it is."""
    return case(f"aten.{name} of {' '.join(operands)}", called(name, *rest), *operands, stays=stays, **sizes)


def complexed(x: torch.Tensor, name: str) -> Any:
    return torch.view_as_real(getattr(aten, name)(torch.complex(x, x + 1)).resolve_conj())


def spectrum(x: torch.Tensor, name: str) -> torch.Tensor:
    return torch.view_as_real(getattr(torch.fft, name)(x).resolve_conj())


def looked_up(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    return torch.bucketize(x, at.sort().values)


_ONE = """absolute acos acosh angle asin asinh atanh ceil celu cosh deg2rad digamma erfc erfinv exp2 expm1 fix frac
hardshrink isfinite isinf lgamma log10 log1p log2 logit negative positive rad2deg reciprocal sgn signbit sinc sinh
softshrink sqrt tan real conj conj_physical resolve_conj resolve_neg alias detach_copy lift_fresh detach
"""
_TWO = """copysign divide fmax fmin greater greater_equal heaviside ldexp le less less_equal logaddexp2 multiply
nextafter not_equal subtract true_divide xlogy complex polar max.other min.other gt"""
_BITS = (
    "bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift __and__ __xor__ __lshift__ __rshift__"
)

ALL: list[Case] = [
    *(raw(name, "+nc") for name in _ONE.split()),
    *(raw(name, "nc", "+nc") for name in _TWO.split()),
    *(raw(name, "#vnc", "#vnc", v=4) for name in _BITS.split()),
    *(raw(name, "?nc", "?nc") for name in ("logical_or", "logical_xor")),
    raw("bitwise_not", "#vnc", v=4),
    raw("addcdiv", "nc", "nc", "+c"),
    raw("clip", "nc", rest=(0.0,)),
    raw("clamp_max", "nc", rest=(1.0,)),
    raw("full_like", "nc", rest=(2.0,)),
    raw("_to_copy", "nc"),
    raw("_prelu_kernel", "ncW", "=1c1"),
    case(
        "broadcast_tensors", lambda x, y: aten.broadcast_tensors([x, y]), "nct", "=c1"
    ),
    case("imag", lambda x: aten.imag(torch.complex(x, x)), "nc"),
    *(case(f"complex {name}", lambda x, name=name: complexed(x, name), "nc") for name in ("_conj", "conj", "neg")),
    case("fill", lambda x: aten.fill(x, 2.0), "nc"),
    case("zero", aten.zero, "nc"),
    *(raw(f"{n}dropout", "nct", rest=(0.5, False)) for n in ("feature_", "alpha_", "feature_alpha_", "native_")),
    # windows
    raw("convolution", "niHW", "=oi33", "=o", rest=([1, 1], [1, 1], [1, 1], False, [0, 0], 1), stays="HW"),
    raw("convolution", "n(gi)HW", "=(gi)o33", "=(go)", rest=([1, 1], [0, 0], [1, 1], True, [0, 0], 2), stays="HW", g=2),
    raw("conv_transpose3d", "niHWD", "=io333", stays="HWD"),
    raw("max_pool2d_with_indices", "ncHW", rest=([2, 2],), stays="HW"),
    raw("max_pool3d_with_indices", "ncHWD", rest=([2, 2, 2],), stays="HWD"),
    raw("_adaptive_avg_pool2d", "ncHW", rest=([2, 2],), stays="HW"),
    raw("_adaptive_avg_pool3d", "ncHWD", rest=([2, 2, 2],), stays="HWD"),
    raw("adaptive_max_pool1d", "ncW", rest=([2],), stays="W"),
    raw("adaptive_max_pool3d", "ncHWD", rest=([2, 2, 2],), stays="HWD"),
    raw("upsample_nearest1d", "ncW", rest=([5], None), stays="W"),
    raw("upsample_nearest3d", "ncHWD", rest=([5, 5, 5], None), stays="HWD"),
    raw("upsample_bicubic2d", "ncHW", rest=([5, 5], True, None), stays="HW"),
    raw("_upsample_bilinear2d_aa", "ncHW", rest=([5, 5], True, None), stays="HW"),
    raw("_upsample_nearest_exact1d", "ncW", rest=([5], None), stays="W"),
    raw("_upsample_nearest_exact3d", "ncHWD", rest=([5, 5, 5], None), stays="HWD"),
    raw("grid_sampler_2d", "ncHW", "nab2", rest=(0, 0, True), stays="HW"),
    raw("grid_sampler_3d", "ncHWD", "nabe3", rest=(0, 0, True), stays="HWD"),
    raw("native_channel_shuffle", "ncab", rest=(2,), c=6),
    raw("constant_pad_nd", "ncW", rest=([1, 2],)),
    *(raw(f"{mode}_pad1d", "ncW", rest=([1, 2],), stays="W") for mode in ("reflection", "replication")),
    *(raw(f"{mode}_pad2d", "ncHW", rest=([1, 2, 0, 1],), stays="HW") for mode in ("reflection", "replication")),
    *(raw(f"{mode}_pad3d", "ncHWD", rest=([1, 2, 0, 1, 1, 0],), stays="HWD") for mode in ("reflection", "replication")),
    # norms
    raw("_native_batch_norm_legit_no_training", "ncW", "=c", "=c", "=c", "+c", rest=(0.1, 1e-5)),
    raw("native_batch_norm", "ncW", "=c", "=c", "=c", "+c", rest=(False, 0.1, 1e-5)),
    raw("native_layer_norm", "ntc", rest=([8], None, None, 1e-5), c=8),
    raw("_fused_rms_norm", "ntc", rest=([8], None, 1e-5), c=8),
    raw("_softmax", "ntc", rest=(-1, False), stays="c"),
    raw("_log_softmax", "ntc", rest=(-1, False), stays="c"),
    raw("_safe_softmax", "ntc", rest=(-1,), stays="c"),
    raw("_weight_norm_interface", "=oi3", "=o11"),
    # reductions
    *(raw(name, "ncW", rest=([1],)) for name in ("nansum", "nanmean")),
    raw("std_mean.correction", "ncW", rest=([1],), c=14),
    raw("var.correction", "ncW", rest=([1],), c=14),
    raw("min", "nc"),
    raw("aminmax", "nc"),
    raw("norm.ScalarOpt_dim", "ncW", rest=(2, [1])),
    raw("frobenius_norm.dim", "ncW", rest=([1],)),
    *(raw(name, "ncW", rest=(1,), stays="c") for name in ("min.dim", "argmin", "median.dim", "mode", "cumprod",
                                                          "cummax", "cummin", "logcumsumexp")),
    raw("kthvalue", "ncW", rest=(2, 1), stays="c"),
    case("msort", torch.msort, "ncW", stays="n"),
    # layouts
    raw("unsqueeze_copy", "nct", rest=(2,)),
    raw("squeeze_copy", "n1t"),
    raw("ravel", "nct"),
    raw("atleast_1d", "nct"),
    raw("_unsafe_view", "nct", rest=([-1, 6],), t=6),
    raw("view_copy", "nct", rest=([-1, 6],), t=6),
    raw("view_as", "nct", "nct"),
    raw("reshape_as", "nct", "nct"),
    raw("permute_copy", "nct", rest=([2, 0, 1],)),
    raw("transpose_copy.int", "nct", rest=(0, 2)),
    raw("swapdims", "nct", rest=(0, 2)),
    raw("adjoint", "nct"),
    raw("numpy_T", "nct"),
    raw("moveaxis.int", "nct", rest=(0, 2)),
    raw("expand_copy", "1ct", rest=([3, -1, -1],)),
    case("new_zeros", lambda x: x + x.new_zeros(x.shape[1:]), "nct"),
    case("new_full", lambda x: x + x.new_full(x.shape[1:], 2.0), "nct"),
    case("ones", lambda x: x + torch.ones(x.shape[1:]), "nct"),
    case("empty", lambda x: x + torch.empty(x.shape[1:]).fill_(2), "nct"),
    case("new_empty", lambda x: x + x.new_empty(x.shape[1:]).zero_(), "nct"),
    case("concat", lambda x, y: aten.concat([x, y], 1), "nat", "nbt"),
    case("concatenate", lambda x, y: aten.concatenate([x, y], 1), "nat", "nbt"),
    case("hstack", lambda x, y: aten.hstack([x, y]), "nat", "nbt"),
    raw("tensor_split.sections", "nct", rest=(3, 1), c=8),
    raw("split_copy.Tensor", "nct", rest=(3, 1), c=8),
    raw("split_with_sizes_copy", "nct", rest=([3, 5], 1), c=8),
    raw("select_copy.int", "nct", rest=(1, 2), c=6),
    raw("slice_copy.Tensor", "nct", rest=(1, 1, 4), c=6),
    raw("unfold_copy", "ncW", rest=(2, 3, 1), stays="W"),
    raw("triu", "nab", stays="ab"),
    raw("diagonal_copy", "nab", rest=(0, 1, 2), stays="ab"),
    case("ger", aten.ger, "a", "b"),
    # indices
    case("_unsafe_index", lambda x, i: aten._unsafe_index(x, [None, i]), "vct", "#ck", stays="c"),
    case("_unsafe_index_put", lambda x, i, y: aten._unsafe_index_put(x, [i], y), "vct", "#v2", "2ct", stays="v"),
    case("take_along_dim", lambda x, i: aten.take_along_dim(x, i, 1), "nct", "#cnkt", stays="c"),
    case("scatter_reduce", lambda x, i, y: x.scatter_reduce(1, i, y, "amax"), "nct", "#cnkt", "nkt", stays="ck"),
    case("index_fill", lambda x, i: x.index_fill(1, i, 2.0), "nct", "#ck", stays="ck"),
    case("index_reduce", lambda x, i, y: x.index_reduce(1, i, y, "amax"), "nct", "#ck", "nkt", stays="ck"),
    case("bucketize", looked_up, "nc", "k", stays="k"),
    case("one_hot", lambda x: aten.one_hot(x, 7), "#vnc", v=7),
    case("masked_scatter", torch.masked_scatter, "nc", "?nc", "nc", stays="nc"),
    # Fourier
    *(case(f"spectrum {name}", lambda x, name=name: spectrum(x, name), "nab", stays=stays)
      for name, stays in (("fft", "b"), ("ifft", "b"), ("fft2", "ab"), ("ifft2", "ab"), ("rfft2", "ab"),
                          ("fftn", "nab"), ("ifftn", "nab"), ("rfftn", "nab"))),
    *(case(name, lambda x, name=name: getattr(torch.fft, name)(torch.complex(x, x)), "nab", stays=stays, b=6)
      for name, stays in (("irfft", "b"), ("irfft2", "ab"), ("irfftn", "nab"))),
]  # fmt: skip
